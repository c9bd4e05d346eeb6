"""Caffe's im2col and col2im: an image to the matrix whose GEMM is a convolution, and back.

An array (C, H, W) or (N, C, H, W) of float32 or float64 goes in, columns (C*kh*kw, Ho*Wo) or
(N, C*kh*kw, Ho*Wo) come out, in Caffe's order and with its floor arithmetic; ``col2im`` adds the
columns up again (the gradient of ``im2col``).  The C extension ``caffesurgery._im2col`` does it
without the GIL; where it was not built, or with ``CAFFESURGERY_PURE=1`` in the environment, NumPy
does it with results equal to the bit.  ``backend`` says which: ``"C"`` or ``"NumPy"``.
"""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Sequence
from typing import Union

import numpy as np

from ..errors import NetError, SurgeryError

try:
    if os.environ.get("CAFFESURGERY_PURE", "") not in ("", "0"):
        raise ImportError("CAFFESURGERY_PURE asks for NumPy")
    from .. import _im2col
except ImportError:
    _im2col = None

backend = "NumPy" if _im2col is None else "C"

Pair = Union[int, Sequence[int]]  # one value for both axes, or (height, width)

_LIMIT = 2**31 - 1  # Caffe keeps every size in a C int


def output_size(
    size: Pair, kernel: Pair, pad: Pair = 0, stride: Pair = 1, dilation: Pair = 1
) -> tuple[int, int]:
    """(Ho, Wo) = floor((in + 2 pad - (dilation (kernel - 1) + 1)) / stride) + 1, as in Caffe.

    Raises NetError where a size is out of range or the kernel does not fit the padded input.
    """
    names = ("size", "kernel", "pad", "stride", "dilation")
    pairs = [_pair(v, n) for v, n in zip((size, kernel, pad, stride, dilation), names)]
    out = []
    for side, *values in zip(("height", "width"), *pairs):
        for name, value in zip(names, values):
            low = 0 if name == "pad" else 1
            if not low <= value <= _LIMIT:
                raise NetError(f"{side}: {name} is {value}, it must be {low} to {_LIMIT}")
        n, k, p, s, d = values
        room, extent = n + 2 * p, d * (k - 1) + 1
        if extent > room:
            raise NetError(
                f"{side}: kernel {k} with dilation {d} covers {extent} values, the input of {n} "
                f"padded by {p} has only {room}; use a smaller kernel or more padding"
            )
        out.append((room - extent) // s + 1)
    return out[0], out[1]


def im2col(
    image: np.ndarray,
    kernel: Pair,
    pad: Pair = 0,
    stride: Pair = 1,
    dilation: Pair = 1,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The columns of ``image``: row (c, kh, kw) is what that kernel element meets of channel c.

    ``image`` is (C, H, W) or (N, C, H, W), float32 or float64; the columns are (C*kh*kw, Ho*Wo) or
    (N, C*kh*kw, Ho*Wo) of the same dtype, padding is zero.  ``out``, C-contiguous and of that shape
    and dtype, is filled and returned.  Raises NetError for a geometry that Caffe would refuse and
    SurgeryError for arrays that do not fit.
    """
    image = _array(image, "image", (3, 4))
    window, shape = _geometry(image.shape, kernel, pad, stride, dilation)
    out = _target(out, shape, image)
    fill = _im2col_numpy if _im2col is None else _im2col.im2col
    fill(image, out, *window)
    return out


def col2im(
    columns: np.ndarray,
    shape: Sequence[int],
    kernel: Pair,
    pad: Pair = 0,
    stride: Pair = 1,
    dilation: Pair = 1,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The image of ``shape`` (C, H, W) or (N, C, H, W) whose pixels are sums over ``columns``.

    Takes what ``im2col`` returns for that shape; each pixel is the sum of its copies in the
    columns, added up in Caffe's order (kh, then kw).  ``out`` and errors as in ``im2col``.
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
    add = _col2im_numpy if _im2col is None else _im2col.col2im
    add(out, columns, *window)
    return out


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
    *lead, height, width = image.shape
    padded = _allocate(np.zeros, (*lead, height + 2 * pad[0], width + 2 * pad[1]), image.dtype)
    padded[..., pad[0] : pad[0] + height, pad[1] : pad[1] + width] = image
    size = output_size((height, width), kernel, pad, stride, dilation)
    *outer, down, right = padded.strides
    windows = np.lib.stride_tricks.as_strided(
        padded,
        (*lead, *kernel, *size),
        (*outer, down * dilation[0], right * dilation[1], down * stride[0], right * stride[1]),
        writeable=False,
    )
    np.copyto(columns.reshape(windows.shape), windows)


def _col2im_numpy(image, columns, kernel, pad, stride, dilation) -> None:
    """Adds ``columns`` up into ``image``, one kernel element after the other."""
    *lead, height, width = image.shape
    padded = _allocate(np.zeros, (*lead, height + 2 * pad[0], width + 2 * pad[1]), image.dtype)
    high, wide = output_size((height, width), kernel, pad, stride, dilation)
    windows = columns.reshape(*lead, *kernel, high, wide)
    for y in range(kernel[0]):
        rows = slice(y * dilation[0], y * dilation[0] + (high - 1) * stride[0] + 1, stride[0])
        for x in range(kernel[1]):
            cols = slice(x * dilation[1], x * dilation[1] + (wide - 1) * stride[1] + 1, stride[1])
            padded[..., rows, cols] += windows[..., y, x, :, :]
    image[...] = padded[..., pad[0] : pad[0] + height, pad[1] : pad[1] + width]
