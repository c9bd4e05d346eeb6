"""Convolution, Deconvolution and Im2col: columns of one image at a time, and a GEMM per group.

As in Caffe a 1x1 kernel without stride and padding multiplies the image itself, and the columns of
all other kernels are written out; col2im adds up those of a deconvolution.
"""

from __future__ import annotations

import numpy as np

from ..cost.columns import columns_of, image_of
from ..net.layers import lookup
from ..net.layers.window import Window, conv_window
from .kernel import Compute, Job, computes, nothing


@computes("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise")
def convolution(job: Job) -> Compute:
    """Top of every image: kernel (as a matrix per group) times columns, plus bias."""
    axis, window = conv_window(job.layer, job.bottom.shape)
    if not job.top.size:
        return nothing
    group = lookup(job.layer.type).groups(job.layer, job.bottom.shape[axis])
    kernel = job.blobs[0].reshape(group, job.top.shape[axis] // group, -1)
    rows, pixels = group * kernel.shape[2], _pixels(job.top, axis)
    bias = job.blobs[1].reshape(-1, 1) if len(job.blobs) > 1 else None
    direct = _is_direct(window)
    columns = None if direct else job.scratch((rows, pixels))
    steps = []
    for image, out in _images(job, axis):
        out = out.reshape(-1, pixels)
        taken = image.reshape(rows, pixels) if direct else columns
        fill = nothing if direct else columns_of(image, columns, *_axes(window), job.threads)
        operands = _per_group(kernel, taken.reshape(group, -1, pixels), out)
        steps.append((fill, operands, out))

    def run():
        for fill, operands, out in steps:
            fill()
            np.matmul(*operands)
            if bias is not None:
                np.add(out, bias, out)

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
    direct = _is_direct(window)
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


def _is_direct(window: Window) -> bool:
    """Whether the columns are the image itself (Caffe's is_1x1)."""
    return set(window.kernel) | set(window.stride) <= {1} and not any(window.pad)


def _axes(window: Window) -> tuple:
    return window.kernel, window.pad, window.stride, window.dilation


def _pixels(blob: np.ndarray, axis: int) -> int:
    return int(np.prod(blob.shape[axis + 1 :], dtype=int))


def _images(job: Job, axis: int):
    """Pairs (image, top) with the channels as first axis, over all bottoms and items."""
    for bottom, top in zip(job.bottoms, job.tops):
        yield from zip(bottom.reshape(-1, *bottom.shape[axis:]), top.reshape(-1, *top.shape[axis:]))


def _per_group(kernel: np.ndarray, columns: np.ndarray, out: np.ndarray) -> tuple:
    """Operands of one matmul: a plain product for one group, a loop over groups in C for more."""
    if len(kernel) == 1:
        return kernel[0], columns[0], out
    return kernel, columns, out.reshape(len(kernel), -1, columns.shape[2])
