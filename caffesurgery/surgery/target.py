"""Reads a Convolution or InnerProduct of a net as something that a scheme can decompose.

In: a layer with the shapes around it.  Out: a ``Target`` with its geometry, window and sizes, and
its kernel as the array that the schemes take; or the reason why it cannot be decomposed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..cost import Sizes
from ..decompose import Geometry
from ..net.layers.window import conv_window
from ..net.net import Layer
from ..net.shapes import LayerShapes

TYPES = ("Convolution", "InnerProduct")
Pair = tuple[int, int]


@dataclass(frozen=True)
class Target:
    """A layer that can be decomposed.

    ``flat`` is its geometry as a convolution or matrix; ``spatial``, for a fully connected layer
    over a spatial bottom, its geometry as the convolution whose kernel covers the whole bottom.
    """

    layer: Layer
    flat: Geometry
    spatial: Geometry | None
    sizes: Sizes
    bias: bool
    pad: Pair = (0, 0)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    transpose: bool = False

    def sizes_of(self, geometry: Geometry) -> Sizes:
        """Map sizes to count with: those of the bottom when it is seen spatially."""
        return Sizes() if geometry.kind == "fc" and geometry is not self.spatial else self.sizes

    def kernel(self, blob: np.ndarray, geometry: Geometry) -> np.ndarray:
        """The weight blob as (T, S/group, D, E), a view where the layout allows it."""
        if self.transpose:
            blob = blob.reshape(-1, geometry.T).T
        return blob.reshape(geometry.T, geometry.S // geometry.group, geometry.D, geometry.E)

    def same_layer(self, other: Target) -> bool:
        """Whether one plan fits both: the same geometry, window and bias."""
        return _identity(self) == _identity(other)


def _identity(target: Target):
    return (
        target.flat, target.spatial, target.bias, target.pad, target.stride, target.dilation
    )  # fmt: skip


def target(shapes: LayerShapes) -> Target | str:
    """The layer as a Target, or why it cannot be decomposed."""
    layer = shapes.layer
    if any(shape is None for shape in (*shapes.bottoms, *shapes.tops)):
        return f"the shape of its bottom is not known: {shapes.unknown}"
    return _convolution(shapes) if layer.type == "Convolution" else _inner_product(shapes)


def _convolution(shapes: LayerShapes) -> Target | str:
    layer, bottom, top = shapes.layer, shapes.bottoms[0], shapes.tops[0]
    axis, window = conv_window(layer, bottom)
    if len(bottom) != 4 or axis != 1:
        return f"a convolution over {len(bottom)} axes; only images (N, C, H, W) are decomposed"
    param, weight = layer.params("convolution_param"), shapes.params[0]
    return Target(
        layer,
        Geometry.of(weight, param["group"]),
        None,
        Sizes(bottom[2], bottom[3], top[2], top[3]),
        param["bias_term"],
        window.pad,
        window.stride,
        window.dilation,
    )


def _inner_product(shapes: LayerShapes) -> Target | str:
    bottom, param = shapes.bottoms[0], shapes.layer.params("inner_product_param")
    if param["axis"] not in (1, 1 - len(bottom)):
        return f"axis {param['axis']}; only fully connected layers over axis 1 are decomposed"
    total = int(np.prod(bottom[1:], dtype=np.int64))
    out, spatial, sizes = param["num_output"], None, Sizes()
    if len(bottom) == 4 and bottom[2] * bottom[3] > 1:
        _, channels, height, width = bottom
        spatial = Geometry(T=out, S=channels, D=height, E=width, group=1, kind="fc")
        sizes = Sizes(height, width, 1, 1)
    flat = Geometry(T=out, S=total, D=1, E=1, group=1, kind="fc")
    return Target(
        shapes.layer, flat, spatial, sizes, param["bias_term"], transpose=param["transpose"]
    )
