"""Convolution, Deconvolution and Im2col: columns of one image at a time, and a GEMM per group.

As in Caffe a 1x1 kernel without stride and padding multiplies the image itself, and the columns of
all other kernels are written out; col2im adds up those of a deconvolution.  Where a group has few
outputs its product takes no longer than reading its columns, so that these are written for a few
groups at a time, which stay in the cache, and not for all as by Caffe.
"""

from __future__ import annotations

import numpy as np

from ..cost.columns import columns_of, image_of
from ..net.layers import lookup
from ..net.layers.window import Window, conv_window
from .kernel import Compute, Job, computes, nothing

_NEAR = 1 << 20  # bytes of columns that stay in the cache until they are multiplied
_FEW = 16  # outputs of a group whose product is a matter of memory


@computes("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise")
def convolution(job: Job) -> Compute:
    """Top of every image: kernel (as a matrix per group) times columns, plus bias."""
    axis, window = conv_window(job.layer, job.bottom.shape)
    if not job.top.size:
        return nothing
    group = lookup(job.layer.type).groups(job.layer, job.bottom.shape[axis])
    kernel = job.blobs[0].reshape(group, job.top.shape[axis] // group, -1)
    pixels = _pixels(job.top, axis)
    bias = job.blobs[1].reshape(group, -1, 1) if len(job.blobs) > 1 else None
    direct = is_direct(window)
    most = group if direct else _groups_at_a_time(kernel, pixels)
    columns = None if direct else job.scratch((most * kernel.shape[2], pixels))
    steps = []
    for image, out in _images(job, axis):
        maps, tops = image.reshape(group, -1, *image.shape[1:]), out.reshape(group, -1, pixels)
        for first in range(0, group, most):
            some = slice(first, min(first + most, group))
            few, seen, fill = kernel[some], maps[some].reshape(-1, *image.shape[1:]), nothing
            if not direct:
                made = columns[: len(few) * kernel.shape[2]]
                fill, seen = columns_of(seen, made, *_axes(window), job.threads), made
            operands = _per_group(few, seen.reshape(len(few), -1, pixels), tops[some])
            steps.append((fill, operands, tops[some], None if bias is None else bias[some]))

    def run():
        for fill, operands, top, terms in steps:
            fill()
            np.matmul(*operands)
            if terms is not None:
                np.add(top, terms, top)

    return run


@computes("Deconvolution")
def deconvolution(job: Job) -> Compute:
    """Columns: transposed kernel per group times the image; col2im makes the top of them."""
    axis, window = conv_window(job.layer, job.bottom.shape)
    if not job.top.size:
        return nothing
    group = lookup(job.layer.type).groups(job.layer, job.bottom.shape[axis])
    kernel = job.blobs[0].reshape(group, job.bottom.shape[axis] // group, -1)
    rows, pixels = group * kernel.shape[2], _pixels(job.bottom, axis)
    bias = job.blobs[1].reshape(-1, 1) if len(job.blobs) > 1 else None
    direct = is_direct(window)
    columns = None if direct else job.scratch((rows, pixels))
    steps = []
    for image, out in _images(job, axis):
        made = out.reshape(rows, pixels) if direct else columns
        add_up = nothing if direct else image_of(columns, out, *_axes(window), job.threads)
        turned = kernel.transpose(0, 2, 1)
        operands = _per_group(turned, image.reshape(group, -1, pixels), made)
        steps.append((operands, add_up, out.reshape(len(out), -1)))

    def run():
        for operands, add_up, out in steps:
            np.matmul(*operands)
            add_up()
            if bias is not None:
                np.add(out, bias, out)

    return run


@computes("Im2col")
def im2col_layer(job: Job) -> Compute:
    """The patches of a convolution as channels."""
    axis, window = conv_window(job.layer, job.bottom.shape)
    fills = [
        columns_of(image, out.reshape(len(out), -1), *_axes(window), job.threads)
        for image, out in _images(job, axis)
    ]

    def run():
        for fill in fills:
            fill()

    return run


def is_direct(window: Window) -> bool:
    """Whether the columns are the image itself (Caffe's is_1x1)."""
    return set(window.kernel) | set(window.stride) <= {1} and not any(window.pad)


def _axes(window: Window) -> tuple:
    return window.kernel, window.pad, window.stride, window.dilation


def _groups_at_a_time(kernel: np.ndarray, pixels: int) -> int:
    """Of how many groups, of a kernel (group, outputs, inputs), columns are written at a time."""
    group, outputs, inputs = kernel.shape
    return group if outputs > _FEW else min(group, max(1, _NEAR // (4 * inputs * pixels)))


def _pixels(blob: np.ndarray, axis: int) -> int:
    return int(np.prod(blob.shape[axis + 1 :], dtype=int))


def _images(job: Job, axis: int):
    """Pairs (image, top) with the channels as first axis, over all bottoms and items."""
    for bottom, top in zip(job.bottoms, job.tops):
        yield from zip(bottom.reshape(-1, *bottom.shape[axis:]), top.reshape(-1, *top.shape[axis:]))


def _per_group(kernel: np.ndarray, columns: np.ndarray, out: np.ndarray) -> tuple:
    """Operands of one matmul: a plain product for one group, a loop over groups in C for more."""
    if len(kernel) == 1:
        return kernel[0], columns[0], out.reshape(-1, columns.shape[2])
    return kernel, columns, out.reshape(len(kernel), -1, columns.shape[2])
