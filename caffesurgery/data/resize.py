"""Images brought to a size as Caffe does it: bit for bit OpenCV's ``resize`` of uint8 (linear).

OpenCV weighs neighbours with 11 bits, first along the rows and then across, drops 4 bits in
between and 16 in each product, and rounds at the end; halving both sides exactly is a mean of four.
Nothing is smoothed before images become smaller, unlike in Pillow.
"""

from __future__ import annotations

import functools

import numpy as np

_ONE = 2048  # 11 bits
_BETWEEN, _PRODUCT, _LAST = 4, 16, 2


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """``image`` (H x W x C, uint8) as height x width x C."""
    rows, columns, channels = image.shape
    if (rows, columns) == (height, width):
        return image
    if (rows, columns) == (2 * height, 2 * width):
        wide = image.astype(np.uint16)
        total = wide[::2, ::2] + wide[::2, 1::2] + wide[1::2, ::2] + wide[1::2, 1::2]
        return ((total + 2) >> 2).astype(np.uint8)
    if image.strides[2] < 0:  # channels turned round: their rows are no rows of memory
        return resize(image[:, :, ::-1], height, width)[:, :, ::-1]
    left, right, from_left, from_right = _across(columns, width, channels)
    above, below, from_above, from_below = _down(rows, height)
    used = np.unique(np.concatenate([above, below]))
    flat = image[used].reshape(len(used), -1) if len(used) < rows else image.reshape(rows, -1)
    mixed = np.take(flat, left, axis=1) * from_left
    mixed += np.take(flat, right, axis=1) * from_right
    mixed >>= _BETWEEN
    out = np.take(mixed, np.searchsorted(used, above), axis=0)
    out *= from_above
    out >>= _PRODUCT
    other = np.take(mixed, np.searchsorted(used, below), axis=0)
    other *= from_below
    other >>= _PRODUCT
    out += other
    out += 1 << _LAST - 1
    out >>= _LAST
    return out.astype(np.uint8).reshape(height, width, channels)


def _places(have: int, want: int) -> tuple[np.ndarray, np.ndarray]:
    """For each place of ``want`` the one before it among ``have``, and how far behind it is."""
    scale = 1.0 / (want / have)
    places = ((np.arange(want) + 0.5) * scale - 0.5).astype(np.float32)
    before = np.floor(places).astype(np.int64)
    return before, places - before.astype(np.float32)


def _weights(behind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    one = np.float32(_ONE)
    first = np.rint((np.float32(1) - behind) * one).astype(np.int32)
    return first, np.rint(behind * one).astype(np.int32)


@functools.lru_cache(maxsize=64)
def _across(have: int, want: int, channels: int):
    """Positions in a row of pixels, and their weights, for each value of a row that is made."""
    before, behind = _places(have, want)
    outside = (before < 0) | (before >= have - 1)
    behind = np.where(outside, np.float32(0), behind)
    before = np.clip(before, 0, have - 1)
    places = (before, np.minimum(before + 1, have - 1))
    spread = [(place[:, None] * channels + np.arange(channels)).reshape(-1) for place in places]
    return (*spread, *(np.repeat(weight, channels) for weight in _weights(behind)))


@functools.lru_cache(maxsize=64)
def _down(have: int, want: int):
    """Rows and their weights for each row that is made; outside, both are the last one."""
    before, behind = _places(have, want)
    rows = (np.clip(before, 0, have - 1), np.clip(before + 1, 0, have - 1))
    return (*rows, *(weight[:, None] for weight in _weights(behind)))
