/* One component of the tensor power method, without the GIL, by BLAS or by a team of threads.
 *
 * By BLAS it makes the calls that power.py's _Merged and _Separate make, on the same buffers in the
 * same order, so that the results are equal to the bit.  On kernels of some hundred kilobytes a
 * product takes no longer than calling it from Python does.  A team, of one thread or several,
 * makes the products itself; its threads share the outputs.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "_power_blas.h"
#include "_power_team.h"
#include "_power_search.h"
#include "_power_helpers.h"

/* Numbers of memory for the vectors that a thread has for itself: as in _Merged.__init__. */
static int64_t
own_size(const struct search *s)
{
    const int64_t K = (int64_t)s->D * s->E, room = s->S > K ? s->S : K;

    return (2 * (s->S + K + s->D + s->E + room) + K + s->T + 2 * APART - 1) / APART * APART;
}

/* The share of a thread in the kernel ``whole``, and where its vectors lie in ``memory``: as in
   _Merged.__init__. */
static void
lay_out(const struct search *whole, struct team *team, int rank, float *memory)
{
    struct search *s = &team->members[rank];
    const int first = (int)((int64_t)whole->T * rank / team->count);
    const int end = (int)((int64_t)whole->T * (rank + 1) / team->count);

    *s = *whole;
    s->rank = rank;
    s->team = team;
    s->T = end - first;
    s->TS = s->T * s->S;
    s->residual += (Py_ssize_t)first * s->S;
    s->pairs = memory + (Py_ssize_t)s->K * first;
    s->plane = memory + (Py_ssize_t)s->K * whole->T + (Py_ssize_t)first * s->S;
    memory += ((Py_ssize_t)s->K + s->S) * whole->T;
    s->outputs = memory + first;
    s->inputs = memory + whole->T + rank * own_size(whole);
    s->image = s->inputs + s->S;
    s->shape = s->image + s->K;
    s->vertical = s->shape + s->K;
    s->horizontal = s->vertical + s->D;
    s->best = s->horizontal + s->E;
    s->slots = s->best + s->S + whole->T + s->K + s->D + s->E;
    s->room = s->S > s->K ? s->S : s->K;
}

/* Does what the team is for in so many threads, or as many as can be had. */
static void
work_together(struct search *whole, struct team *team, int threads, float *memory)
{
    struct helper *others[MOST_THREADS];
    int rank;

    team->blas = threads == 0 || !HAVE_TEAM;
    team->count = gather(others, threads);
    prepare(whole);
    for (rank = 0; rank < team->count; rank++) {
        lay_out(whole, team, rank, memory);
    }
    for (rank = 1; rank < team->count; rank++) {
        give(others[rank], &team->members[rank]);
    }
    seek(&team->members[0]);
    for (rank = 1; rank < team->count; rank++) {
        await(&team->members[rank]);
    }
}

/* The sizes into ``s``; -1 with an error where the buffers are not of these. */
static int
measure(struct search *s, int threads, const Py_buffer *residual, const Py_buffer *work,
        const Py_buffer *patterns)
{
    const int64_t K = (int64_t)s->D * s->E, size = (int64_t)sizeof(float);

    if (s->T < 1 || s->S < 1 || s->D < 1 || s->E < 1 || s->polish < 1 || s->sweeps < 1) {
        PyErr_SetString(PyExc_ValueError, "every size and count must be at least 1");
        return -1;
    }
    if (threads < 0 || threads > MOST_THREADS || threads > s->T) {
        PyErr_Format(PyExc_ValueError, "threads is %d, it must be 0 to %d and at most T", threads,
                     MOST_THREADS);
        return -1;
    }
    if (K > INT_MAX || K * s->T > INT_MAX || (int64_t)s->T * s->S > INT_MAX) {
        PyErr_SetString(PyExc_OverflowError, "the kernel is too large for BLAS");
        return -1;
    }
    if (residual->len / size != K * s->T * s->S || residual->len % size != 0 ||
        work->len != ((K + s->S + 1) * s->T + (threads ? threads : 1) * own_size(s)) * size ||
        patterns->len < K * size || patterns->len % (K * size) != 0) {
        PyErr_SetString(PyExc_ValueError, "the buffers do not fit the sizes");
        return -1;
    }
    if ((uintptr_t)residual->buf % sizeof(float) != 0 ||
        (uintptr_t)work->buf % sizeof(float) != 0 ||
        (uintptr_t)patterns->buf % sizeof(float) != 0) {
        PyErr_SetString(PyExc_ValueError, "the buffers must be aligned");
        return -1;
    }
    s->K = (int)K;
    s->pitch = (Py_ssize_t)s->T * s->S;
    s->residual = residual->buf;
    return 0;
}

static PyObject *
py_component(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct search whole;
    struct team team;
    Py_buffer residual, work, starts;
    int threads, fits;

    if (!PyArg_ParseTuple(args, "y*w*y*(iiii)piiddi", &residual, &work, &starts, &whole.T, &whole.S,
                          &whole.D, &whole.E, &whole.separate, &whole.polish, &whole.sweeps,
                          &whole.gain, &whole.tiny, &threads)) {
        return NULL;
    }
    fits = measure(&whole, threads, &residual, &work, &starts) == 0;
    if (fits) {
        team.gram = NULL;
        team.starts = starts.buf;
        team.starts_count = starts.len / (whole.K * (Py_ssize_t)sizeof(float));
        Py_BEGIN_ALLOW_THREADS
        work_together(&whole, &team, threads, work.buf);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&residual);
    PyBuffer_Release(&work);
    PyBuffer_Release(&starts);
    return fits ? PyFloat_FromDouble(team.weight) : NULL;
}

static PyObject *
py_gram(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct search whole;
    struct team team;
    Py_buffer residual, work, out;
    int threads, fits;

    memset(&whole, 0, sizeof(whole));
    whole.polish = whole.sweeps = 1;
    if (!PyArg_ParseTuple(args, "y*w*w*(iiii)i", &residual, &work, &out, &whole.T, &whole.S,
                          &whole.D, &whole.E, &threads)) {
        return NULL;
    }
    fits = measure(&whole, threads, &residual, &work, &out) == 0;
    if (fits && out.len / (Py_ssize_t)sizeof(float) != (Py_ssize_t)whole.K * whole.K) {
        PyErr_SetString(PyExc_ValueError, "the Gram matrix does not fit the sizes");
        fits = 0;
    }
    if (fits) {
        team.gram = out.buf;
        Py_BEGIN_ALLOW_THREADS
        work_together(&whole, &team, threads, work.buf);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&residual);
    PyBuffer_Release(&work);
    PyBuffer_Release(&out);
    if (!fits) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    /* threads: of a team, or 0 for BLAS. */
    {"component", py_component, METH_VARARGS,
     "component(residual, work, starts, (T, S, D, E), separate, polish, sweeps, gain, tiny, threads): "
     "finds the vectors of a best rank-1 approximation, in work, and takes it off the residual; "
     "returns its norm."},
    {"gram", py_gram, METH_VARARGS,
     "gram(residual, work, out, (T, S, D, E), threads): the products of the residual's spatial "
     "positions (K, K) into out, whose part right of the diagonal is left as it is."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)(uintptr_t)link_blas},
    {Py_mod_exec, (void *)(uintptr_t)expect_forks},
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_power",
    .m_doc = "The inner loop of the tensor power method, over SciPy's BLAS.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__power(void)
{
    return PyModuleDef_Init(&module);
}
