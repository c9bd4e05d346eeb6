"""Threads of the linear algebra: one for each process of ours, for other programs the user's."""

from __future__ import annotations

import functools
import os

from .count import processors

_LIBRARIES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
_OURS = "CAFFESURGERY_SET_THREADS"
_FUNCTIONS = (
    ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),
    ("scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"),
    ("openblas_get_num_threads64_", "openblas_set_num_threads64_"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
    ("bli_thread_get_num_threads", "bli_thread_set_num_threads"),
)


def one_thread() -> None:
    """Let BLAS use one thread where the user has not said how many; before NumPy is loaded."""
    ours = [name for name in _LIBRARIES if name not in os.environ]
    os.environ.update(dict.fromkeys(ours, "1"))
    if ours:
        os.environ[_OURS] = " ".join(ours)


def users_environment() -> dict[str, str]:
    """The environment as the user has it, for programs that are to use all processors."""
    environment = dict(os.environ)
    for name in environment.pop(_OURS, "").split():
        environment.pop(name, None)
    return environment


def one_thread_environment() -> dict[str, str]:
    """The environment of a worker process: one thread, whatever the user has said."""
    names = (*_LIBRARIES, "VECLIB_MAXIMUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, "1"), _OURS: ""}


def users_threads() -> int | None:
    """Threads for work that is to use all processors; None where the environment says how many."""
    ours = os.environ.get(_OURS, "").split()
    return processors() if "OMP_NUM_THREADS" in ours else None


@functools.cache
def blas_functions(extension: str):
    """(Getter, setter) of the number of threads of an extension module's BLAS, or None.

    OpenBLAS (the wheels of NumPy and SciPy), MKL and BLIS can be asked and told at run time.
    """
    import ctypes  # here, since every start of the command line comes by

    try:
        library = ctypes.CDLL(extension)
    except OSError:
        return None
    for get, put in _FUNCTIONS:
        if hasattr(library, get) and hasattr(library, put):
            setter = getattr(library, put)
            setter.argtypes, setter.restype = [ctypes.c_int], None
            return getattr(library, get), setter
    return None


def scipy_threads() -> int:
    """Threads that SciPy's BLAS uses; 1 where it does not say."""
    from scipy.linalg import cython_blas

    found = blas_functions(cython_blas.__file__)
    return found[0]() if found else 1
