"""How many threads NumPy's BLAS uses: set while a net runs, then set back.

OpenBLAS (NumPy's wheels), MKL and BLIS can be told at run time, through functions that are looked
up in NumPy's own extension module.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator

_NAMES = (
    ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),
    ("scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"),
    ("openblas_get_num_threads64_", "openblas_set_num_threads64_"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
    ("bli_thread_get_num_threads", "bli_thread_set_num_threads"),
)


@contextlib.contextmanager
def blas_threads(count: int) -> Iterator[bool]:
    """Let NumPy's BLAS use ``count`` threads in this block; yields whether it could be told."""
    found = _functions()
    if found is None:
        yield False
        return
    get, put = found
    before = get()
    put(count)
    try:
        yield get() == count
    finally:
        put(before)


@functools.cache
def _functions():
    """(Getter, setter) of the BLAS that NumPy is linked to, or None where neither is known."""
    try:
        from numpy._core import _multiarray_umath as module
    except ImportError:  # NumPy 1
        from numpy.core import _multiarray_umath as module
    try:
        library = ctypes.CDLL(module.__file__)
    except OSError:
        return None
    for get, put in _NAMES:
        if hasattr(library, get) and hasattr(library, put):
            setter = getattr(library, put)
            setter.argtypes, setter.restype = [ctypes.c_int], None
            return getattr(library, get), setter
    return None
