"""im2col and col2im on arrays that stay the same: checked once, then called without arguments.

Takes images with any number of spatial axes: one is worked on as a plane of height 1 by the C
extension, more than two are left to NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from ..errors import SurgeryError
from .im2col import bind, windows


def columns_of(
    image: np.ndarray,
    columns: np.ndarray,
    kernel: Sequence[int],
    pad: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    threads: int = 1,
) -> Callable[[], None]:
    """A function that fills ``columns`` (C * kernel, windows) from ``image`` (C, *spatial).

    Both are C-contiguous and of one dtype, float32 or float64.  Raises NetError for a window that
    Caffe would refuse, SurgeryError where the columns do not fit.
    """
    return _bound("im2col", image, columns, (kernel, pad, stride, dilation), threads)


def image_of(
    columns: np.ndarray,
    image: np.ndarray,
    kernel: Sequence[int],
    pad: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    threads: int = 1,
) -> Callable[[], None]:
    """A function that fills ``image`` with the sums over ``columns``; see ``columns_of``."""
    return _bound("col2im", image, columns, (kernel, pad, stride, dilation), threads)


def _bound(name: str, image, columns, window, threads: int) -> Callable[[], None]:
    if len(window[0]) == 1:
        image = image[:, None]
        window = tuple((one, *axis) for one, axis in zip((1, 0, 1, 1), window))
    window = tuple(tuple(axis) for axis in window)
    size = [
        windows(*axis, f"spatial axis {i}") for i, axis in enumerate(zip(image.shape[1:], *window))
    ]
    expected = (len(image) * prod(window[0]), prod(size))
    if columns.shape != expected:
        raise SurgeryError(f"the columns are {columns.shape}; this image has {expected}")
    return bind(name, image, columns, window, threads)
