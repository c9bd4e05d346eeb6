"""Caffe's im2col and col2im: an image to the matrix whose GEMM is a convolution, and back.

An array (C, H, W) or (N, C, H, W) of float32 or float64 goes in, columns (C*kh*kw, Ho*Wo) or
(N, C*kh*kw, Ho*Wo) come out, in Caffe's order and with its arithmetic; ``col2im`` adds the columns
up again (the gradient of ``im2col``).  The C extension ``caffesurgery._im2col`` does it
without the GIL; where it was not built, or with ``CAFFESURGERY_PURE=1`` in the environment, NumPy
does it with results equal to the bit.  ``backend`` says which: ``"C"`` or ``"NumPy"``.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from functools import partial
from typing import Union

import numpy as np

from ..compiled import extension
from ..errors import NetError, SurgeryError

_im2col = extension("_im2col")
backend = "NumPy" if _im2col is None else "C"

Pair = Union[int, Sequence[int]]  # one value for both axes, or (height, width)

_LIMIT = 2**31 - 1  # Caffe keeps every size in a C int
MOST_THREADS = 256
"""How many threads one call can be given; the C extension keeps their state on its stack."""


def output_size(
    size: Pair, kernel: Pair, pad: Pair = 0, stride: Pair = 1, dilation: Pair = 1
) -> tuple[int, int]:
    """(Ho, Wo), each (in + 2 pad - (dilation (kernel - 1) + 1)) / stride + 1 in C's integers.

    C's division rounds towards zero: a kernel that covers less than one stride more than the
    padded input still has one window, as in Caffe.  Raises NetError where a size is out of range
    or no window is left.
    """
    names = ("size", "kernel", "pad", "stride", "dilation")
    pairs = [_pair(v, n) for v, n in zip((size, kernel, pad, stride, dilation), names)]
    high, wide = (windows(*values, side) for side, *values in zip(("height", "width"), *pairs))
    return high, wide


def windows(size: int, kernel: int, pad: int, stride: int, dilation: int, side: str) -> int:
    """How many windows one axis has; NetError, naming ``side``, where it has none."""
    given = {"size": size, "kernel": kernel, "pad": pad, "stride": stride, "dilation": dilation}
    for name, value in given.items():
        low = 0 if name == "pad" else 1
        if not low <= value <= _LIMIT:
            raise NetError(f"{side}: {name} is {value}, it must be {low} to {_LIMIT}")
    room, extent = size + 2 * pad, dilation * (kernel - 1) + 1
    if extent - room >= stride:
        raise NetError(
            f"{side}: kernel {kernel} with dilation {dilation} covers {extent} values, the input "
            f"of {size} padded by {pad} has only {room}; use a smaller kernel or more padding"
        )
    return max(room - extent, 0) // stride + 1


def im2col(
    image: np.ndarray,
    kernel: Pair,
    pad: Pair = 0,
    stride: Pair = 1,
    dilation: Pair = 1,
    out: np.ndarray | None = None,
    threads: int = 1,
) -> np.ndarray:
    """The columns of ``image``: row (c, kh, kw) is what that kernel element meets of channel c.

    ``image`` is (C, H, W) or (N, C, H, W), float32 or float64; the columns are (C*kh*kw, Ho*Wo) or
    (N, C*kh*kw, Ho*Wo) of the same dtype, padding is zero.  ``out``, C-contiguous and of that shape
    and dtype, is filled and returned.  ``threads`` is how many may share the work, which NumPy
    does alone.  Raises NetError for a geometry that Caffe would refuse and SurgeryError for arrays
    that do not fit.
    """
    image = _array(image, "image", (3, 4))
    window, shape = _geometry(image.shape, kernel, pad, stride, dilation)
    out = _target(out, shape, image)
    bind("im2col", image, out, window, threads)()
    return out


def col2im(
    columns: np.ndarray,
    shape: Sequence[int],
    kernel: Pair,
    pad: Pair = 0,
    stride: Pair = 1,
    dilation: Pair = 1,
    out: np.ndarray | None = None,
    threads: int = 1,
) -> np.ndarray:
    """The image of ``shape`` (C, H, W) or (N, C, H, W) whose pixels are sums over ``columns``.

    Takes what ``im2col`` returns for that shape; each pixel is the sum of its copies in the
    columns, added up in Caffe's order (kh, then kw).  ``out``, ``threads`` and errors as in
    ``im2col``.
    """
    shape = tuple(_index(v, "shape") for v in shape)
    if len(shape) not in (3, 4):
        raise SurgeryError(f"the image's shape is {shape}, it must be (C, H, W) or (N, C, H, W)")
    window, expected = _geometry(shape, kernel, pad, stride, dilation)
    columns = _array(columns, "columns", (len(expected),))
    if columns.shape != expected:
        raise SurgeryError(
            f"the columns are {columns.shape}; an image {shape} under this kernel has {expected}"
        )
    out = _target(out, shape, columns)
    bind("col2im", out, columns, window, threads)()
    return out


def bind(name: str, image: np.ndarray, columns: np.ndarray, window, threads: int = 1):
    """One call of 'im2col' or 'col2im' on arrays that fit, as a function without arguments.

    ``window`` is (kernel, pad, stride, dilation), each a tuple with one entry for each spatial
    axis; the C extension takes two of them, NumPy any number.
    """
    if not 1 <= threads <= MOST_THREADS:
        raise SurgeryError(f"threads is {threads}, it must be 1 to {MOST_THREADS}")
    if _im2col is None or len(window[0]) != 2:
        work = {"im2col": _im2col_numpy, "col2im": _col2im_numpy}[name]
        return partial(work, image, columns, *window)
    return partial(getattr(_im2col, name), image, columns, *window, threads)


def by_group(columns: np.ndarray, group: int) -> np.ndarray:
    """``columns`` (..., C*kh*kw, L) as a view (..., group, C/group*kh*kw, L): a GEMM per group.

    Channels are the slowest axis of the rows, so the rows of a group lie together.
    """
    rows = columns.shape[-2]
    if group < 1 or rows % group:
        raise NetError(f"{rows} rows of columns cannot be split into {group} groups")
    return columns.reshape(*columns.shape[:-2], group, rows // group, columns.shape[-1])


def _pair(value: Pair, name: str) -> tuple[int, int]:
    if isinstance(value, Sequence) or getattr(value, "ndim", 0):
        if len(value) != 2:
            raise NetError(f"{name} is {value!r}, it must be one number or (height, width)")
        return _index(value[0], name), _index(value[1], name)
    return (_index(value, name),) * 2


def _index(value, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise NetError(f"{name} is {value!r}, it must be a whole number") from None


def _geometry(shape, kernel, pad, stride, dilation):
    """The window as pairs, and the shape of the columns of an image of ``shape``."""
    if min(shape) < 1:
        raise SurgeryError(f"the image's shape is {shape}, every size must be at least 1")
    names = ("kernel", "pad", "stride", "dilation")
    window = tuple(_pair(v, n) for v, n in zip((kernel, pad, stride, dilation), names))
    high, wide = output_size(shape[-2:], *window)
    rows = shape[-3] * window[0][0] * window[0][1]
    columns = (*shape[:-3], rows, high * wide)
    if np.prod(columns, dtype=object) > sys.maxsize // 8:
        raise NetError(f"the columns of an image {shape} would be {columns}: too large to hold")
    return window, columns


def _array(array, name: str, axes: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype not in (np.float32, np.float64):
        raise SurgeryError(f"{name} is {array.dtype}, it must be float32 or float64")
    if array.ndim not in axes:
        wanted = " or ".join(map(str, axes))
        raise SurgeryError(f"{name} has shape {array.shape}, it must have {wanted} axes")
    return np.require(array, requirements="CA")


def _target(out: np.ndarray | None, shape: tuple[int, ...], source: np.ndarray) -> np.ndarray:
    if out is None:
        return _allocate(np.empty, shape, source.dtype)
    if out.shape != shape or out.dtype != source.dtype:
        raise SurgeryError(
            f"out is {out.dtype} {out.shape}, it must be {source.dtype} {shape} to take the result"
        )
    if not (out.flags.c_contiguous and out.flags.writeable and out.flags.aligned):
        raise SurgeryError("out must be C-contiguous, aligned and writable")
    if np.may_share_memory(out, source):
        raise SurgeryError("out shares memory with the input; give it an array of its own")
    return out


def _allocate(make, shape: tuple[int, ...], dtype) -> np.ndarray:
    try:
        return make(shape, dtype)
    except (MemoryError, ValueError):
        raise SurgeryError(f"no memory for an array {shape} of {dtype}") from None


def _im2col_numpy(image, columns, kernel, pad, stride, dilation) -> None:
    """Fills ``columns`` from a strided view on the padded image."""
    padded, inside, size = _padded(image, kernel, pad, stride, dilation)
    padded[inside] = image
    axes = len(kernel)
    steps = padded.strides[-axes:]
    windows = np.lib.stride_tricks.as_strided(
        padded,
        (*padded.shape[:-axes], *kernel, *size),
        (
            *padded.strides[:-axes],
            *(step * d for step, d in zip(steps, dilation)),
            *(step * s for step, s in zip(steps, stride)),
        ),
        writeable=False,
    )
    np.copyto(columns.reshape(windows.shape), windows)


def _col2im_numpy(image, columns, kernel, pad, stride, dilation) -> None:
    """Adds ``columns`` up into ``image``, one kernel element after the other."""
    padded, inside, size = _padded(image, kernel, pad, stride, dilation)
    windows = columns.reshape(*image.shape[: -len(kernel)], *kernel, *size)
    for taps in np.ndindex(*kernel):
        meet = tuple(
            slice(tap * d, tap * d + (count - 1) * s + 1, s)
            for tap, d, count, s in zip(taps, dilation, size, stride)
        )
        part = (Ellipsis, *taps, *(slice(None),) * len(size))
        padded[(Ellipsis, *meet)] += windows[part]
    image[...] = padded[inside]


def _padded(image, kernel, pad, stride, dilation):
    """(Zeros around the image as far as any window reaches, where the image lies, windows)."""
    axes = len(kernel)
    spatial = image.shape[-axes:]
    size = tuple(windows(*axis, "axis") for axis in zip(spatial, kernel, pad, stride, dilation))
    reach = (d * (k - 1) + (n - 1) * s + 1 for k, n, s, d in zip(kernel, size, stride, dilation))
    extents = (max(n + 2 * p, r) for n, p, r in zip(spatial, pad, reach))
    zeros = _allocate(np.zeros, (*image.shape[:-axes], *extents), image.dtype)
    return zeros, (Ellipsis, *(slice(p, p + n) for p, n in zip(pad, spatial))), size
