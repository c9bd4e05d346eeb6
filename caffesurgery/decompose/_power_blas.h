/* SciPy's BLAS, through the functions that scipy.linalg.cython_blas gives to C.
 * Included by _power.c alone.
 */
#define REAL "__pyx_t_5scipy_6linalg_11cython_blas_s"
#define INT "int *"
#define REALS REAL " *"
#define GEMV                                                                                   \
    "void (char *, " INT ", " INT ", " REALS ", " REALS ", " INT ", " REALS ", " INT ", " REALS \
    ", " REALS ", " INT ")"
#define GER                                                                                   \
    "void (" INT ", " INT ", " REALS ", " REALS ", " INT ", " REALS ", " INT ", " REALS ", " INT \
    ")"
#define NRM2 REAL " (" INT ", " REALS ", " INT ")"
#define DOT REAL " (" INT ", " REALS ", " INT ", " REALS ", " INT ")"
#define SCAL "void (" INT ", " REALS ", " REALS ", " INT ")"

static void (*sgemv)(char *, int *, int *, float *, float *, int *, float *, int *, float *, float *,
                     int *);
static void (*sger)(int *, int *, float *, float *, int *, float *, int *, float *, int *);
static float (*snrm2)(int *, float *, int *);
static float (*sdot)(int *, float *, int *, float *, int *);
static void (*sscal)(int *, float *, float *, int *);

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
    static const char *const wanted[][2] = {
        {"sgemv", GEMV}, {"sger", GER}, {"snrm2", NRM2}, {"sdot", DOT}, {"sscal", SCAL},
    };
    PyObject *blas = PyImport_ImportModule("scipy.linalg.cython_blas");
    PyObject *functions = blas == NULL ? NULL : PyObject_GetAttrString(blas, "__pyx_capi__");
    void *found[5] = {NULL, NULL, NULL, NULL, NULL};
    int i;

    Py_XDECREF(blas);
    if (functions == NULL) {
        return -1;
    }
    if (!PyDict_Check(functions)) {
        PyErr_SetString(PyExc_ImportError, "scipy.linalg.cython_blas is not as expected");
        Py_DECREF(functions);
        return -1;
    }
    for (i = 0; i < 5; i++) {
        if ((found[i] = found_in(functions, wanted[i][0], wanted[i][1])) == NULL) {
            break;
        }
    }
    Py_DECREF(functions);
    if (i < 5) {
        return -1;
    }
    memcpy(&sgemv, &found[0], sizeof(sgemv)); /* ISO C casts no data pointer to a function's */
    memcpy(&sger, &found[1], sizeof(sger));
    memcpy(&snrm2, &found[2], sizeof(snrm2));
    memcpy(&sdot, &found[3], sizeof(sdot));
    memcpy(&sscal, &found[4], sizeof(sscal));
    return 0;
}
