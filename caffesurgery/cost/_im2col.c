/* Caffe's im2col and col2im over the buffer protocol, without the GIL.
 *
 * Both functions take an image (C x H x W or N x C x H x W) and its columns, float32 or float64,
 * C-contiguous, and write one from the other.  Row (c, kh, kw) of the columns holds what kernel
 * element (kh, kw) meets of channel c at every output position; positions in the padding are zero.
 * Sizes follow Caffe: out = (in + 2 pad - (dilation (kernel - 1) + 1)) / stride + 1, in integers.
 *
 * The bounds are worked out once per kernel element instead of once per value: the positions that
 * fall inside the image form one range of rows and one of columns (struct span).  With a stride, the
 * values of a channel are sorted by their phase first, so that all copies are of values that lie
 * together.  Threads share the rows of im2col and the channels of col2im.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SSE2__) || defined(_M_X64)
#include <emmintrin.h>
#define HAVE_STREAM 1
#else
#define HAVE_STREAM 0
#endif

#ifndef _WIN32
#include <pthread.h>
#define HAVE_PTHREAD
#endif

/* How many threads a call can be given; their state lies on its stack. */
#define MOST_THREADS 256
/* Columns for which it is worth starting one more thread. */
#define THREAD_BYTES (4 << 20)
/* Columns that no cache holds until they are read: they are written past it. */
#ifndef STREAM_BYTES
#define STREAM_BYTES (20 << 20)
#endif

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
    Py_ssize_t part; /* values of an image's row with one x % stride; 0: not worth sorting */
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

/* What is still in the nearest cache when it is touched again. */
#define NEAR_BYTES 16384

/* Everything one call needs, checked; the two buffers are held until release(). */
struct job {
    Py_buffer image, columns;
    struct plane plane;
    Py_ssize_t channels; /* over the whole batch: channels do not mix */
    Py_ssize_t threads;
    int stream;
};

#if HAVE_STREAM
/* A copy that does not fetch the target's cache lines before it writes them. */
static void
stream(void *target, const void *source, size_t bytes)
{
    char *to = target;
    const char *from = source;
    size_t head = (size_t)(-(uintptr_t)to % sizeof(__m128i));

    head = head < bytes ? head : bytes;
    memcpy(to, from, head);
    for (to += head, from += head, bytes -= head; bytes >= 16; to += 16, from += 16, bytes -= 16) {
        _mm_stream_si128((__m128i *)(void *)to, _mm_loadu_si128((const __m128i *)(const void *)from));
    }
    memcpy(to, from, bytes);
}
#else
#define stream memcpy
#define _mm_sfence()
#endif

/* DEFINE_KERNELS(T): im2col_T and col2im_T, what one thread does of a job. */
#define DEFINE_KERNELS(T)                                                                          \
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
        if (step == 1) {                                                                           \
            memcpy(to, from, (size_t)count * sizeof(T));                                           \
        } else if (step == 2) {                                                                    \
            every_##T(to, from, count, 2);                                                         \
        } else if (step == 4) {                                                                    \
            every_##T(to, from, count, 4);                                                         \
        } else {                                                                                   \
            every_##T(to, from, count, step);                                                      \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    /* The plane with each row's values sorted by x % stride: what a kernel element meets of a     \
       row then lies together. */                                                                  \
    static void sort_##T(const T *image, T *sorted, const struct plane *p)                         \
    {                                                                                              \
        const Py_ssize_t step = (Py_ssize_t)p->w.stride, width = (Py_ssize_t)p->w.size;            \
        Py_ssize_t y, phase;                                                                       \
                                                                                                   \
        for (y = 0; y < p->h.size; y++, image += width) {                                          \
            for (phase = 0; phase < step; phase++, sorted += p->part) {                            \
                take_##T(sorted, image + phase, (width - phase + step - 1) / step, step);          \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
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
    /* Output rows begin..end - 1 into ``to``; ``sorted`` is NULL, or the plane as sort_T leaves    \
       it. */                                                                                      \
    static void gather_##T(const T *image, const T *sorted, T *to, const struct plane *p,          \
                           struct span y, struct span x, Py_ssize_t begin, Py_ssize_t end)         \
    {                                                                                              \
        const Py_ssize_t width = (Py_ssize_t)p->w.out, stride = (Py_ssize_t)p->w.stride;           \
        const Py_ssize_t left = x.first * stride + x.offset, count = x.last - x.first;             \
        const Py_ssize_t step = sorted == NULL ? stride : 1;                                       \
        const Py_ssize_t pitch = sorted == NULL ? (Py_ssize_t)p->w.size : stride * p->part;        \
        const T *from = sorted == NULL ? image + left                                              \
                                       : sorted + left % stride * p->part + left / stride;         \
        Py_ssize_t oy, ox;                                                                         \
                                                                                                   \
        for (oy = begin; oy < end; oy++, to += width) {                                            \
            if (oy < y.first || oy >= y.last) {                                                    \
                memset(to, 0, (size_t)width * sizeof(T));                                          \
                continue;                                                                          \
            }                                                                                      \
            for (ox = 0; ox < x.first; ox++) {                                                     \
                to[ox] = 0;                                                                        \
            }                                                                                      \
            take_##T(to + x.first, from + (oy * (Py_ssize_t)p->h.stride + y.offset) * pitch,       \
                     count, step);                                                                 \
            for (ox = x.last; ox < width; ox++) {                                                  \
                to[ox] = 0;                                                                        \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    /* One row of columns, which meets the image somewhere: there at once, or, where it is to be   \
       streamed, in pieces that are made in ``near``. */                                           \
    static void row_##T(const T *image, const T *sorted, T *row, T *near, const struct plane *p,   \
                        struct span y, struct span x)                                              \
    {                                                                                              \
        const Py_ssize_t width = (Py_ssize_t)p->w.out, high = (Py_ssize_t)p->h.out;                \
        const Py_ssize_t room = NEAR_BYTES / (Py_ssize_t)sizeof(T);                                \
        const Py_ssize_t band = near == NULL ? high : room / width;                                \
        const int shifted = p->h.stride == 1 && p->w.stride == 1 && p->w.out == p->w.size &&       \
                            p->out_count <= room;                                                  \
        Py_ssize_t oy, end;                                                                        \
                                                                                                   \
        for (oy = 0; oy < high; oy = end) {                                                        \
            T *to = near == NULL ? row + oy * width : near;                                        \
            end = oy + band < high ? oy + band : high;                                             \
            if (shifted) {                                                                         \
                shift_##T(image, to, p, y, x);                                                     \
            } else {                                                                               \
                gather_##T(image, sorted, to, p, y, x, oy, end);                                   \
            }                                                                                      \
            if (near != NULL) {                                                                    \
                stream(row + oy * width, near, (size_t)((end - oy) * width) * sizeof(T));          \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    /* Kernel rows first..last - 1, counted through all channels. */                               \
    static void im2col_##T(const struct job *job, Py_ssize_t first, Py_ssize_t last)               \
    {                                                                                              \
        const struct plane *p = &job->plane;                                                       \
        const Py_ssize_t high = (Py_ssize_t)p->h.kernel, wide = (Py_ssize_t)p->w.kernel;           \
        T near[NEAR_BYTES / sizeof(T)];                                                            \
        T *row = (T *)job->columns.buf + first * wide * p->out_count;                              \
        T *sorted = p->part ? malloc((size_t)(p->h.size * p->w.stride * p->part) * sizeof(T))      \
                            : NULL; /* without memory the values are gathered one by one */        \
        Py_ssize_t unit, kx, met = -1;                                                             \
                                                                                                   \
        for (unit = first; unit < last; unit++) {                                                  \
            const struct span y = meet(&p->h, unit % high);                                        \
            const T *image = (const T *)job->image.buf + unit / high * p->in_count;                \
            if (sorted != NULL && met != unit / high) {                                            \
                met = unit / high;                                                                 \
                sort_##T(image, sorted, p);                                                        \
            }                                                                                      \
            for (kx = 0; kx < wide; kx++, row += p->out_count) {                                   \
                const struct span x = meet(&p->w, kx);                                             \
                if (y.first == y.last || x.first == x.last) {                                      \
                    memset(row, 0, (size_t)p->out_count * sizeof(T));                              \
                } else {                                                                           \
                    row_##T(image, sorted, row, job->stream ? near : NULL, p, y, x);               \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
        _mm_sfence();                                                                              \
        free(sorted);                                                                              \
    }                                                                                              \
                                                                                                   \
    static inline void add_##T(T *restrict to, const T *restrict from, Py_ssize_t count,           \
                               Py_ssize_t step)                                                    \
    {                                                                                              \
        Py_ssize_t i;                                                                              \
                                                                                                   \
        for (i = 0; i < count; i++) {                                                              \
            to[i * step] += from[i];                                                               \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    /* Channels first..last - 1. */                                                                \
    static void col2im_##T(const struct job *job, Py_ssize_t first, Py_ssize_t last)               \
    {                                                                                              \
        const struct plane *p = &job->plane;                                                       \
        const Py_ssize_t step = (Py_ssize_t)p->w.stride, width = (Py_ssize_t)p->w.out;             \
        const Py_ssize_t high = (Py_ssize_t)p->h.kernel, wide = (Py_ssize_t)p->w.kernel;           \
        const T *row = (const T *)job->columns.buf + first * high * wide * p->out_count;           \
        T *image = (T *)job->image.buf + first * p->in_count;                                      \
        Py_ssize_t c, ky, kx, oy;                                                                  \
                                                                                                   \
        memset(image, 0, (size_t)((last - first) * p->in_count) * sizeof(T));                      \
        for (c = first; c < last; c++, image += p->in_count) {                                     \
            for (ky = 0; ky < high; ky++) {                                                        \
                const struct span y = meet(&p->h, ky);                                             \
                for (kx = 0; kx < wide; kx++, row += p->out_count) {                               \
                    const struct span x = meet(&p->w, kx);                                         \
                    const Py_ssize_t begin = x.first * step + x.offset, count = x.last - x.first;  \
                    for (oy = y.first; oy < y.last && count > 0; oy++) {                           \
                        const T *from = row + oy * width + x.first;                                \
                        T *to = image + (oy * (Py_ssize_t)p->h.stride + y.offset) * p->w.size;     \
                        if (step == 1) {                                                           \
                            add_##T(to + begin, from, count, 1);                                   \
                        } else {                                                                   \
                            add_##T(to + begin, from, count, step);                                \
                        }                                                                          \
                    }                                                                              \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }

DEFINE_KERNELS(float)
DEFINE_KERNELS(double)

/* A range of a job's units for one thread. */
struct share {
    void (*work)(const struct job *, Py_ssize_t, Py_ssize_t);
    const struct job *job;
    Py_ssize_t first, last;
};

static void *
work(void *argument)
{
    const struct share *share = argument;

    share->work(share->job, share->first, share->last);
    return NULL;
}

/* Units 0..units - 1, in as many threads as were asked for and are worth starting. */
static void
work_in_threads(const struct job *job, void (*kernel)(const struct job *, Py_ssize_t, Py_ssize_t),
                Py_ssize_t units)
{
    struct share shares[MOST_THREADS];
    const Py_ssize_t worth = 1 + job->columns.len / THREAD_BYTES;
    Py_ssize_t count = job->threads < units ? job->threads : units, i;

    count = worth < count ? worth : count;
    for (i = 0; i < count; i++) {
        shares[i].work = kernel;
        shares[i].job = job;
        shares[i].first = units / count * i + (i < units % count ? i : units % count);
        shares[i].last = shares[i].first + units / count + (i < units % count);
    }
#ifdef HAVE_PTHREAD
    {
        pthread_t threads[MOST_THREADS];
        int started[MOST_THREADS];

        for (i = 1; i < count; i++) {
            started[i] = pthread_create(&threads[i], NULL, work, &shares[i]) == 0;
        }
        work(&shares[0]);
        for (i = 1; i < count; i++) {
            if (started[i]) {
                pthread_join(threads[i], NULL);
            } else {
                work(&shares[i]);
            }
        }
    }
#else
    for (i = 0; i < count; i++) {
        work(&shares[i]);
    }
#endif
}

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
    if (extent - room >= axis->stride) {
        PyErr_Format(PyExc_ValueError, "%s: the kernel covers %lld, the padded input is %lld",
                     name, (long long)extent, (long long)room);
        return -1;
    }
    axis->out = (room - extent) / axis->stride + 1; /* rounds towards zero, as Caffe's does */
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
    job->stream = HAVE_STREAM && expected > STREAM_BYTES &&
                  plane->w.out <= NEAR_BYTES / (int64_t)image->itemsize;
    plane->part = 0;
    if (plane->w.stride > 1 && plane->w.stride <= plane->w.size &&
        plane->h.kernel * plane->w.kernel * plane->out_count > 2 * plane->in_count) {
        plane->part = (Py_ssize_t)((plane->w.size + plane->w.stride - 1) / plane->w.stride);
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
    Py_ssize_t k[2], p[2], s[2], d[2], threads = 1;
    const int read = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT, write = read | PyBUF_WRITABLE;
    const Py_ssize_t *shape;

    if (!PyArg_ParseTuple(args, "OO(nn)(nn)(nn)(nn)|n", &image, &columns, &k[0], &k[1], &p[0], &p[1],
                          &s[0], &s[1], &d[0], &d[1], &threads)) {
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
    if (threads < 1 || threads > MOST_THREADS) {
        PyErr_Format(PyExc_ValueError, "threads is %zd, it must be 1 to %d", threads, MOST_THREADS);
        goto refuse;
    }
    job->threads = threads;
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

        if (image_is_target) {
            work_in_threads(&job, single ? col2im_float : col2im_double, job.channels);
        } else {
            work_in_threads(&job, single ? im2col_float : im2col_double,
                            job.channels * (Py_ssize_t)job.plane.h.kernel);
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
     "im2col(image, columns, (kh, kw), (ph, pw), (sh, sw), (dh, dw), threads=1): "
     "fills columns from image."},
    {"col2im", col2im, METH_VARARGS,
     "col2im(image, columns, (kh, kw), (ph, pw), (sh, sw), (dh, dw), threads=1): "
     "fills image from columns."},
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
