"""A value that every local worker process reads, put on disk once and mapped by each of them.

Arrays inside the value are not copied: the processes see the same pages of one temporary file, so
that a large net or many images cost their memory once.
"""

from __future__ import annotations

import functools
import mmap
import os
import pickle
import tempfile
from dataclasses import dataclass
from typing import Any

from ..errors import WorkerError

_ALIGNMENT = 64


@dataclass(frozen=True)
class SharedFile:
    """Where a shared value lies: a pickle without its arrays, then the bytes of each of them.

    ``spans`` are their offsets and sizes in the file ``path``, a name that is used once only.
    """

    path: str
    spans: tuple[tuple[int, int], ...]

    def load(self) -> Any:
        """The value, its arrays read-only views on the mapped file; read once a process."""
        return _load(self)


@functools.lru_cache(maxsize=2)
def _load(shared: SharedFile) -> Any:
    with open(shared.path, "rb") as stream:
        mapped = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    pickled, *buffers = (mapped[start : start + length] for start, length in shared.spans)
    return pickle.loads(pickled, buffers=buffers)


def write_shared(value: Any, folder: str) -> SharedFile:
    """Put ``value`` into a new file of ``folder``; WorkerError where the disk does not take it."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    spans, end = [], 0
    try:
        handle, path = tempfile.mkstemp(dir=folder)
        with os.fdopen(handle, "wb") as stream:
            for view in (memoryview(pickled), *(buffer.raw() for buffer in buffers)):
                end += stream.write(bytes(-end % _ALIGNMENT))
                spans.append((end, view.nbytes))
                end += stream.write(view)
    except OSError as error:
        raise WorkerError(
            f"{folder}: cannot put there what the workers need ({error.strerror}); free some "
            "space, set TMPDIR to a folder on another disk, or say --jobs 1"
        ) from error
    return SharedFile(path, tuple(spans))
