"""Normalisation (BatchNorm, LRN, MVN), and the factors and terms that go with it (Scale, Bias)."""

from __future__ import annotations

from functools import partial

import numpy as np

from ..net.layers.normalisation import check_factor
from .kernel import Compute, Job, computes


@computes("BatchNorm", in_place=True)
def batch_norm(job: Job) -> Compute:
    """(x - mean) / sqrt(variance + eps); stored statistics are divided by the stored factor."""
    params, x, y = job.layer.params("batch_norm_param"), job.bottom, job.top
    eps, shape = np.float32(params["eps"]), x.shape[1:2] + (1,) * (x.ndim - 2)
    if params.has("use_global_stats") and not params["use_global_stats"]:
        return standardise(x, y, tuple(i for i in range(x.ndim) if i != 1), eps)
    mean, variance, factor = job.blobs
    share = np.float32(1) / factor[0] if factor[0] else np.float32(0)
    mean = (mean * share).reshape(shape)
    rate = (1 / np.sqrt(variance * share + eps)).astype(np.float32).reshape(shape)

    def run():
        np.subtract(x, mean, y)
        np.multiply(y, rate, y)

    return run


def standardise(x: np.ndarray, y: np.ndarray, axes: tuple[int, ...], eps: np.float32) -> Compute:
    """y = (x - mean) / sqrt(variance + eps), both over ``axes`` of this very batch."""

    def run():
        np.subtract(x, x.mean(axes, keepdims=True), y)
        variance = np.square(y).mean(axes, keepdims=True)
        np.divide(y, np.sqrt(variance + eps), y)

    return run


@computes("MVN", in_place=True)
def mvn(job: Job) -> Compute:
    """x - mean over each plane (or item), divided by the standard deviation plus eps."""
    params, y = job.layer.params("mvn_param"), job.top
    x = job.bottom.reshape(y.shape)
    axes = (1, 2, 3) if params["across_channels"] else (2, 3)
    eps = np.float32(params["eps"])

    def run():
        np.subtract(x, x.mean(axes, keepdims=True), y)
        if params["normalize_variance"]:
            deviation = np.sqrt(np.square(y).mean(axes, keepdims=True))
            np.divide(y, deviation + eps, y)

    return run


@computes("LRN", in_place=True)
def lrn(job: Job) -> Compute:
    """x * (k + alpha/n * sum of squares nearby) ** -beta; within channels k is 1.

    The sum is over ``local_size`` channels, or over a square of that size in the same channel.
    """
    params = job.layer.params("lrn_param")
    size, shape = params["local_size"], job.bottom.shape[1:]
    half, beta = size // 2, np.float32(-params["beta"])
    across = params["norm_region"] == "ACROSS_CHANNELS"
    axes = (0,) if across else (1, 2)
    shift = np.float32(params["k"] if across else 1)
    rate = np.float32(params["alpha"] / size ** len(axes))
    base = job.scratch(shape)
    sums = [_window_sum(job, shape, axis, size, half) for axis in axes]

    def run():
        for x, y in zip(job.bottom, job.top):
            np.square(x, base)
            for add_up in sums:
                add_up(base)
            np.multiply(base, rate, base)
            np.add(base, shift, base)
            # the power, as exp and log, which NumPy computes several values at a time
            np.log(base, base)
            np.multiply(base, beta, base)
            np.exp(base, base)
            np.multiply(x, base, y)

    return run


def _window_sum(job: Job, shape: tuple[int, ...], axis: int, size: int, half: int):
    """A function that replaces each value of an array by the sum of ``size`` along ``axis``."""
    count = shape[axis]
    padded = job.scratch(shape[:axis] + (count + 2 * half,) + shape[axis + 1 :])
    at = (slice(None),) * axis
    margins = padded[(*at, slice(half))], padded[(*at, slice(half + count, None))]
    middle = padded[(*at, slice(half, half + count))]
    parts = [padded[(*at, slice(k, k + count))] for k in range(size)]

    def add_up(values: np.ndarray) -> None:
        for margin in margins:
            margin.fill(0)
        middle[...] = values
        np.copyto(values, parts[0])
        for part in parts[1:]:
            np.add(values, part, values)

    return add_up


@computes("Scale", in_place=True)
def scale(job: Job) -> Compute:
    """Multiplies by a learned factor, or by bottom 1; ``bias_term`` adds a learned term."""
    params, x, y = job.layer.params("scale_param"), job.bottom, job.top
    learned = len(job.bottoms) == 1
    factor = _spread(job, job.blobs[0] if learned else job.bottoms[1], params["axis"])
    term = _spread(job, job.blobs[-1], params["axis"]) if params["bias_term"] else None

    def run():
        np.multiply(x, factor, y)
        if term is not None:
            np.add(y, term, y)

    return run


@computes("Bias", in_place=True)
def bias(job: Job) -> Compute:
    """Adds a learned term, or bottom 1."""
    axis = job.layer.params("bias_param")["axis"]
    term = _spread(job, job.blobs[0] if len(job.bottoms) == 1 else job.bottoms[1], axis)
    return partial(np.add, job.bottom, term, job.top)


def _spread(job: Job, factor: np.ndarray, axis: int) -> np.ndarray:
    """A view of the factor that lines up with bottom 0 from ``axis`` on."""
    start = check_factor(job.layer, job.bottom.shape, factor.shape, axis)
    return factor.reshape(factor.shape + (1,) * (job.bottom.ndim - start - factor.ndim))
