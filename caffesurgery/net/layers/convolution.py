"""Convolution, Deconvolution and Im2col over any number of spatial axes."""

from __future__ import annotations

import numpy as np

from .base import LayerType, Shape, count, refuse, register, show
from .window import conv_sizes, conv_window, deconv_sizes


def channels_out(layer) -> int:
    """num_output of a convolution, which must be above 0."""
    outputs = layer.params("convolution_param")["num_output"]
    if outputs < 1:
        raise refuse(layer, "num_output must be above 0")
    return outputs


def groups(layer, channels: int) -> int:
    """The number of groups, which must divide both the bottom's channels and num_output."""
    group = layer.params("convolution_param")["group"]
    outputs = channels_out(layer)
    if group < 1 or channels % group or outputs % group:
        raise refuse(
            layer,
            f"group {group} must divide the bottom's {channels} channels and num_output {outputs}",
        )
    return group


def _attrs(window) -> dict:
    return {
        "kernel_shape": window.kernel,
        "strides": window.stride,
        "pads": window.pad * 2,
        "dilations": window.dilation,
    }


class _Sliding(LayerType):
    """What convolution and deconvolution share: one top for each bottom, all alike, one kernel."""

    takes = (1, None)
    gives = (1, None)
    paired = True
    operator = ""

    def groups(self, layer, channels: int) -> int:
        """Into how many groups the bottom's channels are divided."""
        return groups(layer, channels)

    def _sizes(self, spatial: Shape, window) -> Shape:
        raise NotImplementedError

    def _kernel_channels(self, channels: int, outputs: int) -> tuple[int, int]:
        """The kernel's first two dimensions before the second is divided by the groups."""
        raise NotImplementedError

    def tops(self, layer, bottoms):
        first = bottoms[0]
        for index, bottom in enumerate(bottoms):
            if bottom != first:
                raise refuse(
                    layer,
                    f"bottom 0 is {show(first)} but bottom {index} is {show(bottom)}; "
                    "expected equal shapes",
                )
        axis, window = conv_window(layer, first)
        self.groups(layer, first[axis])
        sizes = self._sizes(first[axis + 1 :], window)
        return [first[:axis] + (channels_out(layer),) + sizes] * len(layer.tops)

    def blobs(self, layer, bottoms):
        axis, window = conv_window(layer, bottoms[0])
        channels, outputs = bottoms[0][axis], channels_out(layer)
        first, second = self._kernel_channels(channels, outputs)
        kernel = (first, second // self.groups(layer, channels), *window.kernel)
        bias = layer.params("convolution_param")["bias_term"]
        return [kernel, (outputs,)] if bias else [kernel]

    def onnx(self, layer, g):
        axis, window = conv_window(layer, g.bottom_shapes[0])
        if not window.kernel:
            g.unsupported(f"it has no spatial axis after axis {axis}")
        attrs = {**_attrs(window), "group": self.groups(layer, g.bottom_shapes[0][axis])}
        terms = [g.const(g.weight(0), "weight")]
        if g.has_weight(1):
            terms.append(g.const(g.weight(1), "bias"))
        for index, dims in enumerate(g.bottom_dims):
            bottom = g.reshape(g.input(index), (g.size(dims[:axis]), *dims[axis:]))
            top = g.node(self.operator, [bottom, *terms], attrs)
            g.output(index, g.reshape(top, g.top_dims[index]) if axis != 1 else top)


@register
class Convolution(_Sliding):
    """Kernel (num_output, channels / group, *kernel) and bias (num_output)."""

    types = ("Convolution",)
    any_size = True
    operator = "Conv"

    def _sizes(self, spatial, window):
        return conv_sizes(spatial, window)

    def _kernel_channels(self, channels, outputs):
        return outputs, channels

    def macs(self, layer, bottoms, tops):
        per_output = count(self.blobs(layer, bottoms)[0], 1)
        return sum(count(top) for top in tops) * per_output


@register
class DepthwiseConvolution(Convolution):
    """A Convolution with kernels of its own for one channel each, as forks name it.

    ConvolutionDepthwise always has one group for each channel, DepthwiseConvolution as many as
    ``group`` says.
    """

    types = ("DepthwiseConvolution", "ConvolutionDepthwise")
    origin = "MobileNet"

    def groups(self, layer, channels):
        if layer.type == "DepthwiseConvolution":
            return groups(layer, channels)
        if channels_out(layer) % channels:
            raise refuse(
                layer, f"num_output {channels_out(layer)} must be a multiple of {channels} channels"
            )
        return channels


@register
class Deconvolution(_Sliding):
    """Kernel (channels, num_output / group, *kernel) and bias (num_output)."""

    types = ("Deconvolution",)
    any_size = True
    operator = "ConvTranspose"

    def _sizes(self, spatial, window):
        return deconv_sizes(spatial, window)

    def _kernel_channels(self, channels, outputs):
        return channels, outputs

    def macs(self, layer, bottoms, tops):
        per_input = count(self.blobs(layer, bottoms)[0], 1)
        return sum(count(bottom) for bottom in bottoms) * per_input


@register
class Im2col(LayerType):
    """The patches of a convolution as channels; in ONNX a convolution that picks each tap."""

    types = ("Im2col",)

    def tops(self, layer, bottoms):
        bottom = bottoms[0]
        axis, window = conv_window(layer, bottom)
        if not window.kernel:
            raise refuse(layer, f"needs a spatial axis after axis {axis} of {show(bottom)}")
        sizes = conv_sizes(bottom[axis + 1 :], window)
        return [bottom[:axis] + (bottom[axis] * count(window.kernel),) + sizes]

    def onnx(self, layer, g):
        axis, window = conv_window(layer, g.bottom_shapes[0])
        dims, channels, taps = g.bottom_dims[0], g.bottom_shapes[0][axis], count(window.kernel)
        pick = np.concatenate([np.eye(taps).reshape(taps, 1, *window.kernel)] * channels)
        bottom = g.reshape(g.input(), (g.size(dims[:axis]), *dims[axis:]))
        top = g.node("Conv", [bottom, g.const(pick, "pick")], {**_attrs(window), "group": channels})
        g.output(0, g.reshape(top, g.top_dims[0]) if axis != 1 else top)
