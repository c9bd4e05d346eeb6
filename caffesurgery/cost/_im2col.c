/* Caffe's im2col and col2im over the buffer protocol, without the GIL.
 *
 * Both functions take an image (C x H x W or N x C x H x W) and its columns, float32 or float64,
 * C-contiguous, and write one from the other.  Row (c, kh, kw) of the columns holds what kernel
 * element (kh, kw) meets of channel c at every output position; positions in the padding are zero.
 * Sizes follow Caffe: out = floor((in + 2 pad - (dilation (kernel - 1) + 1)) / stride) + 1.
 *
 * The bounds are worked out once per kernel element instead of once per value: the positions that
 * fall inside the image form one range of rows and one of columns (struct span).
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <limits.h>
#include <stdint.h>
#include <string.h>

/* One axis.  Every value fits an int, as in Caffe, so int64 arithmetic on them cannot overflow. */
struct axis {
    int64_t size, kernel, pad, stride, dilation, out;
};

/* Output positions first <= o < last of one axis meet the image, at o * stride + offset. */
struct span {
    Py_ssize_t first, last, offset;
};

struct plane {
    struct axis h, w;
    Py_ssize_t in_count, out_count; /* values in one channel of the image, in one row of columns */
};

static struct span
meet(const struct axis *axis, int64_t k)
{
    struct span span = {0, 0, 0};
    const int64_t offset = k * axis->dilation - axis->pad;
    const int64_t first = offset >= 0 ? 0 : (-offset + axis->stride - 1) / axis->stride;
    int64_t last = offset < axis->size ? (axis->size - 1 - offset) / axis->stride + 1 : 0;

    if (last > axis->out) {
        last = axis->out;
    }
    if (first < last) {
        span.first = (Py_ssize_t)first;
        span.last = (Py_ssize_t)last;
    }
    span.offset = (Py_ssize_t)offset;
    return span;
}

/* A row of columns up to this size is still in the nearest cache when it is touched again. */
#define SHIFT_BYTES 16384

/* DEFINE_KERNELS(T) makes im2col_T and col2im_T for one channel: image plane <-> kh * kw rows. */
#define DEFINE_KERNELS(T)                                                                          \
    /* Stride 1 and out.w == in.w: a row of columns is the plane shifted, so one copy does; what   \
       it carries around the ends of the image's rows is padding and is cleared afterwards. */     \
    static void shift_##T(const T *image, T *row, const struct plane *p, struct span y,            \
                          struct span x)                                                           \
    {                                                                                              \
        const Py_ssize_t width = (Py_ssize_t)p->w.out;                                             \
        const Py_ssize_t begin = y.first * width + x.first;                                        \
        const Py_ssize_t end = (y.last - 1) * width + x.last;                                      \
        Py_ssize_t oy, ox;                                                                         \
                                                                                                   \
        memset(row, 0, (size_t)begin * sizeof(T));                                                 \
        memcpy(row + begin, image + ((y.first + y.offset) * width + x.first + x.offset),           \
               (size_t)(end - begin) * sizeof(T));                                                 \
        memset(row + end, 0, (size_t)(p->out_count - end) * sizeof(T));                            \
        for (oy = y.first; oy < y.last - 1; oy++) {                                                \
            for (ox = x.last; ox < width + x.first; ox++) {                                        \
                row[oy * width + ox] = 0;                                                          \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    /* Every step-th value; the strides that nets use are constants for the compiler. */           \
    static inline void every_##T(T *restrict to, const T *restrict from, Py_ssize_t count,         \
                                 Py_ssize_t step)                                                  \
    {                                                                                              \
        Py_ssize_t i;                                                                              \
                                                                                                   \
        for (i = 0; i < count; i++) {                                                              \
            to[i] = from[i * step];                                                                \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static void take_##T(T *to, const T *from, Py_ssize_t count, Py_ssize_t step)                  \
    {                                                                                              \
        if (step == 2) {                                                                           \
            every_##T(to, from, count, 2);                                                         \
        } else if (step == 4) {                                                                    \
            every_##T(to, from, count, 4);                                                         \
        } else {                                                                                   \
            every_##T(to, from, count, step);                                                      \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static void gather_##T(const T *image, T *row, const struct plane *p, struct span y,           \
                           struct span x)                                                          \
    {                                                                                              \
        const Py_ssize_t width = (Py_ssize_t)p->w.out, step = (Py_ssize_t)p->w.stride;             \
        Py_ssize_t oy, ox;                                                                         \
                                                                                                   \
        memset(row, 0, (size_t)(y.first * width) * sizeof(T));                                     \
        for (oy = y.first; oy < y.last; oy++) {                                                    \
            T *to = row + oy * width;                                                              \
            const T *from = image + (oy * (Py_ssize_t)p->h.stride + y.offset) * p->w.size;         \
            for (ox = 0; ox < x.first; ox++) {                                                     \
                to[ox] = 0;                                                                        \
            }                                                                                      \
            if (step == 1) {                                                                       \
                memcpy(to + x.first, from + (x.first + x.offset),                                  \
                       (size_t)(x.last - x.first) * sizeof(T));                                    \
            } else {                                                                               \
                take_##T(to + x.first, from + (x.first * step + x.offset), x.last - x.first, step);\
            }                                                                                      \
            for (ox = x.last; ox < width; ox++) {                                                  \
                to[ox] = 0;                                                                        \
            }                                                                                      \
        }                                                                                          \
        memset(row + y.last * width, 0, (size_t)(p->out_count - y.last * width) * sizeof(T));      \
    }                                                                                              \
                                                                                                   \
    static void im2col_##T(const void *source, void *target, const struct plane *p)                \
    {                                                                                              \
        const int shifted = p->h.stride == 1 && p->w.stride == 1 && p->w.out == p->w.size &&       \
                            p->out_count <= SHIFT_BYTES / (Py_ssize_t)sizeof(T);                   \
        T *row = target;                                                                           \
        int64_t ky, kx;                                                                            \
                                                                                                   \
        for (ky = 0; ky < p->h.kernel; ky++) {                                                     \
            const struct span y = meet(&p->h, ky);                                                 \
            for (kx = 0; kx < p->w.kernel; kx++, row += p->out_count) {                            \
                const struct span x = meet(&p->w, kx);                                             \
                if (y.first == y.last || x.first == x.last) {                                      \
                    memset(row, 0, (size_t)p->out_count * sizeof(T));                              \
                } else if (shifted) {                                                              \
                    shift_##T(source, row, p, y, x);                                               \
                } else {                                                                           \
                    gather_##T(source, row, p, y, x);                                              \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static void col2im_##T(const void *source, void *target, const struct plane *p)                \
    {                                                                                              \
        const Py_ssize_t step = (Py_ssize_t)p->w.stride;                                           \
        const T *row = source;                                                                     \
        T *image = target;                                                                         \
        int64_t ky, kx;                                                                            \
        Py_ssize_t oy, ox;                                                                         \
                                                                                                   \
        memset(image, 0, (size_t)p->in_count * sizeof(T));                                         \
        for (ky = 0; ky < p->h.kernel; ky++) {                                                     \
            const struct span y = meet(&p->h, ky);                                                 \
            for (kx = 0; kx < p->w.kernel; kx++, row += p->out_count) {                            \
                const struct span x = meet(&p->w, kx);                                             \
                for (oy = y.first; oy < y.last; oy++) {                                            \
                    const T *from = row + oy * p->w.out;                                           \
                    T *to = image + (oy * (Py_ssize_t)p->h.stride + y.offset) * p->w.size;         \
                    if (step == 1) {                                                               \
                        for (ox = x.first; ox < x.last; ox++) {                                    \
                            to[ox + x.offset] += from[ox];                                         \
                        }                                                                          \
                    } else {                                                                       \
                        for (ox = x.first; ox < x.last; ox++) {                                    \
                            to[ox * step + x.offset] += from[ox];                                  \
                        }                                                                          \
                    }                                                                              \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }

DEFINE_KERNELS(float)
DEFINE_KERNELS(double)

/* Everything one call needs, checked; the two buffers are held until release(). */
struct job {
    Py_buffer image, columns;
    struct plane plane;
    Py_ssize_t channels; /* over the whole batch: channels do not mix */
};

/* 'f' or 'd' for a native float32 or float64 buffer, 0 for anything else. */
static char
element(const Py_buffer *view)
{
    const char *format = view->format == NULL ? "B" : view->format;

    if (*format == '@' || *format == '=') {
        format++;
    }
    return (*format == 'f' || *format == 'd') && format[1] == '\0' ? *format : 0;
}

static int
check_axis(struct axis *axis, const char *name)
{
    int64_t room, extent;

    if (axis->size < 1 || axis->kernel < 1 || axis->pad < 0 || axis->stride < 1 ||
        axis->dilation < 1) {
        PyErr_Format(PyExc_ValueError,
                     "%s: size %lld, kernel %lld, stride %lld and dilation %lld must be at least 1 "
                     "and pad %lld at least 0",
                     name, (long long)axis->size, (long long)axis->kernel,
                     (long long)axis->stride, (long long)axis->dilation, (long long)axis->pad);
        return -1;
    }
    if (axis->size > INT_MAX || axis->kernel > INT_MAX || axis->pad > INT_MAX ||
        axis->stride > INT_MAX || axis->dilation > INT_MAX) {
        PyErr_Format(PyExc_OverflowError, "%s: a value does not fit a 32-bit integer", name);
        return -1;
    }
    room = axis->size + 2 * axis->pad;
    extent = axis->dilation * (axis->kernel - 1) + 1;
    if (extent > room) {
        PyErr_Format(PyExc_ValueError, "%s: the kernel covers %lld, the padded input is %lld",
                     name, (long long)extent, (long long)room);
        return -1;
    }
    axis->out = (room - extent) / axis->stride + 1;
    return 0;
}

/* total *= factor, or -1 with OverflowError; both are positive. */
static int
multiply(Py_ssize_t *total, int64_t factor)
{
    if (factor > PY_SSIZE_T_MAX / *total) {
        PyErr_SetString(PyExc_OverflowError, "the columns do not fit the address space");
        return -1;
    }
    *total *= (Py_ssize_t)factor;
    return 0;
}

static int
check_buffers(struct job *job)
{
    const Py_buffer *image = &job->image, *columns = &job->columns;
    const char *image_at = image->buf, *columns_at = columns->buf;
    struct plane *plane = &job->plane;
    Py_ssize_t expected = image->itemsize;

    if (element(image) == 0 || element(image) != element(columns)) {
        PyErr_SetString(PyExc_ValueError, "image and columns must both be float32 or both float64");
        return -1;
    }
    if ((uintptr_t)image_at % (size_t)image->itemsize != 0 ||
        (uintptr_t)columns_at % (size_t)image->itemsize != 0) {
        PyErr_SetString(PyExc_ValueError, "image and columns must be aligned");
        return -1;
    }
    plane->in_count = (Py_ssize_t)(plane->h.size * plane->w.size);
    plane->out_count = 1;
    if (multiply(&plane->out_count, plane->h.out) < 0 ||
        multiply(&plane->out_count, plane->w.out) < 0 || multiply(&expected, job->channels) < 0 ||
        multiply(&expected, plane->h.kernel) < 0 || multiply(&expected, plane->w.kernel) < 0 ||
        multiply(&expected, plane->out_count) < 0) {
        return -1;
    }
    if (columns->len != expected) {
        PyErr_Format(PyExc_ValueError, "the columns take %zd bytes, the buffer has %zd", expected,
                     columns->len);
        return -1;
    }
    if (image_at < columns_at + columns->len && columns_at < image_at + image->len) {
        PyErr_SetString(PyExc_ValueError, "image and columns share memory");
        return -1;
    }
    return 0;
}

static void
release(struct job *job)
{
    PyBuffer_Release(&job->image);
    PyBuffer_Release(&job->columns);
}

static int
prepare(struct job *job, PyObject *args, int image_is_target)
{
    PyObject *image, *columns;
    Py_ssize_t k[2], p[2], s[2], d[2];
    const int read = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT, write = read | PyBUF_WRITABLE;
    const Py_ssize_t *shape;

    if (!PyArg_ParseTuple(args, "OO(nn)(nn)(nn)(nn)", &image, &columns, &k[0], &k[1], &p[0], &p[1],
                          &s[0], &s[1], &d[0], &d[1])) {
        return -1;
    }
    if (PyObject_GetBuffer(image, &job->image, image_is_target ? write : read) < 0) {
        return -1;
    }
    if (PyObject_GetBuffer(columns, &job->columns, image_is_target ? read : write) < 0) {
        PyBuffer_Release(&job->image);
        return -1;
    }
    if (job->image.ndim != 3 && job->image.ndim != 4) {
        PyErr_Format(PyExc_ValueError, "the image must have 3 or 4 axes, not %d", job->image.ndim);
        goto refuse;
    }
    shape = job->image.shape + job->image.ndim - 3;
    job->channels = job->image.ndim == 4 ? shape[-1] * shape[0] : shape[0];
    job->plane.h = (struct axis){shape[1], k[0], p[0], s[0], d[0], 0};
    job->plane.w = (struct axis){shape[2], k[1], p[1], s[1], d[1], 0};
    if (job->channels < 1) {
        PyErr_SetString(PyExc_ValueError, "the image has no values");
        goto refuse;
    }
    if (check_axis(&job->plane.h, "height") == 0 && check_axis(&job->plane.w, "width") == 0 &&
        check_buffers(job) == 0) {
        return 0;
    }
refuse:
    release(job);
    return -1;
}

static PyObject *
run(PyObject *args, int image_is_target)
{
    struct job job;

    if (prepare(&job, args, image_is_target) < 0) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    {
        const int single = job.image.itemsize == sizeof(float);
        const Py_ssize_t image_step = job.image.len / job.channels;
        const Py_ssize_t columns_step = job.columns.len / job.channels;
        char *image = job.image.buf, *columns = job.columns.buf;
        Py_ssize_t c;

        for (c = 0; c < job.channels; c++, image += image_step, columns += columns_step) {
            if (image_is_target) {
                (single ? col2im_float : col2im_double)(columns, image, &job.plane);
            } else {
                (single ? im2col_float : im2col_double)(image, columns, &job.plane);
            }
        }
    }
    Py_END_ALLOW_THREADS
    release(&job);
    Py_RETURN_NONE;
}

static PyObject *
im2col(PyObject *Py_UNUSED(module), PyObject *args)
{
    return run(args, 0);
}

static PyObject *
col2im(PyObject *Py_UNUSED(module), PyObject *args)
{
    return run(args, 1);
}

static PyMethodDef methods[] = {
    {"im2col", im2col, METH_VARARGS,
     "im2col(image, columns, (kh, kw), (ph, pw), (sh, sw), (dh, dw)): fills columns from image."},
    {"col2im", col2im, METH_VARARGS,
     "col2im(image, columns, (kh, kw), (ph, pw), (sh, sw), (dh, dw)): fills image from columns."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_im2col",
    .m_doc = "Caffe's im2col and col2im on contiguous float32 and float64 buffers.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__im2col(void)
{
    return PyModuleDef_Init(&module);
}
