"""Layers that change a blob's shape: Reshape, Flatten, Crop, Tile, Reduction, ArgMax."""

from __future__ import annotations

from functools import partial

import numpy as np

from ..net.layers.base import axis_of
from ..net.layers.reshaping import crop_offsets
from .kernel import Compute, Job, computes, nothing


@computes("Reshape", "Flatten", shares=lambda layer: True)
def reshape(job: Job) -> Compute:
    """The same numbers under another shape."""
    return nothing


@computes("Crop")
def crop(job: Job) -> Compute:
    """Bottom 0 cut to the size of bottom 1, at the given offsets."""
    first = axis_of(job.layer, job.bottom.shape, job.layer.params("crop_param")["axis"])
    offsets = (0,) * first + tuple(crop_offsets(job.layer, job.bottom.shape))
    window = tuple(slice(o, o + n) for o, n in zip(offsets, job.top.shape))
    return partial(np.copyto, job.top, job.bottom[window])


@computes("Tile")
def tile(job: Job) -> Compute:
    """The bottom several times along an axis."""
    params, shape = job.layer.params("tile_param"), job.bottom.shape
    axis = axis_of(job.layer, shape, params["axis"])
    outer = int(np.prod(shape[:axis], dtype=int))
    inner = int(np.prod(shape[axis:], dtype=int))
    tiles = job.top.reshape(outer, params["tiles"], inner)
    return partial(np.copyto, tiles, job.bottom.reshape(outer, 1, inner))


@computes("Reduction")
def reduction(job: Job) -> Compute:
    """Sum, mean, absolute or squared sum of all axes from ``axis`` on, times ``coeff``."""
    params, x = job.layer.params("reduction_param"), job.bottom
    axis = axis_of(job.layer, x.shape, params["axis"])
    rows = x.reshape(int(np.prod(x.shape[:axis], dtype=int)), -1)
    top, coefficient = job.top.reshape(-1), np.float32(params["coeff"])
    before = {"ASUM": np.abs, "SUMSQ": np.square}.get(params["operation"])
    changed = job.scratch(rows.shape) if before else rows
    reduce = np.mean if params["operation"] == "MEAN" else np.sum

    def run():
        if before:
            before(rows, changed)
        reduce(changed, axis=1, out=top)
        np.multiply(top, coefficient, top)

    return run


@computes("ArgMax")
def argmax(job: Job) -> Compute:
    """Indices (or values) of the top_k largest; of equal ones, Caffe takes the last."""
    params, x = job.layer.params("argmax_param"), job.bottom
    best, along = params["top_k"], params.has("axis")
    axis = axis_of(job.layer, x.shape, params["axis"]) if along else 0
    rows = np.moveaxis(x, axis, -1) if along else x.reshape(len(x), -1)
    last = rows.shape[-1] - 1

    def run():
        back = np.argsort(-rows[..., ::-1], axis=-1, kind="stable")[..., :best]
        places = last - back
        values = np.take_along_axis(rows, places, -1)
        if along:
            np.copyto(
                job.top,
                np.moveaxis(values if params["out_max_val"] else places, -1, axis),
                "unsafe",
            )
            return
        parts = [places, values] if params["out_max_val"] else [places]
        np.copyto(job.top, np.stack(parts, 1).reshape(job.top.shape), "unsafe")

    return run
