"""Layers that join, split and route blobs: Eltwise, Concat, Slice, Split, Filter and the like."""

from __future__ import annotations

from .base import LayerType, Shape, axis_of, refuse, register, show


@register
class Eltwise(LayerType):
    """Sum (with coefficients), product or maximum of bottoms of one shape."""

    types = ("Eltwise",)
    any_size = True
    takes = (2, None)

    def tops(self, layer, bottoms):
        params = layer.params("eltwise_param")
        coefficients = len(params["coeff"])
        if coefficients not in (0, len(bottoms)):
            raise refuse(
                layer, f"has {coefficients} coeff for {len(bottoms)} bottoms; expected one for each"
            )
        if coefficients and params["operation"] == "PROD":
            raise refuse(layer, "takes coeff for SUM only")
        for index, bottom in enumerate(bottoms):
            if bottom != bottoms[0]:
                raise refuse(
                    layer,
                    f"bottom 0 '{layer.bottoms[0]}' is {show(bottoms[0])} but bottom {index} "
                    f"'{layer.bottoms[index]}' is {show(bottom)}; expected equal shapes",
                )
        return [bottoms[0]]

    def onnx(self, layer, g):
        params = layer.params("eltwise_param")
        terms = [g.input(i) for i in range(len(layer.bottoms))]
        if params["operation"] == "MAX":
            g.output(0, g.node("Max", terms))
            return
        for i, coefficient in enumerate(params["coeff"]):
            if coefficient != 1:
                terms[i] = g.node("Mul", [terms[i], g.const(coefficient, "coeff")])
        operator = "Mul" if params["operation"] == "PROD" else "Add"
        top = terms[0]
        for term in terms[1:]:
            top = g.node(operator, [top, term])
        g.output(0, top)


def joint_axis(layer, bottom: Shape, params, old: str) -> int:
    """The axis of a Concat or Slice, from ``axis`` or its old spelling ``old``."""
    if not params.has(old):
        return axis_of(layer, bottom, params["axis"])
    if params.has("axis"):
        raise refuse(layer, f"has both axis and {old}; expected one of them")
    return axis_of(layer, bottom, params[old], old)


@register
class Concat(LayerType):
    """Bottoms one after the other along an axis (old spelling: ``concat_dim``)."""

    types = ("Concat",)
    any_size = True
    takes = (1, None)

    def tops(self, layer, bottoms):
        first = bottoms[0]
        axis = joint_axis(layer, first, layer.params("concat_param"), "concat_dim")
        for index, bottom in enumerate(bottoms):
            if len(bottom) != len(first) or any(
                a != b for i, (a, b) in enumerate(zip(first, bottom)) if i != axis
            ):
                raise refuse(
                    layer,
                    f"bottom 0 '{layer.bottoms[0]}' is {show(first)} but bottom {index} "
                    f"'{layer.bottoms[index]}' is {show(bottom)}; "
                    f"expected equal shapes except at axis {axis}",
                )
        return [first[:axis] + (sum(b[axis] for b in bottoms),) + first[axis + 1 :]]

    def onnx(self, layer, g):
        axis = joint_axis(layer, g.bottom_shapes[0], layer.params("concat_param"), "concat_dim")
        bottoms = [g.input(i) for i in range(len(layer.bottoms))]
        g.output(0, g.node("Concat", bottoms, {"axis": axis}) if len(bottoms) > 1 else bottoms[0])


@register
class Slice(LayerType):
    """Parts of a bottom along an axis (old spelling: ``slice_dim``), equal or at slice points."""

    types = ("Slice",)
    any_size = True
    gives = (1, None)

    def tops(self, layer, bottoms):
        bottom, params = bottoms[0], layer.params("slice_param")
        axis = joint_axis(layer, bottom, params, "slice_dim")
        sizes = slice_sizes(layer, bottom[axis], params["slice_point"])
        return [bottom[:axis] + (size,) + bottom[axis + 1 :] for size in sizes]

    def onnx(self, layer, g):
        axis = joint_axis(layer, g.bottom_shapes[0], layer.params("slice_param"), "slice_dim")
        parts = len(layer.tops)
        if parts == 1:
            g.output(0, g.input())
            return
        if not all(isinstance(dims[axis], int) for dims in g.top_dims):
            g.unsupported("it cuts an axis that is open; export a fixed batch, or fixed sizes")
        tops = g.split(g.input(), [shape[axis] for shape in g.top_shapes], axis)
        for i, top in enumerate(tops):
            g.output(i, top)


def slice_sizes(layer, size: int, points: tuple[int, ...]) -> list[int]:
    """Sizes of the parts into which the layer cuts an axis of ``size``."""
    parts = len(layer.tops)
    if not points:
        if size % parts:
            raise refuse(layer, f"{parts} tops do not divide an axis of {size} evenly")
        return [size // parts] * parts
    bounds = (0, *points, size)
    rising = all(a < b for a, b in zip(bounds, points))
    if len(points) != parts - 1 or parts > size or not rising or points[-1] > size:
        raise refuse(
            layer,
            f"slice_point {points} for {parts} tops and an axis of {size}; expected "
            f"{parts - 1} rising points within it",
        )
    return [b - a for a, b in zip(bounds, bounds[1:])]


@register
class Split(LayerType):
    """Copies its bottom; Caffe puts one wherever a blob is read twice."""

    types = ("Split",)
    any_size = True
    gives = (1, None)
    in_place = False

    def onnx(self, layer, g):
        for i in range(len(layer.tops)):
            g.output(i, g.input())


@register
class Silence(LayerType):
    """Swallows blobs that nothing reads."""

    types = ("Silence",)
    any_size = True
    takes = (1, None)
    gives = (0, 0)

    def tops(self, layer, bottoms):
        return []

    def onnx(self, layer, g):
        """Nothing: its bottoms are read, and so are no outputs of the net."""


@register
class Filter(LayerType):
    """Passes the items that the last bottom selects; as set up, that is all of them."""

    types = ("Filter",)
    takes = (2, None)
    gives = (1, None)

    def tops(self, layer, bottoms):
        if len(layer.tops) != len(bottoms) - 1:
            raise refuse(
                layer,
                f"has {len(layer.tops)} tops and {len(bottoms)} bottoms; expected one top for each "
                "bottom but the last, the selector",
            )
        selector = bottoms[-1]
        if not selector or any(dim != 1 for dim in selector[1:]):
            raise refuse(layer, f"the selector must be Nx1x1..., met {show(selector)}")
        for bottom in bottoms[:-1]:
            if bottom[:1] != selector[:1]:
                raise refuse(
                    layer, f"selector {show(selector)} and bottom {show(bottom)} differ in items"
                )
        return bottoms[:-1]

    def onnx(self, layer, g):
        selector = g.reshape(g.input(len(layer.bottoms) - 1), g.bottom_dims[-1][:1])
        passed = g.node("Cast", [selector], {"to": 9})  # TensorProto.BOOL
        for i, dims in enumerate(g.top_dims):
            top = g.node("Compress", [g.input(i), passed], {"axis": 0})
            g.output(i, top, (None, *dims[1:]))


@register
class BatchReindex(LayerType):
    """The items of bottom 0 whose indices bottom 1 lists."""

    types = ("BatchReindex",)
    takes = (2, 2)

    def tops(self, layer, bottoms):
        if len(bottoms[1]) != 1:
            raise refuse(layer, f"bottom 1 must be a list of indices, met {show(bottoms[1])}")
        return [bottoms[1] + bottoms[0][1:]]

    def onnx(self, layer, g):
        g.output(0, g.node("Gather", [g.input(), g.as_int(g.input(1))], {"axis": 0}))
