"""Normalisation, and the per-channel factors and terms that go with it."""

from __future__ import annotations

import numpy as np

from .base import LayerType, Shape, axis_of, four_axes, legacy, refuse, register, show


@register
class BatchNorm(LayerType):
    """Blobs: mean (C), variance (C) and the factor (1) by which both have to be divided."""

    types = ("BatchNorm",)
    any_size = True

    def tops(self, layer, bottoms):
        if len(bottoms[0]) < 2:
            raise refuse(layer, f"needs a channel axis 1, met a bottom of {show(bottoms[0])}")
        learned = [spec for spec in layer.specs[:3] if spec.lr_mult != 0]
        if learned:
            raise refuse(
                layer,
                f"has a param with lr_mult {learned[0].lr_mult:g}; its statistics are not "
                "learned: leave param out, or set lr_mult: 0",
            )
        return [bottoms[0]]

    def blobs(self, layer, bottoms):
        channels = bottoms[0][1:2]
        return [channels, channels, (1,)]

    def onnx(self, layer, g):
        params = layer.params("batch_norm_param")
        eps = params["eps"]
        if params.has("use_global_stats") and not params["use_global_stats"]:
            axes = [axis for axis in range(len(g.bottom_shapes[0])) if axis != 1]
            centred, variance = centre(g, g.input(), axes)
            deviation = g.node("Sqrt", [g.node("Add", [variance, g.const(eps, "eps")])])
            g.output(0, g.node("Div", [centred, deviation]))
            return
        mean, variance, factor = (g.weight(i) for i in range(3))
        factor = 1 / factor[0] if factor[0] else factor[0]
        terms = [
            g.const(np.ones(mean.shape), "one"),
            g.const(np.zeros(mean.shape), "zero"),
            g.const(mean * factor, "mean"),
            g.const(variance * factor, "variance"),
        ]
        g.output(0, g.node("BatchNormalization", [g.input(), *terms], {"epsilon": eps}))


@register
class LRN(LayerType):
    """Local response normalisation across or within channels."""

    types = ("LRN",)
    any_size = True

    def tops(self, layer, bottoms):
        size = layer.params("lrn_param")["local_size"]
        if size % 2 == 0:
            raise refuse(layer, f"local_size {size} must be odd")
        return [four_axes(layer, bottoms[0])]

    def onnx(self, layer, g):
        params = layer.params("lrn_param")
        size, alpha, beta = params["local_size"], params["alpha"], params["beta"]
        if params["norm_region"] == "ACROSS_CHANNELS":
            attrs = {"size": size, "alpha": alpha, "beta": beta, "bias": params["k"]}
            g.output(0, g.node("LRN", [g.input()], attrs))
            return
        square = g.node("Mul", [g.input(), g.input()])
        pads = {"kernel_shape": [size] * 2, "strides": [1, 1], "pads": [size // 2] * 4}
        mean = g.node("AveragePool", [square], {**pads, "count_include_pad": 1})
        base = g.node("Mul", [mean, g.const(alpha, "alpha")])
        base = g.node("Add", [base, g.const(1.0, "one")])  # k is not used within channels
        power = g.node("Pow", [base, g.const(-beta, "beta")])
        g.output(0, g.node("Mul", [g.input(), power]))


@register
class MVN(LayerType):
    """Mean and variance normalisation; its top always has 4 axes."""

    types = ("MVN",)
    any_size = True

    def tops(self, layer, bottoms):
        return [legacy(layer, bottoms[0])]

    def onnx(self, layer, g):
        params = layer.params("mvn_param")
        four = len(g.bottom_shapes[0]) == 4
        bottom = g.input() if four else g.reshape(g.input(), g.top_dims[0])
        top, variance = centre(g, bottom, [1, 2, 3] if params["across_channels"] else [2, 3])
        if params["normalize_variance"]:
            eps = g.const(params["eps"], "eps")
            top = g.node("Div", [top, g.node("Add", [g.node("Sqrt", [variance]), eps])])
        g.output(0, top)


def factor_shape(layer, bottom: Shape, params) -> Shape:
    """Shape of a learned factor or term: ``num_axes`` axes (-1: all) of bottom 0 from ``axis``."""
    axis, axes = axis_of(layer, bottom, params["axis"]), params["num_axes"]
    if axes < -1 or axis + axes > len(bottom):
        raise refuse(
            layer,
            f"num_axes {axes} from axis {axis} on does not fit a bottom of {show(bottom)}; "
            "expected -1 for all axes, or at most as many as are left",
        )
    return bottom[axis:] if axes == -1 else bottom[axis : axis + axes]


def check_factor(layer, bottom: Shape, factor: Shape, axis: int) -> int:
    """The axis of bottom 0 at which ``factor``'s axes begin; refused where dimensions differ."""
    start = axis_of(layer, bottom, axis) if factor else 0
    if bottom[start : start + len(factor)] != factor:
        raise refuse(
            layer,
            f"a factor of {show(factor)} does not fit a bottom of {show(bottom)} "
            f"from axis {start} on",
        )
    return start


@register
class Scale(LayerType):
    """Multiplies by a learned factor, or by bottom 1; ``bias_term`` adds a learned term."""

    types = ("Scale",)
    any_size = True
    takes = (1, 2)

    def tops(self, layer, bottoms):
        params = layer.params("scale_param")
        factor = bottoms[1] if len(bottoms) > 1 else factor_shape(layer, bottoms[0], params)
        check_factor(layer, bottoms[0], factor, params["axis"])
        return [bottoms[0]]

    def blobs(self, layer, bottoms):
        params = layer.params("scale_param")
        if len(bottoms) == 1:
            factor = factor_shape(layer, bottoms[0], params)
            return [factor, factor] if params["bias_term"] else [factor]
        return [bottoms[1]] if params["bias_term"] else []

    def onnx(self, layer, g):
        params = layer.params("scale_param")
        factor = spread(layer, g, params["axis"], 0)
        top = g.node("Mul", [g.input(), factor])
        if params["bias_term"]:
            weight = 0 if len(layer.bottoms) > 1 else 1
            term = spread(layer, g, params["axis"], weight, learned=True)
            top = g.node("Add", [top, term])
        g.output(0, top)


@register
class Bias(LayerType):
    """Adds a learned term, or bottom 1."""

    types = ("Bias",)
    any_size = True
    takes = (1, 2)

    def tops(self, layer, bottoms):
        params = layer.params("bias_param")
        term = bottoms[1] if len(bottoms) > 1 else factor_shape(layer, bottoms[0], params)
        check_factor(layer, bottoms[0], term, params["axis"])
        return [bottoms[0]]

    def blobs(self, layer, bottoms):
        if len(bottoms) > 1:
            return []
        return [factor_shape(layer, bottoms[0], layer.params("bias_param"))]

    def onnx(self, layer, g):
        term = spread(layer, g, layer.params("bias_param")["axis"], 0)
        g.output(0, g.node("Add", [g.input(), term]))


def centre(g, tensor: str, axes: list[int]) -> tuple[str, str]:
    """(Tensor minus its mean over ``axes``, its variance there) in ONNX."""
    centred = g.node("Sub", [tensor, g.reduce("ReduceMean", tensor, axes)])
    square = g.node("Mul", [centred, centred])
    return centred, g.reduce("ReduceMean", square, axes)


def spread(layer, g, axis: int, weight: int, learned: bool = False) -> str:
    """Bottom 1, or a learned blob where there is none, with ones behind to fit bottom 0's axes."""
    axes = len(g.bottom_shapes[0])
    if learned or len(layer.bottoms) == 1:
        blob = g.weight(weight)
        start = check_factor(layer, g.bottom_shapes[0], blob.shape, axis)
        return g.const(blob.reshape(blob.shape + (1,) * (axes - start - blob.ndim)), "factor")
    dims = g.bottom_dims[1]
    start = check_factor(layer, g.bottom_shapes[0], g.bottom_shapes[1], axis)
    return g.reshape(g.input(1), (*dims, *(1,) * (axes - start - len(dims))))
