"""Images that are decoded as they are read, in the place of an array N x C x H x W."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from ..errors import DataError
from .prefetch import in_order

_HELD_BYTES = 1 << 28
_MOST_BYTES = 1 << 33
_PIECE_ELEMENTS = 1 << 22


class Items:
    """Like an array of which slices are read by ``read`` (from numbers of items, int64).

    It becomes an array where it is asked to be one, and where it travels to other processes.
    """

    ndim = 4

    def __init__(self, read: Callable[[np.ndarray], np.ndarray], count: int, shape, dtype):
        self._read = read
        self.shape = (count, *shape)
        self.dtype = np.dtype(dtype)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Numbers in all."""
        return math.prod(self.shape)

    def __getitem__(self, which) -> np.ndarray:
        places = np.arange(len(self))[which]
        found = self._read(places.reshape(-1)) if places.size else np.empty((0, *self.shape[1:]))
        return found[0] if places.ndim == 0 else found

    def first(self, count: int) -> Items:
        """Its first ``count`` items, not read yet."""
        return Items(self._read, min(count, len(self)), self.shape[1:], self.dtype)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        size = self.size * self.dtype.itemsize
        if size > _MOST_BYTES:
            raise DataError(
                f"{len(self)} images of {' x '.join(map(str, self.shape[1:]))} would take "
                f"{size / 2**30:.0f} GiB of memory at once; use fewer of them (--samples)"
            )
        out, start = np.empty(self.shape, dtype or self.dtype), 0
        for piece in pieces(self):
            out[start : start + len(piece)] = piece
            start += len(piece)
        return out

    def __reduce__(self):
        return np.asarray, (np.asarray(self),)


def pieces(array: np.ndarray | Items) -> Iterator[np.ndarray]:
    """An array whole, or ``Items`` part by part, read ahead."""
    if isinstance(array, Items):
        step = max(1, _PIECE_ELEMENTS // max(1, math.prod(array.shape[1:])))
        count = -(-len(array) // step)
        yield from in_order(lambda part: array[part * step : (part + 1) * step], stop=count)
    else:
        yield array


def held(items: Items) -> np.ndarray | Items:
    """The items as an array where that takes little memory, so that they are decoded once."""
    return np.asarray(items) if items.size * items.dtype.itemsize <= _HELD_BYTES else items
