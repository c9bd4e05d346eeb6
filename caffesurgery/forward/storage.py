"""The memory of a run: one array for each blob as long as it is needed, then for another one.

Arrays are made once and kept from run to run, so that a run allocates nothing; each is handed on as
soon as the last layer has read it.
"""

from __future__ import annotations

from math import prod

import numpy as np

_ALIGNMENT = 64
"""Bytes: a cache line."""


class Storage:
    """A flat float32 array, and how many are still going to read it."""

    __slots__ = ("flat", "readers")

    def __init__(self, flat: np.ndarray):
        self.flat = flat
        self.readers = 0

    def view(self, shape: tuple[int, ...]) -> np.ndarray:
        """The first elements under a shape."""
        return self.flat[: prod(shape)].reshape(shape)


class Pool:
    """Hands out storages and takes them back; ``elements`` is the size of all that were made."""

    def __init__(self):
        self._free: list[Storage] = []
        self.elements = 0

    def take(self, count: int) -> Storage:
        """The smallest free storage for ``count`` elements, or a new one."""
        fitting = [storage for storage in self._free if storage.flat.size >= count]
        if fitting:
            found = min(fitting, key=lambda storage: storage.flat.size)
            self._free.remove(found)
            return found
        self.elements += count
        return Storage(_aligned(count))

    def give(self, storage: Storage) -> None:
        """Take back a storage that nobody reads any more."""
        self._free.append(storage)


def _aligned(count: int) -> np.ndarray:
    raw = np.empty(count + _ALIGNMENT // 4, np.float32)
    start = -raw.ctypes.data % _ALIGNMENT // 4
    return raw[start : start + count]
