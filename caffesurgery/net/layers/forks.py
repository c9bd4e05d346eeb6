"""Element-wise and reordering layers that forks of Caffe added.

Bottoms and parameters as those forks have them (proto/forks.proto); the names of the forks stand
with each type.  Layers for regions and boxes are in regions.py and detection.py.
"""

from __future__ import annotations

import numpy as np

from .base import LayerType, count, four_axes, legacy, refuse, register, show
from .normalisation import centre


@register
class ReLU6(LayerType):
    """min(max(x, 0), 6), of the MobileNets."""

    types = ("ReLU6",)
    not_exported = "negative_slope is refused"
    origin = "MobileNet"
    any_size = True

    def onnx(self, layer, g):
        if layer.params("relu6_param")["negative_slope"]:
            g.unsupported("a negative_slope makes it another function")
        g.output(0, g.node("Clip", [g.input(), g.const(0.0, "min"), g.const(6.0, "max")]))


@register
class Mish(LayerType):
    """x * tanh(log(1 + exp(x))), of YOLOv4."""

    types = ("Mish",)
    origin = "YOLOv4"
    any_size = True

    def onnx(self, layer, g):
        gate = g.node("Tanh", [g.node("Softplus", [g.input()])])
        g.output(0, g.node("Mul", [g.input(), gate]))


@register
class Axpy(LayerType):
    """a * x + y with one a for each channel (N x C or N x C x 1 x 1), of SENet."""

    types = ("Axpy",)
    origin = "SENet"
    takes = (3, 3)
    any_size = True

    def tops(self, layer, bottoms):
        factor, bottom, term = bottoms
        if bottom != term or factor[:2] != bottom[:2] or count(factor, 2) != 1:
            shapes = ", ".join(map(show, bottoms))
            raise refuse(layer, f"expected bottoms NxC, NxCxHxW and NxCxHxW, met {shapes}")
        return [bottom]

    def onnx(self, layer, g):
        axes = len(g.bottom_shapes[1])
        factor = g.reshape(g.input(0), g.bottom_dims[0][:2] + (1,) * (axes - 2))
        g.output(0, g.node("Add", [g.node("Mul", [factor, g.input(1)]), g.input(2)]))


@register
class Permute(LayerType):
    """Axes in another order; those that ``order`` leaves out follow in theirs (SSD)."""

    types = ("Permute",)
    origin = "SSD"
    in_place = False
    any_size = True

    def tops(self, layer, bottoms):
        return [tuple(bottoms[0][axis] for axis in self.order(layer, bottoms[0]))]

    def order(self, layer, bottom) -> tuple[int, ...]:
        order = layer.params("permute_param")["order"]
        if len(set(order)) != len(order) or any(axis >= len(bottom) for axis in order):
            raise refuse(
                layer, f"order {order} must name axes of a bottom of {show(bottom)} once each"
            )
        return order + tuple(axis for axis in range(len(bottom)) if axis not in order)

    def onnx(self, layer, g):
        order = self.order(layer, g.bottom_shapes[0])
        moved = [axis for axis in order if g.bottom_dims[0][axis] != 1]
        if moved == sorted(moved):
            g.output(0, g.reshape(g.input(), g.top_dims[0]))
        else:
            g.output(0, g.node("Transpose", [g.input()], {"perm": order}))


@register
class ShuffleChannel(LayerType):
    """Channels of all groups in turns: the first of each, the second of each ... (ShuffleNet)."""

    types = ("ShuffleChannel",)
    origin = "ShuffleNet"
    any_size = True

    def tops(self, layer, bottoms):
        group, bottom = layer.params("shuffle_channel_param")["group"], bottoms[0]
        if len(bottom) < 2 or group < 1 or bottom[1] % group:
            raise refuse(layer, f"group {group} must divide the channels of {show(bottom)}")
        return [bottom]

    def onnx(self, layer, g):
        group, channels = layer.params("shuffle_channel_param")["group"], g.bottom_shapes[0][1]
        if group in (1, channels):
            g.output(0, g.input())
            return
        turns = np.arange(channels).reshape(group, -1).T.ravel()
        g.output(0, g.node("Gather", [g.input(), g.ints(turns, "turns")], {"axis": 1}))


@register
class Reorg(LayerType):
    """Darknet's rearrangement of YOLOv2: stride x stride times the channels of 1 / stride the size.

    Its order is that of Darknet, which reads its bottom as if that had been ``reverse``-d already.
    """

    types = ("Reorg",)
    origin = "YOLOv2"
    in_place = False

    def tops(self, layer, bottoms):
        batch, channels, height, width = four_axes(layer, bottoms[0])
        stride, reverse = self._stride(layer)
        if reverse:
            whole, shape = channels, (channels // stride**2, height * stride, width * stride)
        else:
            whole, shape = channels, (channels * stride**2, height // stride, width // stride)
            if height % stride or width % stride:
                raise refuse(layer, f"stride {stride} must divide height and width of the bottom")
        if whole % stride**2:
            raise refuse(layer, f"stride {stride} squared must divide {channels} channels")
        return [(batch, *shape)]

    def _stride(self, layer) -> tuple[int, bool]:
        params = layer.params("reorg_param")
        if params["stride"] < 1:
            raise refuse(layer, "reorg_param.stride must be above 0")
        return params["stride"], params["reverse"]

    def onnx(self, layer, g):
        stride, reverse = self._stride(layer)
        _, channels, height, width = g.bottom_shapes[0]
        batch, few = g.bottom_dims[0][0], channels // stride**2
        if reverse:
            dims, order = (batch, stride, stride, few * height, width), (0, 3, 1, 4, 2)
        else:
            dims, order = (batch, few * height, stride, width, stride), (0, 2, 4, 1, 3)
        turned = g.node("Transpose", [g.reshape(g.input(), dims)], {"perm": order})
        g.output(0, g.reshape(turned, g.top_dims[0]))


@register
class Region(LayerType):
    """The head of YOLOv2 as converters from Darknet write it; its bottom is handed on as it is.

    Box coordinates, objectness and class scores stay raw: an app applies sigmoid and softmax.
    """

    types = ("Region",)
    origin = "YOLOv2"
    takes = (1, None)
    any_size = True

    def onnx(self, layer, g):
        g.output(0, g.input())


@register
class Normalize(LayerType):
    """Divides by the L2 norm over channels (and, ``across_spatial``, places); learned scale (SSD).

    Blob: one scale for all (no axes), or one for each channel.  With ``normalize_param`` it is
    another fork's type, which has no scale.
    """

    types = ("Normalize",)
    origin = "SSD"
    not_exported = "normalize_param (another fork's) is refused"
    any_size = True

    def blobs(self, layer, bottoms):
        if layer.has("normalize_param"):
            return []
        channels = four_axes(layer, bottoms[0])[1]
        return [() if layer.params("norm_param")["channel_shared"] else (channels,)]

    def onnx(self, layer, g):
        if layer.has("normalize_param"):
            g.unsupported("normalize_param makes it another fork's layer")
        params = layer.params("norm_param")
        axes = [1, 2, 3] if params["across_spatial"] else [1]
        square = g.reduce("ReduceSumSquare", g.input(), axes)
        norm = g.node("Sqrt", [g.node("Add", [square, g.const(params["eps"], "eps")])])
        top, scale = g.node("Div", [g.input(), norm]), g.weight(0)
        if (scale != 1).any():
            top = g.node("Mul", [top, g.const(scale.reshape(-1, 1, 1), "scale")])
        g.output(0, top)


@register
class BN(LayerType):
    """Batch normalisation of SegNet (blobs scale, shift) or PSPNet (slope, bias, mean, variance).

    SegNet's bn_mode LEARN takes the statistics of the batch even in the TEST phase; in INFERENCE
    they are part of scale and shift.  A bn_param with scale_filler, shift_filler or bn_mode is
    SegNet's, every other one PSPNet's.
    """

    types = ("BN",)
    origin = "SegNet, PSPNet"
    any_size = True

    def _is_segnets(self, params) -> bool:
        return any(params.has(name) for name in ("bn_mode", "scale_filler", "shift_filler"))

    def blobs(self, layer, bottoms):
        channels = legacy(layer, bottoms[0])[1]
        return [(1, channels, 1, 1)] * (2 if self._is_segnets(layer.params("bn_param")) else 4)

    def onnx(self, layer, g):
        params = layer.params("bn_param")
        axes = len(g.bottom_shapes[0])
        scale, shift = g.weight(0).ravel(), g.weight(1).ravel()
        if not self._is_segnets(params):
            terms = [scale, shift, g.weight(2).ravel(), g.weight(3).ravel()]
            terms = [g.const(t, n) for t, n in zip(terms, ("slope", "bias", "mean", "variance"))]
            attrs = {"epsilon": params["eps"]}
            g.output(0, g.node("BatchNormalization", [g.input(), *terms], attrs))
            return
        top = g.input()
        if params["bn_mode"] == "LEARN":
            centred, variance = centre(g, top, [axis for axis in range(axes) if axis != 1])
            eps = g.const(1e-9, "eps")  # SegNet's own, which its prototxts cannot change
            top = g.node("Div", [centred, g.node("Sqrt", [g.node("Add", [variance, eps])])])
        spread = (-1,) + (1,) * (axes - 2)
        top = g.node("Mul", [top, g.const(scale.reshape(spread), "scale")])
        g.output(0, g.node("Add", [top, g.const(shift.reshape(spread), "shift")]))
