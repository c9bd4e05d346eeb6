"""How many threads NumPy's BLAS uses: set while a net runs, then set back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..workers.threads import blas_functions


@contextlib.contextmanager
def blas_threads(count: int) -> Iterator[bool]:
    """Let NumPy's BLAS use ``count`` threads in this block; yields whether it could be told."""
    try:
        from numpy._core import _multiarray_umath as module
    except ImportError:  # NumPy 1
        from numpy.core import _multiarray_umath as module
    found = blas_functions(module.__file__)
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
