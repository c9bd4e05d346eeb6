"""Pooling over regions of interest: ROIPooling (Fast R-CNN) and PSROIPooling (R-FCN).

Bottom 1 lists regions as rows (index in the batch, x1, y1, x2, y2) in pixels of the image.
"""

from __future__ import annotations

import numpy as np

from .base import LayerType, count, four_axes, refuse, register, show


class _Regions(LayerType):
    """What both take: a map, and R regions of five numbers; the top has one item for each."""

    takes = (2, 2)
    in_place = False

    def _check(self, layer, bottoms) -> None:
        four_axes(layer, bottoms[0])
        if len(bottoms[1]) < 2 or count(bottoms[1], 1) != 5:
            raise refuse(layer, f"expected regions as rows of 5 numbers, met {show(bottoms[1])}")


@register
class ROIPooling(_Regions):
    """The largest element of each cell of a grid over the region; an empty cell gives 0."""

    types = ("ROIPooling",)
    not_exported = "pad_ratio is refused"
    origin = "Fast R-CNN"

    def tops(self, layer, bottoms):
        self._check(layer, bottoms)
        params = layer.params("roi_pooling_param")
        if not params["pooled_h"] or not params["pooled_w"]:
            raise refuse(layer, "pooled_h and pooled_w must be above 0")
        return [(bottoms[1][0], bottoms[0][1], params["pooled_h"], params["pooled_w"])]

    def onnx(self, layer, g):
        params = layer.params("roi_pooling_param")
        if params["pad_ratio"]:
            g.unsupported("pad_ratio enlarges the regions")
        if g.opset > 21:
            g.unsupported("ONNX Runtime runs MaxRoiPool up to opset 21; export that")
        attrs = {
            "pooled_shape": g.top_shapes[0][2:],
            "spatial_scale": params["spatial_scale"],
        }
        regions = g.reshape(g.input(1), (g.bottom_dims[1][0], 5))
        g.output(0, g.node("MaxRoiPool", [g.input(0), regions], attrs))


@register
class PSROIPooling(_Regions):
    """The mean over each cell of a grid over the region, each cell from channels of its own.

    ONNX has no such operator: the sum over a cell is taken from the four corners of an integral
    image, in double precision.
    """

    types = ("PSROIPooling",)
    origin = "R-FCN"

    def tops(self, layer, bottoms):
        self._check(layer, bottoms)
        params = layer.params("psroi_pooling_param")
        group, outputs = params["group_size"], params["output_dim"]
        if group < 1 or outputs < 1 or bottoms[0][1] != group**2 * outputs:
            raise refuse(
                layer,
                f"output_dim {outputs} times group_size {group} squared must be the bottom's "
                f"{bottoms[0][1]} channels",
            )
        return [(bottoms[1][0], outputs, group, group)]

    def onnx(self, layer, g):
        group = layer.params("psroi_pooling_param")["group_size"]
        scale = layer.params("psroi_pooling_param")["spatial_scale"]
        height, width = g.bottom_shapes[0][2:]
        regions = g.reshape(g.input(1), (g.bottom_dims[1][0], 5))
        high, high_end = _edges(g, regions, 2, scale, group, height)
        wide, wide_end = _edges(g, regions, 1, scale, group, width)
        sums = _integral(g, g.top_shapes[0][1], group)
        rows = _cells(g, regions, group, (height + 1) * (width + 1))

        def corner(y: str, x: str) -> str:
            """The integral image at the grid's corners (y, x): regions x cells x outputs."""
            line = g.node("Mul", [y, g.const(float(width + 1), "row")])
            place = g.node("Add", [_along(g, line, group, 2), _along(g, x, group, 1)])
            place = g.node("Reshape", [place, g.ints([-1, group**2], "cells")])
            return g.node("Gather", [sums, g.node("Add", [g.as_int(place), rows])], {"axis": 0})

        below = g.node("Sub", [corner(high_end, wide_end), corner(high_end, wide)])
        above = g.node("Sub", [corner(high, wide_end), corner(high, wide)])
        total = g.as_float(g.node("Sub", [below, above]))
        extents = [
            _along(g, g.node("Sub", [end, start]), group, axis)
            for start, end, axis in ((high, high_end, 2), (wide, wide_end, 1))
        ]
        area = g.node("Max", [g.node("Mul", extents), g.const(1.0, "one")])
        area = g.node("Reshape", [area, g.ints([-1, group**2, 1], "area")])
        turned = g.node("Transpose", [g.node("Div", [total, area])], {"perm": (0, 2, 1)})
        g.output(0, g.reshape(turned, g.top_dims[0]))


def _edges(g, regions: str, column: int, scale: float, group: int, size: int) -> tuple[str, str]:
    """(First, end) of every cell along one axis, R x group, as whole numbers within the map.

    ``column`` is that of x1 or y1; Caffe rounds halves away from zero, which floor(x + 0.5) does
    for pixels of an image.
    """
    half = g.const(0.5, "half")
    ends = []
    for at, beyond in ((column, 0.0), (column + 2, 1.0)):
        pixel = g.node("Gather", [regions, g.ints([at], "column")], {"axis": 1})
        pixel = g.node("Floor", [g.node("Add", [pixel, half])])
        if beyond:
            pixel = g.node("Add", [pixel, g.const(beyond, "beyond")])
        ends.append(g.node("Mul", [pixel, g.const(scale, "scale")]))
    extent = g.node("Max", [g.node("Sub", [ends[1], ends[0]]), g.const(0.1, "smallest")])
    cell = g.node("Div", [extent, g.const(float(group), "group")])
    edges = []
    for first, rounding in ((0, "Floor"), (1, "Ceil")):
        steps = g.const(np.arange(first, first + group, dtype=np.float32)[None], "steps")
        edge = g.node("Add", [g.node("Mul", [cell, steps]), ends[0]])
        bounds = [g.const(0.0, "zero"), g.const(float(size), "size")]
        edges.append(g.node("Clip", [g.node(rounding, [edge]), *bounds]))
    return edges[0], edges[1]


def _integral(g, outputs: int, group: int) -> str:
    """Sums of bottom 0 over all places above and left, a row for each (item, cell, place)."""
    height, width = g.bottom_shapes[0][2:]
    sums = g.node("Cast", [g.input(0)], {"to": 11})  # TensorProto.DOUBLE
    for axis in (2, 3):
        sums = g.node("CumSum", [sums, g.const(np.int64(axis), "axis")])
    sums = g.node("Pad", [sums, g.ints([0, 0, 1, 1, 0, 0, 0, 0], "pads")])
    places = (height + 1) * (width + 1)
    sums = g.node("Reshape", [sums, g.ints([-1, outputs, group**2, places], "planes")])
    sums = g.node("Transpose", [sums], {"perm": (0, 2, 3, 1)})
    return g.node("Reshape", [sums, g.ints([-1, outputs], "rows")])


def _cells(g, regions: str, group: int, places: int) -> str:
    """The first row of ``_integral`` of each region's item and of each cell: R x group squared."""
    item = g.as_int(g.node("Gather", [regions, g.ints([0], "item")], {"axis": 1}))
    first = g.node("Mul", [item, g.ints([group**2 * places], "stride")])
    return g.node("Add", [first, g.ints(np.arange(group**2) * places, "cell")])


def _along(g, edges: str, group: int, axis: int) -> str:
    """R x group as R x group x 1 (axis 2 is new) or R x 1 x group (axis 1)."""
    dims = [-1, group, group]
    dims[axis] = 1
    return g.node("Reshape", [edges, g.ints(dims, "grid")])
