"""Layers that join, split and route blobs, and learned blobs; sources are fed by the net."""

from __future__ import annotations

from functools import reduce

import torch

from ....net.layers.joining import joint_axis
from .base import Build, Forward, trains


@trains("Split")
def split(build: Build) -> Forward:
    """The bottom several times."""
    return lambda bottoms, blobs: (bottoms[0],) * len(build.layer.tops)


@trains("Silence", "HDF5Output")
def silence(build: Build) -> Forward:
    """Nothing."""
    return lambda bottoms, blobs: ()


@trains("Parameter")
def parameter(build: Build) -> Forward:
    """A learned blob as a top."""
    return lambda bottoms, blobs: blobs[0]


@trains("Eltwise")
def eltwise(build: Build) -> Forward:
    """Sum (with coefficients), product or maximum; of equal maxima the later bottom counts for two
    bottoms, the earlier for those behind, as in Caffe's gradient."""
    params = build.params("eltwise_param")
    if params["operation"] == "PROD":
        return lambda bottoms, blobs: reduce(torch.mul, bottoms)
    if params["operation"] == "MAX":
        return lambda bottoms, blobs: reduce(_later, bottoms[2:], _first(*bottoms[:2]))
    factors = params["coeff"] or (1.0,) * len(build.layer.bottoms)
    if set(factors) == {1.0}:
        return lambda bottoms, blobs: reduce(torch.add, bottoms)

    def forward(bottoms, blobs):
        top = bottoms[0] * factors[0]
        for bottom, factor in zip(bottoms[1:], factors[1:]):
            top = torch.add(top, bottom, alpha=factor)
        return top

    return forward


def _first(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.where(a > b, a, b)


def _later(best: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    return torch.where(new > best, new, best)


@trains("Concat")
def concat(build: Build) -> Forward:
    """Bottoms one after the other along an axis."""
    axis = joint_axis(build.layer, build.bottom, build.params("concat_param"), "concat_dim")
    return lambda bottoms, blobs: torch.cat(tuple(bottoms), axis)


@trains("Slice")
def cut(build: Build) -> Forward:
    """Parts of the bottom along an axis."""
    axis = joint_axis(build.layer, build.bottom, build.params("slice_param"), "slice_dim")
    sizes = [shape[axis] for shape in build.entry.tops]
    return lambda bottoms, blobs: torch.split(bottoms[0], sizes, axis)


@trains("BatchReindex")
def batch_reindex(build: Build) -> Forward:
    """The items of bottom 0 whose indices bottom 1 lists."""
    return lambda bottoms, blobs: bottoms[0][bottoms[1].long()]
