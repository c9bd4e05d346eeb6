"""Layers of forks that enlarge or shrink planes: Interp (DeepLab, PSPNet) and Upsample (SegNet,
YOLO)."""

from __future__ import annotations

import numpy as np

from .base import LayerType, Shape, count, four_axes, refuse, register, show


@register
class Interp(LayerType):
    """Bilinear interpolation with aligned corners, to a size, by a factor, or to bottom 1's size.

    Negative pads crop first.
    """

    types = ("Interp",)
    any_size = True
    origin = "DeepLab, PSPNet"
    takes = (1, 2)
    in_place = False

    def tops(self, layer, bottoms):
        bottom, params = four_axes(layer, bottoms[0]), layer.params("interp_param")
        if params["pad_beg"] > 0 or params["pad_end"] > 0:
            raise refuse(layer, "pad_beg and pad_end crop; they must be 0 or negative")
        if min(params["zoom_factor"], params["shrink_factor"]) < 1:
            raise refuse(layer, "zoom_factor and shrink_factor must be above 0")
        sizes = self._sizes(layer, bottoms, self._cropped(params, bottom))
        return [bottom[:2] + sizes]

    def _cropped(self, params, bottom: Shape) -> Shape:
        return tuple(size + params["pad_beg"] + params["pad_end"] for size in bottom[2:])

    def _sizes(self, layer, bottoms, sizes: Shape) -> Shape:
        params = layer.params("interp_param")
        if len(bottoms) > 1:
            return four_axes(layer, bottoms[1])[2:]
        factors = params.has("zoom_factor") or params.has("shrink_factor")
        if params.has("height") and params.has("width") and not factors:
            return params["height"], params["width"]
        if not factors:
            raise refuse(layer, "expected zoom_factor, shrink_factor, or height and width")
        sizes = tuple((size - 1) // params["shrink_factor"] + 1 for size in sizes)
        return tuple(size + (size - 1) * (params["zoom_factor"] - 1) for size in sizes)

    def onnx(self, layer, g):
        params, bottom = layer.params("interp_param"), g.input()
        if params["pad_beg"] or params["pad_end"]:
            start = -params["pad_beg"]
            end = params["pad_end"] or np.iinfo(np.int64).max
            cut = [g.ints(values, "cut") for values in ([start] * 2, [end] * 2, [2, 3])]
            bottom = g.node("Slice", [bottom, *cut])
        kept = self._cropped(params, g.bottom_shapes[0])
        attrs = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
        if not all(isinstance(axis, int) for axis in g.bottom_dims[0][2:]):
            g.output(0, g.resize_to(bottom, self._open_sizes(layer, g, bottom), attrs))
        elif kept == g.top_shapes[0][2:]:
            g.output(0, bottom)
        else:
            # sizes are rounded down from scales, which aligned corners do not depend on
            scales = [(size + 0.5) / old for size, old in zip(g.top_shapes[0][2:], kept)]
            g.output(0, g.resize(bottom, scales, attrs))

    def _open_sizes(self, layer, g, bottom: str) -> str:
        """Height and width of the top as a tensor, where those of the bottom are open."""
        params = layer.params("interp_param")
        if len(layer.bottoms) > 1:
            return g.sizes(g.input(1), 2, 4)
        if params.has("height") and not (params.has("zoom_factor") or params.has("shrink_factor")):
            return g.ints(g.top_shapes[0][2:], "size")
        one = g.ints([1], "one")
        gaps = g.node("Sub", [g.sizes(bottom, 2, 4), one])
        for op, name in (("Div", "shrink_factor"), ("Mul", "zoom_factor")):
            if params[name] != 1:
                gaps = g.node(op, [gaps, g.ints([params[name]], name)])
        return g.node("Add", [gaps, one])


@register
class Upsample(LayerType):
    """Repeats each element (``scale``); with a pooling mask, puts each back where it came from."""

    types = ("Upsample",)
    any_size = True
    origin = "SegNet, YOLOv3"
    takes = (1, 2)
    in_place = False

    def tops(self, layer, bottoms):
        bottom, params = four_axes(layer, bottoms[0]), layer.params("upsample_param")
        if len(bottoms) > 1 and bottoms[1] != bottom:
            raise refuse(layer, f"mask {show(bottoms[1])} and bottom {show(bottom)} differ")
        scales = self._scales(params)
        if min(scales) < 1:
            raise refuse(layer, "scale must be above 0")
        sizes = []
        for size, scale, end in zip(bottom[2:], scales, "hw"):
            given = params[f"upsample_{end}"] if len(bottoms) > 1 else 0
            sizes.append(given or size * scale - params[f"pad_out_{end}"] * (len(bottoms) > 1))
        return [bottom[:2] + tuple(sizes)]

    def _scales(self, params) -> tuple[int, int]:
        high = params["scale_h"] if params.has("scale_h") else params["scale"]
        wide = params["scale_w"] if params.has("scale_w") else params["scale"]
        return high, wide

    def onnx(self, layer, g):
        if len(layer.bottoms) > 1:
            self._unpool(g)
            return
        attrs = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
        g.output(0, g.resize(g.input(), self._scales(layer.params("upsample_param")), attrs))

    def _unpool(self, g) -> None:
        """Scatter the elements of each plane to the places that the mask gives within it."""
        if not all(isinstance(axis, int) for axis in g.bottom_dims[0][2:]):
            g.unsupported("a pooling mask is written for one height and width")
        few, many = count(g.bottom_shapes[0], 2), count(g.top_shapes[0], 2)
        flat = (*g.bottom_dims[0][:2], few)
        values, places = g.reshape(g.input(0), flat), g.as_int(g.reshape(g.input(1), flat))
        zero = g.node("Mul", [g.node("Slice", [values, *_first(g)]), g.const(0.0, "zero")])
        plane = g.node("Tile", [zero, g.ints([1, 1, many], "plane")])
        top = g.node("ScatterElements", [plane, places, values], {"axis": 2})
        g.output(0, g.reshape(top, g.top_dims[0]))


def _first(g) -> list[str]:
    """Starts, ends and axes that keep the first element of axis 2."""
    return [g.ints([value], "first") for value in (0, 1, 2)]
