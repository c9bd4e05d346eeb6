"""Layers that forks of Caffe added: element-wise ones, reorderings, normalisations, prior boxes.

Formulas and orders are those that ``net.layers.forks`` describes for each type.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from ..net.layers import lookup
from .activation import both
from .joining import pass_on
from .kernel import Compute, Job, computes
from .normalisation import standardise

computes("Region", shares=lambda layer: True)(pass_on)

_SEGNETS_EPS = np.float32(1e-9)


@computes("ReLU6", in_place=True)
def relu6(job: Job) -> Compute:
    """min(max(x, 0), 6)."""
    if job.layer.params("relu6_param")["negative_slope"]:
        raise job.refuse("a negative_slope makes it another function, which is not computed")
    return partial(np.clip, job.bottom, np.float32(0), np.float32(6), job.top)


@computes("Mish", in_place=True)
def mish(job: Job) -> Compute:
    """x * tanh(log(1 + exp(x)))."""
    gate = job.scratch(job.bottom.shape)

    def run():
        np.logaddexp(np.float32(0), job.bottom, gate)
        np.tanh(gate, gate)
        np.multiply(job.bottom, gate, job.top)

    return run


@computes("Axpy")
def axpy(job: Job) -> Compute:
    """a * x + y with one a for each channel."""
    factor, x, y = job.bottoms
    factor = factor.reshape(factor.shape[:2] + (1,) * (x.ndim - 2))

    def run():
        np.multiply(factor, x, job.top)
        np.add(job.top, y, job.top)

    return run


@computes("Permute")
def permute(job: Job) -> Compute:
    """Axes in another order."""
    order = lookup("Permute").order(job.layer, job.bottom.shape)
    return partial(np.copyto, job.top, job.bottom.transpose(order))


@computes("ShuffleChannel")
def shuffle(job: Job) -> Compute:
    """Channels of all groups in turns."""
    group = job.layer.params("shuffle_channel_param")["group"]
    items, channels = job.bottom.shape[:2]
    grouped = job.bottom.reshape(items, group, channels // group, -1)
    turned = grouped.swapaxes(1, 2)
    return partial(np.copyto, job.top.reshape(turned.shape), turned)


@computes("Reorg")
def reorg(job: Job) -> Compute:
    """Darknet's rearrangement, or the way back."""
    params, (items, channels, height, width) = job.layer.params("reorg_param"), job.bottom.shape
    stride = params["stride"]
    few = channels // stride**2
    if params["reverse"]:
        dims, order = (items, stride, stride, few * height, width), (0, 3, 1, 4, 2)
    else:
        dims, order = (items, few * height, stride, width, stride), (0, 2, 4, 1, 3)
    turned = job.bottom.reshape(dims).transpose(order)
    return partial(np.copyto, job.top.reshape(turned.shape), turned)


@computes("Normalize", in_place=True)
def normalize(job: Job) -> Compute:
    """Divides by the L2 norm over channels (and places), times a learned scale."""
    params, x, y = job.layer.params("norm_param"), job.bottom, job.top
    axes, eps = (1, 2, 3) if params["across_spatial"] else (1,), np.float32(params["eps"])
    factor = job.blobs[0].reshape(-1, 1, 1)
    square = job.scratch(x.shape)

    def run():
        np.square(x, square)
        norm = np.sqrt(square.sum(axes, keepdims=True) + eps)
        np.divide(x, norm, y)
        np.multiply(y, factor, y)

    return run


@computes("BN", in_place=True)
def bn(job: Job) -> Compute:
    """Batch normalisation of SegNet or PSPNet, with factor and term."""
    params, x, y = job.layer.params("bn_param"), job.bottom, job.top
    shape = (-1,) + (1,) * (x.ndim - 2)
    factor, term, *statistics = (blob.reshape(shape) for blob in job.blobs)
    if statistics:
        mean, variance = statistics
        factor = factor / np.sqrt(variance + np.float32(params["eps"]))
        term = term - mean * factor
    source = x

    def scaled():
        np.multiply(source, factor, y)
        np.add(y, term, y)

    if statistics or params["bn_mode"] != "LEARN":
        return scaled
    source = y
    axes = tuple(axis for axis in range(x.ndim) if axis != 1)
    return both(standardise(x, y, axes, _SEGNETS_EPS), scaled)


@computes("PriorBox")
def prior_box(job: Job) -> Compute:
    """Boxes around the centre of each cell, which depend on nothing but sizes."""
    boxes = lookup("PriorBox").boxes(job.layer, [bottom.shape for bottom in job.bottoms])
    return partial(np.copyto, job.top, boxes)
