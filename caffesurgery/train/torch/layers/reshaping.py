"""Layers that change a blob's shape: Reshape, Flatten, Crop, Tile, Reduction, ArgMax."""

from __future__ import annotations

from math import prod

import torch

from ....net.layers.base import axis_of
from ....net.layers.reshaping import crop_offsets
from .base import Build, Forward, elementwise, trains


@trains("Reshape", "Flatten")
def reshape(build: Build) -> Forward:
    """The same numbers under another shape."""
    return elementwise(lambda x: x.reshape(build.top))


@trains("Crop")
def crop(build: Build) -> Forward:
    """Bottom 0 cut to the size of bottom 1, at the given offsets."""
    first = axis_of(build.layer, build.bottom, build.params("crop_param")["axis"])
    offsets = (0,) * first + tuple(crop_offsets(build.layer, build.bottom))
    window = tuple(slice(o, o + n) for o, n in zip(offsets, build.top))
    return lambda bottoms, blobs: bottoms[0][window]


@trains("Tile")
def tile(build: Build) -> Forward:
    """The bottom several times along an axis."""
    params = build.params("tile_param")
    axis = axis_of(build.layer, build.bottom, params["axis"])
    repeats = [params["tiles"] if i == axis else 1 for i in range(len(build.bottom))]
    return elementwise(lambda x: x.repeat(*repeats))


@trains("Reduction")
def reduction(build: Build) -> Forward:
    """Sum, mean, absolute or squared sum of all axes from ``axis`` on, times ``coeff``."""
    params = build.params("reduction_param")
    axis = axis_of(build.layer, build.bottom, params["axis"])
    rows = prod(build.bottom[:axis])
    before = {"ASUM": torch.abs, "SUMSQ": torch.square}.get(params["operation"], lambda x: x)
    reduce = torch.mean if params["operation"] == "MEAN" else torch.sum
    factor = params["coeff"]
    return elementwise(
        lambda x: (reduce(before(x.reshape(rows, -1)), 1) * factor).reshape(build.top)
    )


@trains("ArgMax")
def argmax(build: Build) -> Forward:
    """Indices (or values) of the top_k largest, of equal ones the last; it has no gradient."""
    params, shape = build.params("argmax_param"), build.bottom
    best, along, values_too = params["top_k"], params.has("axis"), params["out_max_val"]
    axis = axis_of(build.layer, shape, params["axis"]) if along else 0

    def forward(bottoms, blobs):
        x = bottoms[0].detach()
        rows = x.movedim(axis, -1) if along else x.reshape(len(x), -1)
        order = torch.argsort(rows.flip(-1), dim=-1, descending=True, stable=True)[..., :best]
        places = rows.shape[-1] - 1 - order
        values = rows.gather(-1, places)
        places = places.to(x.dtype)
        if along:
            return (values if values_too else places).movedim(-1, axis)
        parts = [places, values] if values_too else [places]
        return torch.stack(parts, 1).reshape(build.top)

    return forward
