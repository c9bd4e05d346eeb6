"""InnerProduct and Embed: the layers with a matrix."""

from __future__ import annotations

from math import prod

import torch.nn.functional as F

from ....net.layers.base import axis_of
from .base import Build, Forward, trains


@trains("InnerProduct")
def inner_product(build: Build) -> Forward:
    """The flattened bottom times a matrix, plus bias."""
    params = build.params("inner_product_param")
    axis = axis_of(build.layer, build.bottom, params["axis"])
    size, plain = prod(build.bottom[axis:]), len(build.bottom) == 2 and axis == 1

    def forward(bottoms, blobs):
        x = bottoms[0] if plain else bottoms[0].reshape(-1, size)
        matrix = blobs[0].T if params["transpose"] else blobs[0]
        top = F.linear(x, matrix, blobs[1] if len(blobs) > 1 else None)
        return top if axis == 1 else top.reshape(build.top)

    return forward


@trains("Embed")
def embed(build: Build) -> Forward:
    """One row of a table for each index."""

    def forward(bottoms, blobs):
        top = F.embedding(bottoms[0].long(), blobs[0])
        return top + blobs[1] if len(blobs) > 1 else top

    return forward
