"""Layers that map every element by itself, with Caffe's formulas; all of them work in place."""

from __future__ import annotations

from functools import partial
from math import exp, log

import numpy as np

from .kernel import Compute, Job, computes, nothing


@computes("ReLU", in_place=True)
def relu(job: Job) -> Compute:
    """max(x, 0) + negative_slope * min(x, 0)."""
    slope = job.layer.params("relu_param")["negative_slope"]
    if slope:
        return _leaky(job, np.float32(slope))
    return partial(np.maximum, job.bottom, np.float32(0), out=job.top)


@computes("PReLU", in_place=True)
def prelu(job: Job) -> Compute:
    """ReLU with a learned slope for each channel, or one for all."""
    slope = job.blobs[0]
    return _leaky(job, slope.reshape(slope.shape + (1,) * (job.bottom.ndim - 2)))


def _leaky(job: Job, slope: np.ndarray) -> Compute:
    x, y, low, zero = job.bottom, job.top, job.scratch(job.bottom.shape), np.float32(0)

    def run():
        np.minimum(x, zero, out=low)
        np.multiply(low, slope, low)
        np.maximum(x, zero, out=y)
        np.add(y, low, y)

    return run


@computes("ELU", in_place=True)
def elu(job: Job) -> Compute:
    """x above 0, alpha * (exp(x) - 1) below."""
    x, y, low, zero = job.bottom, job.top, job.scratch(job.bottom.shape), np.float32(0)
    alpha = np.float32(job.layer.params("elu_param")["alpha"])

    def run():
        np.minimum(x, zero, out=low)
        np.expm1(low, low)
        np.multiply(low, alpha, low)
        np.maximum(x, zero, out=y)
        np.add(y, low, y)

    return run


@computes("Sigmoid", in_place=True)
def sigmoid(job: Job) -> Compute:
    """0.5 * tanh(0.5 * x) + 0.5, which is 1 / (1 + exp(-x)) and never overflows."""
    return partial(sigmoid_of, job.bottom, job.top)


def sigmoid_of(x: np.ndarray, y: np.ndarray) -> None:
    """The sigmoid of x into y, which may be x."""
    half = np.float32(0.5)
    np.multiply(x, half, y)
    np.tanh(y, y)
    np.multiply(y, half, y)
    np.add(y, half, y)


@computes("TanH", in_place=True)
def tanh(job: Job) -> Compute:
    """Hyperbolic tangent."""
    return partial(np.tanh, job.bottom, job.top)


@computes("BNLL", in_place=True)
def bnll(job: Job) -> Compute:
    """log(1 + exp(x))."""
    return partial(np.logaddexp, np.float32(0), job.bottom, job.top)


@computes("Swish", in_place=True)
def swish(job: Job) -> Compute:
    """x * sigmoid(beta * x)."""
    x, y, share = job.bottom, job.top, job.scratch(job.bottom.shape)
    beta = np.float32(job.layer.params("swish_param")["beta"])

    def run():
        np.multiply(x, beta, share)
        sigmoid_of(share, share)
        np.multiply(x, share, y)

    return run


@computes("AbsVal", in_place=True)
def absval(job: Job) -> Compute:
    """|x|."""
    return partial(np.abs, job.bottom, job.top)


@computes("Power", in_place=True)
def power(job: Job) -> Compute:
    """(shift + scale * x) ** power."""
    params, y = job.layer.params("power_param"), job.top
    base = affine(job.bottom, y, params["scale"], params["shift"])
    exponent = np.float32(params["power"])
    if exponent == 1:
        return base
    raised = partial(np.square, y, y) if exponent == 2 else partial(np.power, y, exponent, y)
    return both(base, raised)


@computes("Exp", in_place=True)
def exponential(job: Job) -> Compute:
    """base ** (shift + scale * x), base -1 being e; the shift becomes a factor."""
    params, y = job.layer.params("exp_param"), job.top
    rate = 1.0 if params["base"] == -1 else log(params["base"])
    inner, factor = np.float32(rate * params["scale"]), np.float32(exp(rate * params["shift"]))

    def run():
        np.multiply(job.bottom, inner, y)
        np.exp(y, y)
        np.multiply(y, factor, y)

    return run


@computes("Log", in_place=True)
def logarithm(job: Job) -> Compute:
    """log(shift + scale * x) to a base; base -1 stands for e."""
    params, y = job.layer.params("log_param"), job.top
    inner = affine(job.bottom, y, params["scale"], params["shift"])
    rate = np.float32(1.0 if params["base"] == -1 else 1 / log(params["base"]))

    def run():
        inner()
        np.log(y, y)
        np.multiply(y, rate, y)

    return run


@computes("Clip", in_place=True)
def clip(job: Job) -> Compute:
    """min(max(x, lowest), highest)."""
    params = job.layer.params("clip_param")
    low, high = np.float32(params["min"]), np.float32(params["max"])
    return partial(np.clip, job.bottom, low, high, job.top)


@computes("Threshold", in_place=True)
def threshold(job: Job) -> Compute:
    """1 above the threshold, 0 elsewhere."""
    bound = np.float32(job.layer.params("threshold_param")["threshold"])
    return partial(np.greater, job.bottom, bound, job.top)


@computes("Dropout", in_place=True)
def dropout(job: Job) -> Compute:
    """Passes its bottom on: what Dropout does outside of training."""
    if job.top is job.bottom:
        return nothing
    return partial(np.copyto, job.top, job.bottom)


def affine(x: np.ndarray, y: np.ndarray, scale: float, shift: float) -> Compute:
    """y = scale * x + shift; y may be x."""
    scale, shift = np.float32(scale), np.float32(shift)

    def run():
        np.multiply(x, scale, y)
        if shift:
            np.add(y, shift, y)

    return run


def both(first: Compute, second: Compute) -> Compute:
    """One after the other."""

    def run():
        first()
        second()

    return run
