/* One component of the tensor power method, over SciPy's BLAS and without the GIL.
 *
 * It is what power.py's _Merged and _Separate do, sweep after sweep, with the same calls of BLAS on
 * the same buffers in the same order, so that the results are equal to the bit.  On kernels of
 * some hundred kilobytes a product takes no longer than calling it from Python does.  SciPy's BLAS
 * comes through the functions that scipy.linalg.cython_blas gives to C.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <limits.h>
#include <stdint.h>
#include <string.h>

#define REAL "__pyx_t_5scipy_6linalg_11cython_blas_s"
#define GEMV "void (char *, int *, int *, " REAL " *, " REAL " *, int *, " REAL " *, int *, " REAL \
             " *, " REAL " *, int *)"
#define NRM2 REAL " (int *, " REAL " *, int *)"
#define DOT REAL " (int *, " REAL " *, int *, " REAL " *, int *)"
#define SCAL "void (int *, " REAL " *, " REAL " *, int *)"

static void (*sgemv)(char *, int *, int *, float *, float *, int *, float *, int *, float *, float *,
                     int *);
static float (*snrm2)(int *, float *, int *);
static float (*sdot)(int *, float *, int *, float *, int *);
static void (*sscal)(int *, float *, float *, int *);

/* A kernel's residual (K, T, S), K = D E, and the component that is sought in it. */
struct search {
    int T, S, D, E, K, KT, TS;
    int separate; /* whether the spatial pattern is vertical times horizontal */
    float *residual;
    float *pairs, *plane;     /* (K, T), (T, S): contracted with inputs, with the pattern */
    float *inputs, *outputs;  /* (S,), (T,) */
    float *image, *shape;     /* (K,): contracted with inputs and outputs; the pattern */
    float *vertical, *horizontal, *best; /* (D,), (E,); room for the vectors of the best start */
    int polish, sweeps;
    double gain, tiny;
};

/* out = A x, or A' x where ``how`` is "T"; A is rows x columns in Fortran order. */
static void
times(const char *how, int rows, int columns, float *a, float *x, float *out)
{
    float one = 1, zero = 0;
    int step = 1;

    sgemv((char *)(uintptr_t)how, &rows, &columns, &one, a, &rows, x, &step, &zero, out, &step);
}

/* Divides a vector by its norm, which is returned. */
static double
unit(const struct search *s, int count, float *vector)
{
    int step = 1;
    const double norm = snrm2(&count, vector, &step);

    if (norm > s->tiny) {
        float factor = (float)(1 / norm);
        sscal(&count, &factor, vector, &step);
    }
    return norm;
}

/* The row of the largest norm; the first with NaN where there is one, as NumPy's argmax. */
static float *
largest(float *rows, int count, int length)
{
    float *found = rows, most = -1;
    int i, step = 1;

    for (i = 0; i < count; i++, rows += length) {
        const float norm = sdot(&length, rows, &step, rows, &step);
        if (norm > most || norm != norm) {
            found = rows;
            most = norm;
            if (norm != norm) {
                break;
            }
        }
    }
    return found;
}

static void
copy(float *to, const float *from, int count)
{
    memcpy(to, from, (size_t)count * sizeof(float));
}

/* The pattern best for ``image``, from the vectors that are there; returns the norm there. */
static double
pattern(struct search *s)
{
    double norm;
    int d, e;

    if (!s->separate) {
        copy(s->shape, s->image, s->K);
        return unit(s, s->K, s->shape);
    }
    times("T", s->E, s->D, s->image, s->horizontal, s->vertical);
    unit(s, s->D, s->vertical);
    times("N", s->E, s->D, s->image, s->vertical, s->horizontal);
    norm = unit(s, s->E, s->horizontal);
    for (d = 0; d < s->D; d++) {
        for (e = 0; e < s->E; e++) {
            s->shape[d * s->E + e] = s->vertical[d] * s->horizontal[e];
        }
    }
    return norm;
}

/* Singular vectors of ``plane``, from ``inputs``; returns its norm there. */
static double
pair(struct search *s)
{
    double norm = 0, other;
    int i;

    for (i = 0; i < s->polish; i++) {
        times("T", s->S, s->T, s->plane, s->inputs, s->outputs);
        times("N", s->S, s->T, s->plane, s->outputs, s->inputs);
        norm = unit(s, s->S, s->inputs);
    }
    other = unit(s, s->T, s->outputs);
    return norm / (s->tiny > other ? s->tiny : other);
}

/* The vectors, one after the other, to or from ``best``. */
static void
keep(struct search *s, int restore)
{
    float *vectors[] = {s->inputs, s->outputs, s->shape, s->vertical, s->horizontal};
    const int counts[] = {s->S, s->T, s->K, s->D, s->E};
    float *place = s->best;
    size_t i;

    for (i = 0; i < 5; place += counts[i], i++) {
        if (restore) {
            copy(vectors[i], place, counts[i]);
        } else {
            copy(place, vectors[i], counts[i]);
        }
    }
}

/* Vectors from the most promising of the spatial patterns ``starts`` (count, K). */
static void
start(struct search *s, const float *starts, Py_ssize_t count)
{
    double weight, best = -1;
    Py_ssize_t n;
    int i;

    for (n = 0; n < count; n++) {
        copy(s->image, starts + n * s->K, s->K);
        if (s->separate) {
            copy(s->horizontal, largest(s->image, s->D, s->E), s->E);
            for (i = 0; i < s->polish; i++) {
                pattern(s);
            }
        } else {
            pattern(s);
        }
        times("N", s->TS, s->K, s->residual, s->shape, s->plane);
        copy(s->inputs, largest(s->plane, s->T, s->S), s->S);
        weight = pair(s);
        if (!(weight <= best)) {
            best = weight;
            keep(s, 0);
        }
    }
    keep(s, 1);
}

static double
component(struct search *s, const float *starts, Py_ssize_t count)
{
    double weight = 0, before = 0;
    int sweep, i;

    start(s, starts, count);
    for (sweep = 0; sweep < s->sweeps; sweep++) {
        times("T", s->S, s->KT, s->residual, s->inputs, s->pairs);
        for (i = 0; i < s->polish; i++) {
            times("T", s->T, s->K, s->pairs, s->outputs, s->image);
            pattern(s);
            times("N", s->T, s->K, s->pairs, s->shape, s->outputs);
        }
        unit(s, s->T, s->outputs);
        times("T", s->T, s->K, s->pairs, s->outputs, s->image);
        weight = pattern(s);
        if (weight * weight - before <= s->gain * (weight * weight)) {
            break;
        }
        before = weight * weight;
        times("N", s->TS, s->K, s->residual, s->shape, s->plane);
        pair(s);
    }
    return weight;
}

/* The sizes into ``s``; -1 with an error where the buffers are not of these. */
static int
measure(struct search *s, const Py_buffer *residual, const Py_buffer *work, const Py_buffer *starts)
{
    const int64_t K = (int64_t)s->D * s->E, size = (int64_t)sizeof(float);
    int64_t KT, TS, rest;

    if (s->T < 1 || s->S < 1 || s->D < 1 || s->E < 1 || s->polish < 1 || s->sweeps < 1) {
        PyErr_SetString(PyExc_ValueError, "every size and count must be at least 1");
        return -1;
    }
    if (K > INT_MAX || K * s->T > INT_MAX || (int64_t)s->T * s->S > INT_MAX) {
        PyErr_SetString(PyExc_OverflowError, "the kernel is too large for BLAS");
        return -1;
    }
    KT = K * s->T;
    TS = (int64_t)s->T * s->S;
    rest = s->S + s->T + K + s->D + s->E;
    if (residual->len / size != KT * s->S || residual->len % size != 0 ||
        work->len != (KT + TS + K + 2 * rest) * size || starts->len < K * size ||
        starts->len % (K * size) != 0) {
        PyErr_SetString(PyExc_ValueError, "residual, work and starts do not fit the sizes");
        return -1;
    }
    if ((uintptr_t)residual->buf % sizeof(float) != 0 || (uintptr_t)work->buf % sizeof(float) != 0) {
        PyErr_SetString(PyExc_ValueError, "residual and work must be aligned");
        return -1;
    }
    s->K = (int)K;
    s->KT = (int)KT;
    s->TS = (int)TS;
    return 0;
}

/* Where each vector lies in ``work``: as in _Merged.__init__. */
static void
lay_out(struct search *s, float *residual, float *work)
{
    s->residual = residual;
    s->pairs = work;
    s->plane = s->pairs + s->KT;
    s->inputs = s->plane + s->TS;
    s->outputs = s->inputs + s->S;
    s->image = s->outputs + s->T;
    s->shape = s->image + s->K;
    s->vertical = s->shape + s->K;
    s->horizontal = s->vertical + s->D;
    s->best = s->horizontal + s->E;
}

static PyObject *
py_component(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct search s;
    Py_buffer residual, work, starts;
    double weight = 0;
    int fits;

    if (!PyArg_ParseTuple(args, "y*w*y*(iiii)piidd", &residual, &work, &starts, &s.T, &s.S, &s.D,
                          &s.E, &s.separate, &s.polish, &s.sweeps, &s.gain, &s.tiny)) {
        return NULL;
    }
    fits = measure(&s, &residual, &work, &starts) == 0;
    if (fits) {
        lay_out(&s, residual.buf, work.buf);
        Py_BEGIN_ALLOW_THREADS
        weight = component(&s, starts.buf, starts.len / (s.K * (Py_ssize_t)sizeof(float)));
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&residual);
    PyBuffer_Release(&work);
    PyBuffer_Release(&starts);
    return fits ? PyFloat_FromDouble(weight) : NULL;
}

/* The function of this name and exactly this signature, or NULL with ImportError. */
static void *
found_in(PyObject *functions, const char *name, const char *signature)
{
    PyObject *capsule = PyDict_GetItemString(functions, name);

    if (capsule == NULL || !PyCapsule_IsValid(capsule, signature)) {
        PyErr_Format(PyExc_ImportError, "scipy.linalg.cython_blas has no %s as expected", name);
        return NULL;
    }
    return PyCapsule_GetPointer(capsule, signature);
}

/* Asks SciPy for its BLAS; its functions stay, as its module is never unloaded. */
static int
link_blas(PyObject *Py_UNUSED(module))
{
    PyObject *blas = PyImport_ImportModule("scipy.linalg.cython_blas");
    PyObject *functions = blas == NULL ? NULL : PyObject_GetAttrString(blas, "__pyx_capi__");
    void *found[4] = {NULL, NULL, NULL, NULL};

    Py_XDECREF(blas);
    if (functions == NULL) {
        return -1;
    }
    if (!PyDict_Check(functions)) {
        PyErr_SetString(PyExc_ImportError, "scipy.linalg.cython_blas is not as expected");
    } else if ((found[0] = found_in(functions, "sgemv", GEMV)) != NULL &&
               (found[1] = found_in(functions, "snrm2", NRM2)) != NULL &&
               (found[2] = found_in(functions, "sdot", DOT)) != NULL) {
        found[3] = found_in(functions, "sscal", SCAL);
    }
    Py_DECREF(functions);
    if (found[3] == NULL) {
        return -1;
    }
    memcpy(&sgemv, &found[0], sizeof(sgemv)); /* ISO C casts no data pointer to a function's */
    memcpy(&snrm2, &found[1], sizeof(snrm2));
    memcpy(&sdot, &found[2], sizeof(sdot));
    memcpy(&sscal, &found[3], sizeof(sscal));
    return 0;
}

static PyMethodDef methods[] = {
    {"component", py_component, METH_VARARGS,
     "component(residual, work, starts, (T, S, D, E), separate, polish, sweeps, gain, tiny): "
     "finds the vectors of a best rank-1 approximation, in work; returns its norm."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)(uintptr_t)link_blas},
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
