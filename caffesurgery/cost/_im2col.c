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

#ifndef _WIN32
#include <pthread.h>
#define HAVE_PTHREAD
#endif

/* How many threads a call can be given; their state lies on its stack. */
#define MOST_THREADS 256
/* Columns for which it is worth starting one more thread. */
#define THREAD_BYTES (4 << 20)

#include "_im2col_geometry.h"

#define T float
#define NAME(x) x##_float
#include "_im2col_kernels.h"
#undef T
#undef NAME
#define T double
#define NAME(x) x##_double
#include "_im2col_kernels.h"
#undef T
#undef NAME

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
    job->far = expected > FAR_BYTES;
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
