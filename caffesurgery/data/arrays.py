"""Arrays instead of a layer's own data: .npz with a key for each top, or images with labels."""

from __future__ import annotations

import os

import numpy as np

from ..errors import DataError
from .images import open_images
from .npfile import open_numpy
from .transform import Transformer

_IMAGE_AXES = 4


class ArraySource:
    """Items along the first axis of arrays, one for each top (see ``feed.Source``).

    ``transformer`` prepares the first top's images; None leaves all numbers as they are.
    """

    def __init__(
        self, arrays: tuple[np.ndarray, ...], name: str, transformer: Transformer | None = None
    ):
        self._arrays, self._name, self._transformer = arrays, name, transformer
        self.size = len(arrays[0])
        self.shapes = tuple(array.shape[1:] for array in arrays)
        if transformer is not None:
            self.shapes = (transformer.shape(self.shapes[0], lambda: name), *self.shapes[1:])

    def read(self, items: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
        """The items of these numbers, for each top."""
        rows = items % self.size
        found = [array[rows] for array in self._arrays]
        if self._transformer is not None:
            found[0] = self._transformer(found[0], items, seed, lambda index: self._name)
        return tuple(np.ascontiguousarray(array, np.float32) for array in found)


def open_array_source(
    path: str | os.PathLike, tops: tuple[str, ...], transformer: Transformer | None
) -> ArraySource:
    """The source in a .npz (a key for each top; or ``images`` and ``labels``) or .npy file.

    Raises DataError for a file that is neither, or lacks what a top needs.
    """
    name = str(path)
    arrays = _by_top(path, tops)
    if transformer is not None and arrays[0].ndim != _IMAGE_AXES:
        raise DataError(
            f"{name}: met shape {arrays[0].shape} for '{tops[0]}'; expected images N x C x H x W"
        )
    for top, array in zip(tops, arrays):
        if array.dtype.kind not in "buif" or not array.ndim or len(array) != len(arrays[0]):
            raise DataError(
                f"{name}: met {array.dtype} of shape {array.shape} for '{top}'; expected numbers, "
                f"{len(arrays[0]) if arrays[0].ndim else 'some'} items along the first axis"
            )
    if not len(arrays[0]):
        raise DataError(f"{name}: holds no item; expected at least one")
    return ArraySource(arrays, name, transformer)


def _by_top(path, tops: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    held = open_numpy(path, " and ".join(tops))
    if isinstance(held, np.ndarray):
        if len(tops) == 1:
            return (held,)
    else:
        with held:
            if all(top in held.files for top in tops):
                return tuple(held[top] for top in tops)
            if len(tops) > 2:
                missing = ", ".join(top for top in tops if top not in held.files)
                raise DataError(f"{path}: has no array {missing}; expected one for each top")
    found = open_images(path)
    if len(tops) == 1:
        return (found.images,)
    if found.labels is None:
        raise DataError(
            f"{path}: has no labels for '{tops[1]}'; expected a .npz with the keys "
            f"{tops[0]} and {tops[1]}, or images and labels"
        )
    return found.images, found.labels
