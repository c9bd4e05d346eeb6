"""Pooling and spatial pyramid pooling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .base import LayerType, Shape, count, refuse, register
from .window import Window, pool_sizes, pool_window, pyramid_windows, rounds_down

_GLOBAL = {"MAX": "GlobalMaxPool", "AVE": "GlobalAveragePool"}


@register
class Pooling(LayerType):
    """MAX, AVE or STOCHASTIC pooling; MAX may give the index mask as a second top."""

    types = ("Pooling",)
    any_size = True

    def arity(self, layer):
        return (1, 1), (1, 2 if layer.params("pooling_param")["pool"] == "MAX" else 1)

    def tops(self, layer, bottoms):
        window = pool_window(layer, bottoms[0])
        floor = rounds_down(layer.params("pooling_param"))
        sizes = pool_sizes(layer, bottoms[0][2:], window, floor)
        return [bottoms[0][:2] + sizes] * len(layer.tops)

    def onnx(self, layer, g):
        params = layer.params("pooling_param")
        if params["global_pooling"] and len(layer.tops) == 1 and params["pool"] in _GLOBAL:
            g.output(0, g.node(_GLOBAL[params["pool"]], [g.input()]))
            return
        window = pool_window(layer, g.bottom_shapes[0])
        sizes = g.top_shapes[0][2:]
        if not all(isinstance(axis, int) for axis in g.bottom_dims[0][2:]):
            g.output(0, _any_size(layer, g, window))
            return
        if len(layer.tops) == 1:
            g.output(0, pool_onnx(g, params["pool"], window, sizes))
            return
        top, places = max_pool(g, window, sizes, mask=True)
        plane = g.ints([count(g.bottom_shapes[0], 2)], "plane")
        g.output(0, top)
        g.output(1, g.as_float(g.node("Mod", [places, plane])))


@register
class SPP(LayerType):
    """Spatial pyramid pooling: the flattened bins of every level, one after the other.

    With a single level Caffe pools without flattening, so that top has 4 axes.
    """

    types = ("SPP",)

    def tops(self, layer, bottoms):
        batch, channels = bottoms[0][:1], bottoms[0][1:2]
        windows = pyramid_windows(layer, bottoms[0])
        if not windows:
            raise refuse(layer, "pyramid_height must be above 0")
        levels = [channels + pool_sizes(layer, bottoms[0][2:], window) for window in windows]
        return [batch + (levels[0] if len(levels) == 1 else (sum(map(count, levels)),))]

    def onnx(self, layer, g):
        levels = []
        for window in pyramid_windows(layer, g.bottom_shapes[0]):
            sizes = pool_sizes(layer, g.bottom_shapes[0][2:], window)
            level = pool_onnx(g, layer.params("spp_param")["pool"], window, sizes)
            levels.append((level, g.bottom_shapes[0][1] * count(sizes)))
        if len(levels) == 1:
            g.output(0, levels[0][0])
            return
        flat = [g.reshape(level, (g.top_dims[0][0], bins)) for level, bins in levels]
        g.output(0, g.node("Concat", flat, {"axis": 1}))


def _any_size(layer, g, window: Window) -> str:
    """One pooling that holds for every height and width.

    A padding of stride - 1 more at the end makes ONNX, which rounds down, give what Caffe's
    rounding up does, as long as no last window is dropped.
    """
    params = layer.params("pooling_param")
    more = tuple(stride - 1 for stride in window.stride)
    if rounds_down(params):
        more = (0, 0)
    room = zip(window.pad, more, window.kernel)
    if len(layer.tops) > 1 or params["pool"] == "STOCHASTIC":
        g.unsupported("a mask, or stochastic pooling, is written for one size")
    if any(pad + end >= kernel for pad, end, kernel in room):
        g.unsupported("where its last window lies depends on the size, which is left open")
    if params["pool"] == "MAX":
        ends = tuple(pad + end for pad, end in zip(window.pad, more))
        return g.node("MaxPool", [g.input()], _pool_attrs(window, ends))
    bottom = g.input()
    if any(window.pad):
        pads = (0, 0, *window.pad) * 2
        bottom = g.node("Pad", [bottom, g.ints(pads, "pads")])
    alone = replace(window, pad=(0, 0))
    return g.node("AveragePool", [bottom], {**_pool_attrs(alone, more), "count_include_pad": 0})


def pool_onnx(g, method: str, window: Window, sizes: Shape) -> str:
    """One pooling of bottom 0 to ``sizes`` in ONNX, with the end padding written out.

    Caffe divides an average by the part of its window within the padded image, ONNX by the whole
    window: where the last window reaches beyond the padding, a constant factor makes up for it.
    """
    if method == "MAX":
        return max_pool(g, window, sizes)
    if method == "STOCHASTIC":
        return _expected(g, window, sizes)
    spatial = g.bottom_shapes[0][2:]
    pads = end_pads(spatial, window, sizes)
    if any(end >= kernel for end, kernel in zip(pads, window.kernel)):
        g.unsupported("its last window lies outside of the bottom, where Caffe divides by zero")
    if not any(window.pad):
        # what is behind the image does not count, in Caffe as in ONNX
        return g.node(
            "AveragePool", [g.input()], {**_pool_attrs(window, pads), "count_include_pad": 0}
        )
    attrs = {**_pool_attrs(window, pads), "count_include_pad": 1}
    top = g.node("AveragePool", [g.input()], attrs)
    rows, columns = (
        _shares(*axis) for axis in zip(spatial, window.kernel, window.stride, window.pad, sizes)
    )
    if rows is None and columns is None:
        return top
    factor = np.ones((1, 1)) if rows is None else rows[:, None]
    return g.node("Mul", [top, g.const(factor if columns is None else factor * columns, "clip")])


def _expected(g, window: Window, sizes: Shape) -> str:
    """Stochastic pooling in the TEST phase: the sum of squares over the sum of each window."""
    attrs = _pool_attrs(window, end_pads(g.bottom_shapes[0][2:], window, sizes))
    square = g.node("Mul", [g.input(), g.input()])
    squares, mean = (g.node("AveragePool", [tensor], attrs) for tensor in (square, g.input()))
    zero = g.const(0.0, "zero")
    positive = g.node("Greater", [mean, zero])
    return g.node("Where", [positive, g.node("Div", [squares, mean]), zero])


def _shares(size: int, kernel: int, stride: int, pad: int, out: int) -> np.ndarray | None:
    """Kernel size over the part of each window within the padded image; None if all are whole."""
    room = size + pad - (np.arange(out) * stride - pad)
    return None if room[-1] >= kernel else kernel / np.minimum(kernel, room)


def max_pool(g, window: Window, sizes: Shape, mask: bool = False):
    """MaxPool of bottom 0 in ONNX; with ``mask`` [top, flat indices].

    A window that lies outside of the bottom gives -FLT_MAX, as Caffe's does.
    """
    bottom, pads = g.input(), end_pads(g.bottom_shapes[0][2:], window, sizes)
    if any(end >= kernel for end, kernel in zip(pads, window.kernel)):
        if mask:
            g.unsupported("its last window lies outside of the bottom and has no mask")
        lowest = g.const(np.finfo(np.float32).min, "lowest")
        bottom = g.node("Pad", [bottom, g.ints([0] * 6 + list(pads), "pads"), lowest])
        pads = (0, 0)
    attrs = _pool_attrs(window, pads)
    return g.node("MaxPool", [bottom], attrs, n_outputs=2 if mask else 1)


def end_pads(spatial: Shape, window: Window, sizes: Shape) -> Shape:
    """The padding behind each axis with which rounding down gives ``sizes``."""
    return tuple(
        max(0, (out - 1) * stride + kernel - size - pad)
        for size, kernel, stride, pad, out in zip(
            spatial, window.kernel, window.stride, window.pad, sizes
        )
    )


def _pool_attrs(window: Window, end: Shape) -> dict:
    return {"kernel_shape": window.kernel, "strides": window.stride, "pads": window.pad + end}
