"""Pooling over regions of interest: ROIPooling (Fast R-CNN) and PSROIPooling (R-FCN).

Bottom 1 lists regions as rows (index in the batch, x1, y1, x2, y2) in pixels of the image.
"""

from __future__ import annotations

import numpy as np

from .base import LayerType, count, four_axes, refuse, register, show

NEWEST_ROI_POOL = 21
"""The last opset whose MaxRoiPool ONNX Runtime has; from the next on a table of maxima serves."""


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
        regions = g.reshape(g.input(1), (g.bottom_dims[1][0], 5))
        scale, grid = params["spatial_scale"], g.top_shapes[0][2:]
        if g.opset > NEWEST_ROI_POOL:
            g.output(0, _by_table(g, regions, scale, grid))
            return
        attrs = {"pooled_shape": grid, "spatial_scale": scale}
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


def _by_table(g, regions: str, scale: float, grid: tuple[int, int]) -> str:
    """ROIPooling without MaxRoiPool: each cell is covered by four overlapping windows whose sides
    are powers of 2, and the maxima of all such windows are in a table."""
    sizes = g.bottom_shapes[0][2:]
    high, wide = (
        _Span(g, _whole_edges(g, regions, column, scale, cells, size), size)
        for column, cells, size in zip((2, 1), grid, sizes)
    )
    table = _maxima(g)
    levels = [int(size).bit_length() for size in sizes]
    item = g.as_int(g.node("Gather", [regions, g.ints([0], "item")], {"axis": 1}))
    item = g.node("Reshape", [item, g.ints([-1, 1, 1], "item")])

    def add(a: str, factor: int, b: str) -> str:
        return g.node("Add", [g.node("Mul", [a, g.ints([factor], "factor")]), b])

    def spread(tensor: str, axis: int) -> str:
        return g.node("Unsqueeze", [tensor, g.ints([axis], "axis")])

    level = add(spread(high.level, 2), levels[1], spread(wide.level, 1))
    level = add(item, levels[0] * levels[1], level)
    corners = []
    for y in high.places:
        for x in wide.places:
            place = add(spread(y, 2), sizes[1], spread(x, 1))
            row = add(level, sizes[0] * sizes[1], place)
            corners.append(g.node("Gather", [table, row], {"axis": 0}))
    extents = g.node("Mul", [spread(high.extent, 2), spread(wide.extent, 1)])
    filled = spread(g.node("Greater", [extents, g.ints([0], "none")]), 3)
    top = g.node("Where", [filled, g.node("Max", corners), g.const(0.0, "zero")])
    return g.node("Transpose", [top], {"perm": (0, 3, 1, 2)})


def _whole_edges(g, regions: str, column: int, scale: float, cells: int, size: int):
    """(First, end) of every cell along one axis as Fast R-CNN rounds them: R x cells, int64."""
    corner = []
    for at in (column, column + 2):
        pixel = g.node("Gather", [regions, g.ints([at], "column")], {"axis": 1})
        pixel = g.node("Mul", [pixel, g.const(scale, "scale")])
        corner.append(g.node("Floor", [g.node("Add", [pixel, g.const(0.5, "half")])]))
    one = g.const(1.0, "one")
    extent = g.node("Max", [g.node("Add", [g.node("Sub", corner[::-1]), one]), one])
    cell = g.node("Div", [extent, g.const(float(cells), "cells")])
    edges = []
    for first, rounding in ((0, "Floor"), (1, "Ceil")):
        steps = g.const(np.arange(first, first + cells, dtype=np.float32)[None], "steps")
        edge = g.node("Add", [g.node(rounding, [g.node("Mul", [cell, steps])]), corner[0]])
        bounds = [g.const(0.0, "zero"), g.const(float(size), "size")]
        edges.append(g.as_int(g.node("Clip", [edge, *bounds])))
    return edges


class _Span:
    """Cells along one axis: ``extent``, the ``level`` of the largest power of 2 within it, and the
    ``places`` of two windows of that side that cover it (R x cells, int64)."""

    def __init__(self, g, edges, size: int):
        start, end = edges
        self.extent = g.node("Sub", [end, start])
        one = g.ints([1], "one")
        logs = [0] + [int(n).bit_length() - 1 for n in range(1, size + 1)]
        self.level = g.node("Gather", [g.ints(logs, "logs"), g.node("Max", [self.extent, one])])
        side = g.node("Gather", [g.ints([2**n for n in range(max(logs) + 1)], "side"), self.level])
        self.places = (
            g.node("Min", [start, g.ints([size - 1], "last")]),
            g.node("Max", [g.node("Sub", [end, side]), g.ints([0], "first")]),
        )


def _maxima(g) -> str:
    """The largest element of every window whose sides are powers of 2, at the window's first place:
    a row of channels for each (item, level of height, level of width, place)."""
    channels, height, width = g.bottom_shapes[0][1:]
    tables = []
    for rows in range(height.bit_length()):
        tall = _window_max(g, g.input(0), 2**rows, 1)
        tables += [_window_max(g, tall, 1, 2**n) for n in range(width.bit_length())]
    whole = g.node("Concat", tables, {"axis": 1})
    shape = g.ints([-1, len(tables), channels, height * width], "levels")
    turned = g.node("Transpose", [g.node("Reshape", [whole, shape])], {"perm": (0, 1, 3, 2)})
    return g.node("Reshape", [turned, g.ints([-1, channels], "rows")])


def _window_max(g, tensor: str, rows: int, columns: int) -> str:
    if rows == columns == 1:
        return tensor
    attrs = {"kernel_shape": (rows, columns), "pads": (0, 0, rows - 1, columns - 1)}
    return g.node("MaxPool", [tensor], attrs)
