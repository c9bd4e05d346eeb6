"""How many items a net runs at once, and batches of a fixed size filled up and cut back."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

_BATCH_ELEMENTS = 1 << 20
_LARGEST_BATCH = 32


def batch_size(items: Iterable[tuple[int, ...]], total: int) -> int:
    """Items at once, so that memory stays low: ``items`` are the shapes of one of each input."""
    elements = sum(math.prod(shape) for shape in items)
    return min(max(1, min(_LARGEST_BATCH, _BATCH_ELEMENTS // max(1, elements))), total)


def filled(items: np.ndarray, size: int) -> np.ndarray:
    """``items`` followed by copies of the last of them, ``size`` in all."""
    if len(items) == size:
        return items
    return np.concatenate([items, np.repeat(items[-1:], size - len(items), axis=0)])


def first_items(array: np.ndarray, size: int, count: int) -> np.ndarray:
    """The part of an output that belongs to the first ``count`` of ``size`` items."""
    if count == size or not array.ndim or array.shape[0] % size:
        return array
    return array[: array.shape[0] // size * count]
