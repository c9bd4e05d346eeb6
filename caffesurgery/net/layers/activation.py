"""Layers that map every element by itself: one bottom, one top of the same shape."""

from __future__ import annotations

from math import log

from .base import LayerType, legacy, refuse, register, show


@register
class ReLU(LayerType):
    """max(x, 0) + negative_slope * min(x, 0)."""

    types = ("ReLU",)
    any_size = True

    def onnx(self, layer, g):
        slope = layer.params("relu_param")["negative_slope"]
        node = ("LeakyRelu", [g.input()], {"alpha": slope}) if slope else ("Relu", [g.input()])
        g.output(0, g.node(*node))


@register
class PReLU(LayerType):
    """A ReLU whose slopes are learned: one for each channel, or a single one."""

    types = ("PReLU",)
    any_size = True

    def tops(self, layer, bottoms):
        if len(bottoms[0]) < 2:
            raise refuse(layer, f"needs a bottom of 2 axes or more, met {show(bottoms[0])}")
        return [bottoms[0]]

    def blobs(self, layer, bottoms):
        channels = legacy(layer, bottoms[0])[1]
        return [() if layer.params("prelu_param")["channel_shared"] else (channels,)]

    def onnx(self, layer, g):
        slope = g.weight(0)
        slope = slope.reshape(slope.shape + (1,) * (len(g.bottom_shapes[0]) - 2))
        g.output(0, g.node("PRelu", [g.input(), g.const(slope, "slope")]))


@register
class ELU(LayerType):
    """x above 0, alpha * (exp(x) - 1) below."""

    types = ("ELU",)
    any_size = True

    def onnx(self, layer, g):
        alpha = layer.params("elu_param")["alpha"]
        g.output(0, g.node("Elu", [g.input()], {"alpha": alpha}))


@register
class Sigmoid(LayerType):
    """1 / (1 + exp(-x))."""

    types = ("Sigmoid",)
    any_size = True

    def onnx(self, layer, g):
        g.output(0, g.node("Sigmoid", [g.input()]))


@register
class TanH(LayerType):
    """Hyperbolic tangent."""

    types = ("TanH",)
    any_size = True

    def onnx(self, layer, g):
        g.output(0, g.node("Tanh", [g.input()]))


@register
class BNLL(LayerType):
    """log(1 + exp(x))."""

    types = ("BNLL",)
    any_size = True

    def onnx(self, layer, g):
        g.output(0, g.node("Softplus", [g.input()]))


@register
class Swish(LayerType):
    """x * sigmoid(beta * x)."""

    types = ("Swish",)
    any_size = True

    def onnx(self, layer, g):
        scaled = affine(g, g.input(), layer.params("swish_param")["beta"], 0)
        g.output(0, g.node("Mul", [g.input(), g.node("Sigmoid", [scaled])]))


@register
class AbsVal(LayerType):
    """|x|; not in place."""

    types = ("AbsVal",)
    any_size = True
    in_place = False

    def onnx(self, layer, g):
        g.output(0, g.node("Abs", [g.input()]))


@register
class Power(LayerType):
    """(shift + scale * x) ** power."""

    types = ("Power",)
    any_size = True

    def onnx(self, layer, g):
        params = layer.params("power_param")
        base = affine(g, g.input(), params["scale"], params["shift"])
        if params["power"] == 2:
            base = g.node("Mul", [base, base])
        elif params["power"] != 1:
            base = g.node("Pow", [base, g.const(params["power"], "power")])
        g.output(0, base)


@register
class Exp(LayerType):
    """base ** (shift + scale * x); base -1 stands for e."""

    types = ("Exp",)
    any_size = True

    def tops(self, layer, bottoms):
        check_base(layer, layer.params("exp_param")["base"])
        return [bottoms[0]]

    def onnx(self, layer, g):
        params = layer.params("exp_param")
        rate = 1.0 if params["base"] == -1 else log(params["base"])
        exponent = affine(g, g.input(), rate * params["scale"], rate * params["shift"])
        g.output(0, g.node("Exp", [exponent]))


@register
class Log(LayerType):
    """log(shift + scale * x) to a base; base -1 stands for e."""

    types = ("Log",)
    any_size = True

    def tops(self, layer, bottoms):
        base = layer.params("log_param")["base"]
        check_base(layer, base)
        if base == 1:
            raise refuse(layer, "base 1 has no logarithm")
        return [bottoms[0]]

    def onnx(self, layer, g):
        params = layer.params("log_param")
        rate = 1.0 if params["base"] == -1 else 1 / log(params["base"])
        value = g.node("Log", [affine(g, g.input(), params["scale"], params["shift"])])
        g.output(0, affine(g, value, rate, 0))


def check_base(layer, base: float) -> None:
    """Refuse a base of Exp or Log that is neither above 0 nor -1 (which means e)."""
    if base != -1 and base <= 0:
        raise refuse(layer, f"base {base:g} must be above 0, or -1 for e")


@register
class Clip(LayerType):
    """min(max(x, lowest), highest); both bounds are required."""

    types = ("Clip",)
    any_size = True

    def tops(self, layer, bottoms):
        params = layer.params("clip_param")
        missing = [name for name in ("min", "max") if not params.has(name)]
        if missing:
            raise refuse(layer, f"clip_param lacks {' and '.join(missing)}")
        return [bottoms[0]]

    def onnx(self, layer, g):
        params = layer.params("clip_param")
        bounds = [g.const(params[name], name) for name in ("min", "max")]
        g.output(0, g.node("Clip", [g.input(), *bounds]))


@register
class Threshold(LayerType):
    """1 above the threshold, 0 elsewhere."""

    types = ("Threshold",)
    any_size = True

    def onnx(self, layer, g):
        threshold = g.const(layer.params("threshold_param")["threshold"], "threshold")
        g.output(0, g.as_float(g.node("Greater", [g.input(), threshold])))


@register
class Dropout(LayerType):
    """Drops elements while training; passes them on unchanged in the TEST phase."""

    types = ("Dropout",)
    any_size = True

    def onnx(self, layer, g):
        g.output(0, g.input())


def affine(g, tensor: str, scale: float, shift: float) -> str:
    """scale * tensor + shift in ONNX, without the parts that do nothing."""
    if scale != 1:
        tensor = g.node("Mul", [tensor, g.const(scale, "scale")])
    if shift != 0:
        tensor = g.node("Add", [tensor, g.const(shift, "shift")])
    return tensor
