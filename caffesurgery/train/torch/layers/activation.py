"""Layers that map every element by itself, with Caffe's formulas and its gradients at the kinks."""

from __future__ import annotations

from functools import partial
from math import log

import torch
import torch.nn.functional as F

from .base import Build, Forward, elementwise, trains

_LINEAR_FROM = 50.0  # Caffe's kBNLL_THRESHOLD


@trains("ReLU")
def relu(build: Build) -> Forward:
    """max(x, 0) + negative_slope * min(x, 0); the gradient at 0 is that of the negative side."""
    slope = build.params("relu_param")["negative_slope"]
    if slope:
        return elementwise(partial(F.leaky_relu, negative_slope=slope))
    return elementwise(torch.relu_ if build.alone else torch.relu)


@trains("PReLU")
def prelu(build: Build) -> Forward:
    """ReLU with a learned slope for each channel, or one for all."""
    return lambda bottoms, blobs: F.prelu(bottoms[0], blobs[0].reshape(-1))


@trains("ELU")
def elu(build: Build) -> Forward:
    """x above 0, alpha * (exp(x) - 1) below."""
    return elementwise(partial(F.elu, alpha=build.params("elu_param")["alpha"]))


trains("Sigmoid")(lambda build: elementwise(torch.sigmoid))
trains("TanH")(lambda build: elementwise(torch.tanh))
trains("AbsVal")(lambda build: elementwise(torch.abs))
trains("BNLL")(lambda build: elementwise(partial(F.softplus, threshold=_LINEAR_FROM)))


@trains("Swish")
def swish(build: Build) -> Forward:
    """x * sigmoid(beta * x)."""
    beta = build.params("swish_param")["beta"]
    return elementwise(lambda x: x * torch.sigmoid(beta * x))


@trains("Power")
def power(build: Build) -> Forward:
    """(shift + scale * x) ** power."""
    params = build.params("power_param")
    scale, shift, exponent = params["scale"], params["shift"], params["power"]
    if exponent == 1:
        return elementwise(lambda x: x * scale + shift)
    return elementwise(lambda x: (x * scale + shift) ** exponent)


@trains("Exp")
def exponential(build: Build) -> Forward:
    """base ** (shift + scale * x), base -1 being e."""
    params = build.params("exp_param")
    rate = 1.0 if params["base"] == -1 else log(params["base"])
    inner, shift = rate * params["scale"], rate * params["shift"]
    return elementwise(lambda x: torch.exp(x * inner + shift))


@trains("Log")
def logarithm(build: Build) -> Forward:
    """log(shift + scale * x) to a base, -1 standing for e."""
    params = build.params("log_param")
    scale, shift = params["scale"], params["shift"]
    rate = 1.0 if params["base"] == -1 else 1 / log(params["base"])
    return elementwise(lambda x: torch.log(x * scale + shift) * rate)


@trains("Clip")
def clip(build: Build) -> Forward:
    """min(max(x, lowest), highest)."""
    params = build.params("clip_param")
    return elementwise(partial(torch.clamp, min=params["min"], max=params["max"]))


@trains("Threshold")
def threshold(build: Build) -> Forward:
    """1 above the threshold, 0 elsewhere; it has no gradient."""
    bound = build.params("threshold_param")["threshold"]
    return elementwise(lambda x: (x > bound).to(x.dtype))


@trains("Dropout")
def dropout(build: Build) -> Forward:
    """In the TRAIN phase, each element is kept with 1 - ratio and divided by it.

    The mask is drawn for the whole batch, so that several processes keep what one would.
    """
    ratio, context = build.params("dropout_param")["dropout_ratio"], build.context
    if build.phase != "TRAIN":
        return elementwise(lambda x: x)

    def forward(bottoms, blobs):
        (x,) = bottoms
        mask = x.new_empty((len(x) * context.of, *x.shape[1:]))
        mask.bernoulli_(1 - ratio, generator=context.generator)
        return x * mask[context.rank :: context.of].mul_(1 / (1 - ratio))

    return forward
