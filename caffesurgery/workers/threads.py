"""Threads of the linear algebra: one for each process of ours, for other programs the user's."""

from __future__ import annotations

import os

from .count import processors

_LIBRARIES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
_OURS = "CAFFESURGERY_SET_THREADS"


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
