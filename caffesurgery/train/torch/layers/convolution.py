"""Convolution, Deconvolution and Im2col over one, two or three spatial axes."""

from __future__ import annotations

from math import prod

import torch.nn.functional as F

from ....net.layers import lookup
from ....net.layers.window import Window, conv_window
from .base import Build, Forward, trains

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _window(build: Build, known: dict) -> tuple[int, Window]:
    axis, window = conv_window(build.layer, build.bottom)
    if len(window.kernel) not in known:
        raise build.refuse(
            f"has {len(window.kernel)} spatial axes; without Caffe 1 to 3 can be trained"
        )
    return axis, window


def _of_all(build: Build, axis: int, convolve) -> Forward:
    """``convolve(x, kernel, bias)`` of every bottom, the axes before the channels made one."""

    def forward(bottoms, blobs):
        kernel, bias = blobs if len(blobs) == 2 else (blobs[0], None)
        tops = []
        for bottom, shape in zip(bottoms, build.entry.tops):
            x = bottom if axis == 1 else bottom.reshape(prod(shape[:axis]), *bottom.shape[axis:])
            top = convolve(x, kernel, bias)
            tops.append(top if axis == 1 else top.reshape(shape))
        return tops[0] if len(tops) == 1 else tuple(tops)

    return forward


@trains("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise")
def convolution(build: Build) -> Forward:
    """Correlation with the kernels, plus bias."""
    axis, window = _window(build, _CONVOLVE)
    group = lookup(build.layer.type).groups(build.layer, build.bottom[axis])
    function = _CONVOLVE[len(window.kernel)]
    rest = window.stride, window.pad, window.dilation, group
    return _of_all(build, axis, lambda x, kernel, bias: function(x, kernel, bias, *rest))


@trains("Deconvolution")
def deconvolution(build: Build) -> Forward:
    """The transpose of a convolution, plus bias."""
    axis, window = _window(build, _TRANSPOSED)
    group = lookup(build.layer.type).groups(build.layer, build.bottom[axis])
    function = _TRANSPOSED[len(window.kernel)]
    rest = window.stride, window.pad, 0, group, window.dilation
    return _of_all(build, axis, lambda x, kernel, bias: function(x, kernel, bias, *rest))


@trains("Im2col")
def im2col(build: Build) -> Forward:
    """The patches of a convolution over two axes as channels."""
    axis, window = _window(build, {2: None})
    if axis != 1:
        raise build.refuse("its channels must be at axis 1")
    rest = window.kernel, window.dilation, window.pad, window.stride

    def forward(bottoms, blobs):
        tops = [F.unfold(x, *rest).reshape(s) for x, s in zip(bottoms, build.entry.tops)]
        return tops[0] if len(tops) == 1 else tuple(tops)

    return forward
