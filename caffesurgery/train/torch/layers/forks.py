"""Layers that forks of Caffe added and that nets to be trained have; see ``net.layers.forks``."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from ....net.layers import lookup
from .base import Build, Forward, elementwise, trains

trains("Mish")(lambda build: elementwise(F.mish))


@trains("ReLU6")
def relu6(build: Build) -> Forward:
    """min(max(x, 0), 6)."""
    if build.params("relu6_param")["negative_slope"]:
        raise build.refuse("a negative_slope makes it another function, which is not computed")
    return elementwise(partial(torch.clamp, min=0.0, max=6.0))


@trains("Axpy")
def axpy(build: Build) -> Forward:
    """a * x + y with one a for each channel."""

    def forward(bottoms, blobs):
        factor, x, y = bottoms
        return factor.reshape(factor.shape[:2] + (1,) * (x.ndim - 2)) * x + y

    return forward


@trains("Permute")
def permute(build: Build) -> Forward:
    """Axes in another order."""
    order = lookup("Permute").order(build.layer, build.bottom)
    return elementwise(lambda x: x.permute(*order))


@trains("ShuffleChannel")
def shuffle(build: Build) -> Forward:
    """Channels of all groups in turns."""
    group = build.params("shuffle_channel_param")["group"]

    def turned(x):
        return x.reshape(len(x), group, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape)

    return elementwise(turned)


@trains("Normalize")
def normalize(build: Build) -> Forward:
    """Divides by the L2 norm over channels (and places), times a learned scale."""
    params = build.params("norm_param")
    axes, eps = ((1, 2, 3) if params["across_spatial"] else (1,)), params["eps"]

    def forward(bottoms, blobs):
        (x,) = bottoms
        norm = (x.square().sum(axes, keepdim=True) + eps).sqrt()
        return x / norm * blobs[0].reshape(-1, 1, 1)

    return forward
