"""Layers that change a blob's shape: Reshape, Flatten, Crop, Tile, Reduction, ArgMax."""

from __future__ import annotations

from .base import LayerType, Shape, axis_of, count, refuse, register, show

_REDUCTIONS = {
    "SUM": "ReduceSum",
    "ASUM": "ReduceL1",
    "SUMSQ": "ReduceSumSquare",
    "MEAN": "ReduceMean",
}


@register
class Flatten(LayerType):
    """Merges the axes from ``axis`` to ``end_axis``."""

    types = ("Flatten",)
    any_size = True
    in_place = False

    def tops(self, layer, bottoms):
        bottom, params = bottoms[0], layer.params("flatten_param")
        start = axis_of(layer, bottom, params["axis"])
        end = axis_of(layer, bottom, params["end_axis"], "end_axis") + 1
        if start > end:
            raise refuse(layer, f"axis {start} lies behind end_axis {end - 1}")
        return [bottom[:start] + (count(bottom, start, end),) + bottom[end:]]

    def onnx(self, layer, g):
        g.output(0, g.reshape(g.input(), g.top_dims[0]))


@register
class Reshape(LayerType):
    """Replaces ``num_axes`` axes from ``axis`` on; dim 0 copies a bottom's, -1 is inferred."""

    types = ("Reshape",)
    any_size = True
    in_place = False

    def tops(self, layer, bottoms):
        start, end = reshape_span(layer, bottoms[0])
        dims = layer.params("reshape_param")["shape"]["dim"]
        return [reshaped(layer, bottoms[0], start, end, dims)]

    def onnx(self, layer, g):
        g.output(0, g.reshape(g.input(), g.top_dims[0]))


def reshape_span(layer, bottom: Shape) -> tuple[int, int]:
    """The axes [start, end) of the bottom that a Reshape layer replaces."""
    params, axes = layer.params("reshape_param"), len(bottom)
    start, replaced = params["axis"], params["num_axes"]
    start = start if start >= 0 else axes + start + 1
    end = axes if replaced == -1 else start + replaced
    if not 0 <= start <= end <= axes or replaced < -1:
        raise refuse(
            layer,
            f"axis {params['axis']} and num_axes {replaced} do not fit a bottom of {show(bottom)}",
        )
    return start, end


def reshaped(layer, bottom: Shape, start: int, end: int, dims: Shape) -> Shape:
    """The bottom's shape with its axes [start, end) replaced by ``dims``."""
    if dims.count(-1) > 1:
        raise refuse(layer, f"dim {dims} has more than one -1; at most one can be inferred")
    new = []
    for index, dim in enumerate(dims):
        if dim == 0 and start + index >= len(bottom):
            raise refuse(
                layer, f"dim {index} is 0 (copy), but the bottom {show(bottom)} has no such axis"
            )
        new.append(bottom[start + index] if dim == 0 else dim)
    shape = bottom[:start] + tuple(new) + bottom[end:]
    if -1 in dims:
        known = count(tuple(dim for i, dim in enumerate(shape) if i != start + dims.index(-1)))
        inferred = count(bottom) // known if known else 0
        at = start + dims.index(-1)
        shape = shape[:at] + (inferred,) + shape[at + 1 :]
    if count(shape) != count(bottom) or min(shape, default=0) < 0:
        raise refuse(
            layer,
            f"cannot make {show(shape)} (dim {dims}) of a bottom of {show(bottom)}: "
            f"{count(bottom)} elements",
        )
    return shape


@register
class Crop(LayerType):
    """Cuts bottom 0 to the size of bottom 1 from ``axis`` on, at the given offsets."""

    types = ("Crop",)
    any_size = True
    takes = (2, 2)

    def tops(self, layer, bottoms):
        bottom, size = bottoms
        axis = axis_of(layer, bottom, layer.params("crop_param")["axis"])
        if len(size) < len(bottom):
            raise refuse(layer, f"cannot cut {show(bottom)} to the size of {show(size)}")
        for index, offset in enumerate(crop_offsets(layer, bottom), axis):
            if bottom[index] - offset < size[index]:
                raise refuse(
                    layer,
                    f"axis {index}: {size[index]} elements from offset {offset} on do not fit "
                    f"into {bottom[index]}",
                )
        return [bottom[:axis] + size[axis : len(bottom)]]

    def onnx(self, layer, g):
        bottom = g.bottom_shapes[0]
        first = axis_of(layer, bottom, layer.params("crop_param")["axis"])
        offsets = crop_offsets(layer, bottom)
        if not all(isinstance(axis, int) for axis in g.bottom_dims[0][max(1, first) :]):
            starts = g.ints(offsets, "offsets")
            ends = g.node("Add", [g.sizes(g.input(1), first, len(bottom)), starts])
            axes = g.ints(range(first, len(bottom)), "axes")
            g.output(0, g.node("Slice", [g.input(), starts, ends, axes]))
            return
        cuts = [
            (offset, offset + g.top_shapes[0][axis], axis)
            for axis, offset in enumerate(offsets, first)
            if g.top_shapes[0][axis] != bottom[axis]
        ]
        if not cuts:
            g.output(0, g.input())
            return
        starts_ends_axes = [g.ints(values, "cut") for values in zip(*cuts)]
        g.output(0, g.node("Slice", [g.input(), *starts_ends_axes]))


def crop_offsets(layer, bottom: Shape) -> Shape:
    """One offset for each axis from ``axis`` on."""
    params = layer.params("crop_param")
    offsets = params["offset"] or (0,)
    axes = len(bottom) - axis_of(layer, bottom, params["axis"])
    if len(offsets) not in (1, axes):
        raise refuse(
            layer, f"has {len(offsets)} offsets; expected one, or one for each of {axes} axes"
        )
    return offsets if len(offsets) == axes else offsets * axes


@register
class Tile(LayerType):
    """Repeats its bottom along an axis."""

    types = ("Tile",)
    any_size = True

    def tops(self, layer, bottoms):
        bottom, params = bottoms[0], layer.params("tile_param")
        axis, tiles = axis_of(layer, bottom, params["axis"]), params["tiles"]
        if tiles < 1:
            raise refuse(layer, f"tiles {tiles} must be given and above 0")
        return [bottom[:axis] + (bottom[axis] * tiles,) + bottom[axis + 1 :]]

    def onnx(self, layer, g):
        params = layer.params("tile_param")
        repeats = [1] * len(g.bottom_shapes[0])
        repeats[axis_of(layer, g.bottom_shapes[0], params["axis"])] = params["tiles"]
        g.output(0, g.node("Tile", [g.input(), g.ints(repeats, "repeats")]))


@register
class Reduction(LayerType):
    """Sum, mean, absolute or squared sum of all axes from ``axis`` on."""

    types = ("Reduction",)
    any_size = True

    def tops(self, layer, bottoms):
        axis = axis_of(layer, bottoms[0], layer.params("reduction_param")["axis"])
        return [bottoms[0][:axis]]

    def onnx(self, layer, g):
        params = layer.params("reduction_param")
        axis = axis_of(layer, g.bottom_shapes[0], params["axis"])
        axes = list(range(axis, len(g.bottom_shapes[0])))
        top = g.reduce(_REDUCTIONS[params["operation"]], g.input(), axes, keepdims=False)
        if params["coeff"] != 1:
            top = g.node("Mul", [top, g.const(params["coeff"], "coeff")])
        g.output(0, top)


@register
class ArgMax(LayerType):
    """Indices (or values) of the top_k largest elements, of an axis or of each whole item.

    Over whole items the top is N x 1 x top_k, or N x 2 x top_k with ``out_max_val`` (indices,
    then values); it has as many axes as the bottom, but at least 3.
    """

    types = ("ArgMax",)
    any_size = True

    def tops(self, layer, bottoms):
        bottom, params = bottoms[0], layer.params("argmax_param")
        best = params["top_k"]
        if params.has("axis"):
            axis = axis_of(layer, bottom, params["axis"])
            choices, shape = bottom[axis], bottom[:axis] + (best,) + bottom[axis + 1 :]
        else:
            axis_of(layer, bottom, 0)
            pairs = 2 if params["out_max_val"] else 1
            choices, shape = count(bottom, 1), (bottom[0], pairs, best)
            shape += (1,) * (len(bottom) - 3)
        if not 1 <= best <= choices:
            raise refuse(layer, f"top_k {best} must lie between 1 and {choices}")
        return [shape]

    def onnx(self, layer, g):
        params, bottom = layer.params("argmax_param"), g.bottom_shapes[0]
        if params.has("axis"):
            axis = axis_of(layer, bottom, params["axis"])
            places, values = self._best(g, g.input(), axis, bottom[axis], params["top_k"])
            g.output(0, values if params["out_max_val"] else places)
            return
        items, choices = g.bottom_dims[0][0], count(bottom, 1)
        flat = g.reshape(g.input(), (items, choices))
        found = self._best(g, flat, 1, choices, params["top_k"])
        rows = [g.reshape(row, (items, 1, params["top_k"])) for row in found]
        pairs = g.node("Concat", rows, {"axis": 1}) if params["out_max_val"] else rows[0]
        g.output(0, g.reshape(pairs, g.top_dims[0]))

    def _best(self, g, tensor: str, axis: int, choices: int, best: int) -> tuple[str, str]:
        """(Indices as floats, values) of the largest elements; of equal ones Caffe takes the last.

        ONNX takes the first, so the axis is turned round for TopK.
        """
        back = [g.ints(value, "turn") for value in ([choices - 1], [-choices - 1], [axis], [-1])]
        turned = g.node("Slice", [tensor, *back])
        values, places = g.node(
            "TopK", [turned, g.ints([best], "top_k")], {"axis": axis}, n_outputs=2
        )
        places = g.node("Sub", [g.ints([choices - 1], "last"), places])
        return g.as_float(places), values
