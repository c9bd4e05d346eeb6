/* Depthwise convolutions of float32 images and their derivatives, directly: no columns are written.
 *
 * images (N, C, H, W), kernels (C, kh, kw) and tops (N, C, OH, OW), C-contiguous, sizes as in
 * Caffe: out = (in + 2 pad - (dilation (kernel - 1) + 1)) / stride + 1, in integers.
 *
 * With a stride, the positions that meet the image are for each element of a kernel a range of rows
 * and one of columns (struct span), and the innermost loop runs over a row without a condition.
 * Without one, a plane is copied with its padding and the top is laid out in rows as long as those:
 * then all that an element of the kernel meets is one run, of the whole plane.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Sizes of planes with their padding that are worth a copy. */
#define MOST_PADDED (1 << 12)

/* One axis; every value fits an int, so that int64 arithmetic on them cannot overflow. */
struct axis {
    int64_t size, kernel, pad, stride, dilation, out;
};

/* Positions first <= o < last of a top's axis meet the image, at o * stride + offset. */
struct span {
    int64_t first, last, offset;
};

enum { IMAGES, KERNELS, TOPS };

struct call {
    Py_buffer views[3];
    struct axis h, w;
    Py_ssize_t planes, channels;
};

/* What a row of a top does with the row of an image that one element of the kernel meets. */
typedef void row(float *tap, float *image, float *top, Py_ssize_t count, Py_ssize_t stride);

/* Adds a multiple of numbers to others; the stride is of one of them, 1 of the other. */
static inline void
add(float factor, const float *from, Py_ssize_t from_stride, float *to, Py_ssize_t to_stride,
    Py_ssize_t count)
{
    Py_ssize_t x;

    if (from_stride == 1 && to_stride == 1) {
        for (x = 0; x < count; x++) {
            to[x] += factor * from[x];
        }
        return;
    }
    for (x = 0; x < count; x++) {
        to[x * to_stride] += factor * from[x * from_stride];
    }
}

static inline void
make_top(float *tap, float *image, float *top, Py_ssize_t count, Py_ssize_t stride)
{
    add(*tap, image, stride, top, 1, count);
}

static inline void
derive_image(float *tap, float *image, float *top, Py_ssize_t count, Py_ssize_t stride)
{
    add(*tap, top, 1, image, stride, count);
}

static inline void
derive_kernel(float *tap, float *image, float *top, Py_ssize_t count, Py_ssize_t stride)
{
    float sums[8] = {0}, sum = 0;
    Py_ssize_t x = 0, i;

    for (; stride == 1 && x + 8 <= count; x += 8) {
        for (i = 0; i < 8; i++) {
            sums[i] += image[x + i] * top[x + i];
        }
    }
    for (; x < count; x++) {
        sum += image[x * stride] * top[x];
    }
    for (i = 0; i < 8; i++) {
        sum += sums[i];
    }
    *tap += sum;
}

static struct span
meet(const struct axis *axis, int64_t k)
{
    struct span span = {0, 0, k * axis->dilation - axis->pad};
    const int64_t first = span.offset >= 0 ? 0 : (-span.offset + axis->stride - 1) / axis->stride;
    int64_t last = span.offset < axis->size ? (axis->size - 1 - span.offset) / axis->stride + 1 : 0;

    last = last > axis->out ? axis->out : last;
    if (first < last) {
        span.first = first;
        span.last = last;
    }
    return span;
}

/* One plane, row by row. */
static inline void
by_rows(const struct call *call, float *image, float *kernel, float *top, row *one)
{
    int64_t i, j, y;

    for (i = 0; i < call->h.kernel; i++) {
        const struct span rows = meet(&call->h, i);
        for (j = 0; j < call->w.kernel; j++, kernel++) {
            const struct span found = meet(&call->w, j);
            const int64_t count = found.last - found.first;
            const int64_t start = found.first * call->w.stride + found.offset;
            for (y = rows.first; count > 0 && y < rows.last; y++) {
                const int64_t line = y * call->h.stride + rows.offset;
                one(kernel, image + line * call->w.size + start,
                    top + y * call->w.out + found.first, (Py_ssize_t)count,
                    (Py_ssize_t)call->w.stride);
            }
        }
    }
}

/* Rows of a plane to rows of another length. */
static void
copy_rows(float *to, int64_t to_length, const float *from, int64_t from_length, int64_t rows,
          int64_t count)
{
    int64_t y;

    for (y = 0; y < rows; y++) {
        memcpy(to + y * to_length, from + y * from_length, (size_t)count * sizeof(float));
    }
}

/* One plane of stride 1 through its padded forms in ``room``. */
static inline void
at_once(const struct call *call, float *image, float *kernel, float *top, row *one, int target,
        float *room)
{
    const int64_t length = call->w.size + 2 * call->w.pad, rows = call->h.size + 2 * call->h.pad;
    const int64_t run = (call->h.out - 1) * length + call->w.out;
    float *padded = room, *wide = room + rows * length;
    float *inside = padded + call->h.pad * length + call->w.pad;
    int64_t i, j;

    memset(room, 0, (size_t)((rows + call->h.out) * length) * sizeof(float));
    if (target != IMAGES) {
        copy_rows(inside, length, image, call->w.size, call->h.size, call->w.size);
    }
    if (target != TOPS) {
        copy_rows(wide, length, top, call->w.out, call->h.out, call->w.out);
    }
    for (i = 0; i < call->h.kernel; i++) {
        for (j = 0; j < call->w.kernel; j++, kernel++) {
            const int64_t offset = i * call->h.dilation * length + j * call->w.dilation;
            one(kernel, padded + offset, wide, (Py_ssize_t)run, 1);
        }
    }
    if (target == IMAGES) {
        copy_rows(image, call->w.size, inside, length, call->h.size, call->w.size);
    } else if (target == TOPS) {
        copy_rows(top, call->w.out, wide, length, call->h.out, call->w.out);
    }
}

/* Room for ``at_once``, or NULL where it cannot be used. */
static float *
padded_room(const struct call *call)
{
    const struct axis *h = &call->h, *w = &call->w;
    const int64_t rows = h->size + 2 * h->pad, length = w->size + 2 * w->pad;
    const int whole = h->out == rows - h->dilation * (h->kernel - 1) &&
                      w->out == length - w->dilation * (w->kernel - 1);

    if (h->stride != 1 || w->stride != 1 || !whole || rows > MOST_PADDED || length > MOST_PADDED) {
        return NULL;
    }
    return malloc((size_t)((rows + h->out) * length) * sizeof(float));
}

static inline void
all_planes(const struct call *call, row *one, int target)
{
    const int64_t taps = call->h.kernel * call->w.kernel;
    float *images = call->views[IMAGES].buf, *kernels = call->views[KERNELS].buf;
    float *tops = call->views[TOPS].buf, *room = padded_room(call);
    Py_ssize_t plane;

    memset(call->views[target].buf, 0, (size_t)call->views[target].len);
    for (plane = 0; plane < call->planes; plane++) {
        float *image = images + plane * call->h.size * call->w.size;
        float *top = tops + plane * call->h.out * call->w.out;
        float *kernel = kernels + plane % call->channels * taps;

        if (room != NULL) {
            at_once(call, image, kernel, top, one, target, room);
        } else {
            by_rows(call, image, kernel, top, one);
        }
    }
    free(room);
}

/* -1 with an error where one axis is not as it must be. */
static int
check_axis(const struct axis *axis, const char *name)
{
    if (axis->size < 1 || axis->kernel < 1 || axis->pad < 0 || axis->stride < 1 ||
        axis->dilation < 1 || axis->size > INT_MAX || axis->kernel > INT_MAX ||
        axis->pad > INT_MAX || axis->stride > INT_MAX || axis->dilation > INT_MAX) {
        PyErr_Format(PyExc_ValueError, "%s: sizes, pads, strides or dilations out of range", name);
        return -1;
    }
    if (axis->out < 1 || (axis->size + 2 * axis->pad - (axis->dilation * (axis->kernel - 1) + 1)) <
                             (axis->out - 1) * axis->stride) {
        PyErr_Format(PyExc_ValueError, "%s: the tops are larger than the window allows", name);
        return -1;
    }
    return 0;
}

/* -1 with an error where the three arrays do not fit each other. */
static int
check(struct call *call)
{
    static const char *const names[] = {"images", "kernels", "tops"};
    static const int axes[] = {4, 3, 4};
    const Py_ssize_t *images, *kernels, *tops;
    int i;

    for (i = 0; i < 3; i++) {
        const Py_buffer *view = &call->views[i];
        const char *format = view->format == NULL ? "B" : view->format;
        if (strcmp(format, "f") != 0 || view->ndim != axes[i] ||
            (uintptr_t)view->buf % sizeof(float) != 0) {
            PyErr_Format(PyExc_ValueError, "the %s must be float32 with %d axes", names[i], axes[i]);
            return -1;
        }
    }
    images = call->views[IMAGES].shape;
    kernels = call->views[KERNELS].shape;
    tops = call->views[TOPS].shape;
    if (images[1] < 1 || images[1] != kernels[0] || images[1] != tops[1] || images[0] != tops[0]) {
        PyErr_SetString(PyExc_ValueError, "images, kernels and tops differ in items or channels");
        return -1;
    }
    call->channels = images[1];
    call->planes = images[0] * images[1];
    call->h.size = images[2];
    call->w.size = images[3];
    call->h.kernel = kernels[1];
    call->w.kernel = kernels[2];
    call->h.out = tops[2];
    call->w.out = tops[3];
    return check_axis(&call->h, "height") < 0 ? -1 : check_axis(&call->w, "width");
}

/* Goes through all planes; target: which of the arrays is written. */
static PyObject *
carry_out(PyObject *args, int target)
{
    struct call call;
    PyObject *arrays[3];
    Py_ssize_t p[2], s[2], d[2];
    int held, fits = 0;

    if (!PyArg_ParseTuple(args, "OOO(nn)(nn)(nn)", &arrays[IMAGES], &arrays[KERNELS], &arrays[TOPS],
                          &p[0], &p[1], &s[0], &s[1], &d[0], &d[1])) {
        return NULL;
    }
    call.h = (struct axis){0, 0, p[0], s[0], d[0], 0};
    call.w = (struct axis){0, 0, p[1], s[1], d[1], 0};
    for (held = 0; held < 3; held++) {
        const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (held == target ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(arrays[held], &call.views[held], flags) < 0) {
            break;
        }
    }
    if (held == 3 && check(&call) == 0) {
        fits = 1;
        Py_BEGIN_ALLOW_THREADS
        if (target == TOPS) {
            all_planes(&call, make_top, TOPS);
        } else if (target == IMAGES) {
            all_planes(&call, derive_image, IMAGES);
        } else {
            all_planes(&call, derive_kernel, KERNELS);
        }
        Py_END_ALLOW_THREADS
    }
    while (held > 0) {
        PyBuffer_Release(&call.views[--held]);
    }
    if (!fits) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
py_tops(PyObject *Py_UNUSED(module), PyObject *args)
{
    return carry_out(args, TOPS);
}

static PyObject *
py_images(PyObject *Py_UNUSED(module), PyObject *args)
{
    return carry_out(args, IMAGES);
}

static PyObject *
py_kernels(PyObject *Py_UNUSED(module), PyObject *args)
{
    return carry_out(args, KERNELS);
}

static PyMethodDef methods[] = {
    {"tops", py_tops, METH_VARARGS,
     "tops(images, kernels, tops, (ph, pw), (sh, sw), (dh, dw)): fills tops."},
    {"images", py_images, METH_VARARGS,
     "images(images, kernels, tops, ...): fills images with the slopes by them, from those by tops."},
    {"kernels", py_kernels, METH_VARARGS,
     "kernels(images, kernels, tops, ...): fills kernels with the slopes by them, of all items."},
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
    .m_name = "_depthwise",
    .m_doc = "Depthwise convolutions and their derivatives on contiguous float32 buffers.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__depthwise(void)
{
    return PyModuleDef_Init(&module);
}
