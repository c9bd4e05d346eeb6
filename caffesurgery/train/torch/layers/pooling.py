"""Pooling and spatial pyramid pooling with Caffe's sizes, which round up.

torch's ceil_mode drops a last window that starts in the padding as Caffe does where there is any;
where the two differ, the bottom is padded to what Caffe's windows reach.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ....net.layers.pooling import end_pads
from ....net.layers.window import Window, pool_sizes, pool_window, pyramid_windows
from .base import Build, Forward, elementwise, trains

_LOWEST = torch.finfo(torch.float32).min


@trains("Pooling")
def pooling(build: Build) -> Forward:
    """MAX or AVE pooling; a second top gets the places of the maxima."""
    method, window = build.params("pooling_param")["pool"], pool_window(build.layer, build.bottom)
    if len(build.layer.tops) > 1:
        return elementwise(lambda x: _with_places(x, window, build.top[2:]))
    return elementwise(_pool(build, method, window, build.bottom[2:], build.top[2:]))


@trains("SPP")
def pyramid(build: Build) -> Forward:
    """The flattened bins of every level, one after the other; a single level stays as it is."""
    method, sizes = build.params("spp_param")["pool"], build.bottom[2:]
    pools = [
        _pool(build, method, window, sizes, pool_sizes(build.layer, sizes, window))
        for window in pyramid_windows(build.layer, build.bottom)
    ]
    if len(pools) == 1:
        return elementwise(pools[0])
    return elementwise(lambda x: torch.cat([pool(x).flatten(1) for pool in pools], 1))


def _pool(build: Build, method: str, window: Window, sizes, out):
    if method == "MAX":
        return _maximum(window, sizes, out)
    if method == "AVE":
        return _average(window, sizes, out)
    raise build.refuse(f"{method} pooling cannot be trained without Caffe")


def _maximum(window: Window, sizes, out):
    kernel, stride, pad = window.kernel, window.stride, window.pad
    ceil = _ceil_mode(window, sizes, out)
    if ceil is not None and all(2 * p <= k for p, k in zip(pad, kernel)):
        return lambda x: F.max_pool2d(x, kernel, stride, pad, 1, ceil)
    around = _around(window, sizes, out)
    return lambda x: F.max_pool2d(F.pad(x, around, value=_LOWEST), kernel, stride)


def _average(window: Window, sizes, out):
    """Sum over the part of each window inside the bottom, divided by its part inside the padded
    bottom."""
    kernel, stride, pad = window.kernel, window.stride, window.pad
    if kernel == tuple(sizes) and pad == (0, 0) and tuple(out) == (1, 1):
        return lambda x: x.mean((2, 3), keepdim=True)
    ceil = _ceil_mode(window, sizes, out)
    if ceil is not None and all(2 * p <= k for p, k in zip(pad, kernel)):
        return lambda x: F.avg_pool2d(x, kernel, stride, pad, ceil)
    around = _around(window, sizes, out)
    shares = _shares(window, sizes, out)

    def average(x):
        total = F.avg_pool2d(F.pad(x, around), kernel, stride, divisor_override=1)
        return total * shares.to(total)

    return average


def _ceil_mode(window: Window, sizes, out) -> bool | None:
    """Whether torch gives these sizes rounding up (True) or down (False), or not at all (None)."""
    for ceil in (False, True):
        if all(
            _torchs_size(*axis, ceil) == size
            for *axis, size in zip(sizes, window.kernel, window.stride, window.pad, out)
        ):
            return ceil
    return None


def _torchs_size(size: int, kernel: int, stride: int, pad: int, ceil: bool) -> int:
    room = size + 2 * pad - kernel
    out = (-(-room // stride) if ceil else room // stride) + 1
    return out - 1 if ceil and (out - 1) * stride >= size + pad else out


def _around(window: Window, sizes, out) -> list[int]:
    """Padding (left, right, top, bottom) with which rounding down gives Caffe's windows."""
    (top, left), (bottom, right) = window.pad, end_pads(sizes, window, out)
    return [left, right, top, bottom]


def _shares(window: Window, sizes, out) -> torch.Tensor:
    counts = []
    for size, kernel, stride, pad, n in zip(sizes, window.kernel, window.stride, window.pad, out):
        begin = torch.arange(n) * stride - pad
        counts.append((begin + kernel).clamp(max=size + pad) - begin)
    return 1 / torch.outer(*counts).float()


def _with_places(x: torch.Tensor, window: Window, out):
    """Maximum, and the index in its plane where it was met first (no gradient)."""
    around = _around(window, x.shape[2:], out)
    padded = F.pad(x, around, value=_LOWEST)
    top, places = F.max_pool2d(padded, window.kernel, window.stride, return_indices=True)
    wide = padded.shape[3]
    rows, columns = places // wide - around[2], places % wide - around[0]
    return top, (rows * x.shape[3] + columns).to(x.dtype)
