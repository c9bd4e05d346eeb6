"""Layers that join, split and route blobs, and the sources that feed a net."""

from __future__ import annotations

from functools import partial

import numpy as np

from ..net.layers.joining import joint_axis
from ..net.net import Layer
from .kernel import Compute, Job, computes, nothing


@computes("Split", shares=lambda layer: True)
@computes("Silence")
@computes("HDF5Output")
def pass_on(job: Job) -> Compute:
    """Nothing to compute: the tops are the bottom itself, or there are none."""
    return nothing


@computes("Input", "Data", "ImageData", "WindowData", "MemoryData", "HDF5Data")
def fed(job: Job) -> Compute:
    """The runner copies what it is given into the tops."""
    return nothing


@computes("DummyData")
def dummy(job: Job) -> Compute:
    """Constants where the fillers say so; other tops are fed like those of any source."""
    constants = [pair for pair in zip(job.tops, filled(job.layer)) if pair[1] is not None]

    def run():
        for top, value in constants:
            top.fill(value)

    return run


def filled(layer: Layer) -> list[float | None]:
    """The constant of each top of a DummyData layer, None where its filler is a random one."""
    fillers = layer.params("dummy_data_param")["data_filler"]
    if not fillers:
        return [0.0] * len(layer.tops)
    fillers = fillers * len(layer.tops) if len(fillers) == 1 else fillers
    return [filler["value"] if filler["type"] == "constant" else None for filler in fillers]


@computes("Parameter")
def parameter(job: Job) -> Compute:
    """A learned blob as a top."""
    return partial(np.copyto, job.top, job.blobs[0])


@computes("Eltwise", in_place=True)
def eltwise(job: Job) -> Compute:
    """Sum (with coefficients), product or maximum."""
    params = job.layer.params("eltwise_param")
    if params["operation"] == "SUM" and any(c != 1 for c in params["coeff"]):
        return _weighted_sum(job, [np.float32(c) for c in params["coeff"]])
    operation = {"SUM": np.add, "PROD": np.multiply, "MAX": np.maximum}[params["operation"]]
    first, second, *others = job.bottoms

    def run():
        operation(first, second, out=job.top)
        for other in others:
            operation(job.top, other, out=job.top)

    return run


def _weighted_sum(job: Job, coefficients: list[np.float32]) -> Compute:
    term = job.scratch(job.top.shape)
    rest = list(zip(job.bottoms, coefficients))[1:]

    def run():
        np.multiply(job.bottom, coefficients[0], job.top)
        for bottom, coefficient in rest:
            np.multiply(bottom, coefficient, term)
            np.add(job.top, term, job.top)

    return run


@computes("Concat", shares=lambda layer: len(layer.bottoms) == 1)
def concat(job: Job) -> Compute:
    """Bottoms one after the other along an axis."""
    axis = joint_axis(job.layer, job.bottom.shape, job.layer.params("concat_param"), "concat_dim")
    return partial(np.concatenate, job.bottoms, axis, job.top)


@computes("Slice", shares=lambda layer: len(layer.tops) == 1)
def cut(job: Job) -> Compute:
    """Parts of a bottom along an axis."""
    axis = joint_axis(job.layer, job.bottom.shape, job.layer.params("slice_param"), "slice_dim")
    ends = np.cumsum([top.shape[axis] for top in job.tops])[:-1]
    parts = list(zip(job.tops, np.split(job.bottom, ends, axis)))

    def run():
        for top, part in parts:
            np.copyto(top, part)

    return run


@computes("BatchReindex")
def batch_reindex(job: Job) -> Compute:
    """The items of bottom 0 whose indices bottom 1 lists."""

    def run():
        rows = indices(job, job.bottoms[1], len(job.bottom))
        np.take(job.bottom, rows, axis=0, out=job.top, mode="clip")

    return run


def indices(job: Job, values: np.ndarray, count: int) -> np.ndarray:
    """Values of a blob as indices below ``count``; NetError where one is outside."""
    rows = values.astype(np.intp)
    if rows.size and not (rows.min() >= 0 and rows.max() < count):
        wrong = rows.min() if rows.min() < 0 else rows.max()
        raise job.refuse(f"met the index {wrong}, expected 0 to {count - 1}")
    return rows
