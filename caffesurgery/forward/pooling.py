"""Pooling and spatial pyramid pooling, one axis after the other, without a copy of the bottom.

Maximum and sum over a window are those over its rows and then over its columns.  As in Caffe a
maximum begins at -FLT_MAX, and an average is divided by the part of its window that lies within the
padded bottom.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..net.layers.pooling import end_pads
from ..net.layers.window import Window, pool_sizes, pool_window, pyramid_windows
from .kernel import Compute, Job, computes

_LOWEST = np.finfo(np.float32).min
_FOLDS = {"MAX": (np.maximum, _LOWEST), "AVE": (np.add, np.float32(0))}


@computes("Pooling")
def pooling(job: Job) -> Compute:
    """MAX or AVE pooling; a second top gets the places of the maxima."""
    method = job.layer.params("pooling_param")["pool"]
    window = pool_window(job.layer, job.bottom.shape)
    if len(job.tops) > 1:
        return _with_places(job, window)
    return _pool(job, method, window, job.top)


@computes("SPP")
def pyramid(job: Job) -> Compute:
    """The flattened bins of every level, one after the other; a single level stays as it is."""
    method = job.layer.params("spp_param")["pool"]
    windows = pyramid_windows(job.layer, job.bottom.shape)
    if len(windows) == 1:
        return _pool(job, method, windows[0], job.top)
    items, channels = job.bottom.shape[:2]
    levels, start = [], 0
    for window in windows:
        sizes = pool_sizes(job.layer, job.bottom.shape[2:], window)
        level = job.scratch((items, channels, *sizes))
        flat = level.reshape(items, -1)
        place = job.top[:, start : start + flat.shape[1]]
        levels.append((_pool(job, method, window, level), place, flat))
        start += flat.shape[1]

    def run():
        for pool, place, flat in levels:
            pool()
            np.copyto(place, flat)

    return run


def _pool(job: Job, method: str, window: Window, top: np.ndarray) -> Compute:
    """Pools bottom 0 into ``top``: rows first, into scratch memory, then columns."""
    if method not in _FOLDS:
        raise job.refuse(f"{method} pooling is not computed on CPUs, by Caffe neither")
    items, channels, _, width = job.bottom.shape
    rows = job.scratch((channels, top.shape[2], width))
    steps = []
    for x, y in zip(job.bottom, top):
        steps.append(_fold(x, rows, 1, window, 0, method))
        steps.append(_fold(rows, y, 2, window, 1, method))
    share = shares(job.bottom.shape[2:], window, top.shape[2:]) if method == "AVE" else None

    def run():
        for step in steps:
            step()
        if share is not None:
            np.multiply(top, share, top)

    return run


def _fold(
    source: np.ndarray, target: np.ndarray, axis: int, window: Window, side: int, method: str
) -> Compute:
    """Folds the windows along one axis of ``source`` (C, H, W) into ``target``."""
    operation, start = _FOLDS[method]
    kernel, stride, pad = window.kernel[side], window.stride[side], window.pad[side]
    parts = []
    for tap in range(kernel):
        # the windows first..last - 1 meet the source with this tap
        first = max(0, -(-(pad - tap) // stride))
        last = min(target.shape[axis], (source.shape[axis] - 1 + pad - tap) // stride + 1)
        if first < last:
            begin = first * stride + tap - pad
            taken = slice(begin, begin + (last - first - 1) * stride + 1, stride)
            parts.append((_along(target, axis, slice(first, last)), _along(source, axis, taken)))
    return _folding(operation, target, parts, start)


def _along(array: np.ndarray, axis: int, part: slice) -> np.ndarray:
    return array[(slice(None),) * axis + (part,)]


def _folding(operation: Callable, target: np.ndarray, parts: list, start: np.float32) -> Compute:
    """target = operation over parts; a first part that fills the target saves beginning anew."""
    whole = bool(parts) and parts[0][0].shape == target.shape

    def run():
        if whole:
            np.copyto(*parts[0])
        else:
            target.fill(start)
        for place, values in parts[whole:]:
            operation(place, values, out=place)

    return run


def shares(spatial, window: Window, sizes) -> np.ndarray:
    """One over the number of pixels of each window within the padded bottom (H, W)."""
    counts = []
    for size, kernel, stride, pad, out in zip(
        spatial, window.kernel, window.stride, window.pad, sizes
    ):
        begin = np.arange(out) * stride - pad
        counts.append(np.minimum(begin + kernel, size + pad) - begin)
    with np.errstate(divide="ignore"):
        return (1 / np.outer(*counts)).astype(np.float32)


def _with_places(job: Job, window: Window) -> Compute:
    """Maximum, and where in its plane it was met first; a window without a pixel gets -1."""
    items, channels, height, width = job.bottom.shape
    high, wide = job.top.shape[2:]
    ends = end_pads((height, width), window, (high, wide))
    before = ((0, 0), (0, 0), *zip(window.pad, ends))
    plane = np.arange(height * width).reshape(1, 1, height, width)
    numbers = _windows(np.pad(plane, before, constant_values=-1), window, (high, wide))

    def run():
        padded = np.pad(job.bottom, before, constant_values=_LOWEST)
        values = _windows(padded, window, (high, wide))
        best = values.argmax(-1)[..., None]
        np.copyto(job.top, np.take_along_axis(values, best, -1)[..., 0])
        places = np.take_along_axis(np.broadcast_to(numbers, values.shape), best, -1)[..., 0]
        np.copyto(job.tops[1], places, "unsafe")

    return run


def _windows(padded: np.ndarray, window: Window, sizes) -> np.ndarray:
    """Windows of an array (N, C, H, W), flat in the last axis: (N, C, high, wide, kh * kw)."""
    view = np.lib.stride_tricks.sliding_window_view(padded, window.kernel, (2, 3))
    view = view[:, :, :: window.stride[0], :: window.stride[1]][:, :, : sizes[0], : sizes[1]]
    return view.reshape(*view.shape[:4], -1)
