"""Counts parameters, multiply-adds and im2col elements of a layer and of the chain replacing it.

A multiply-add counts as 1, and costs are those of one image, as in the papers' tables (paper 000,
equations (18) to (20) and its Table 5).  A part that takes a spatial axis's stride brings that axis
from its input to its output size, so the parts before it run on the larger map.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """``params``: learned numbers; ``macs``: multiply-adds for one image."""

    params: int
    macs: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.params + other.params, self.macs + other.macs)

    def over(self, other: Cost) -> tuple[float, float]:
        """(E, C) of paper 000's equations (18) to (20): how many times ``other`` is smaller in
        parameters and in multiply-adds."""
        return self.params / other.params, self.macs / other.macs


ZERO = Cost(0, 0)


@dataclass(frozen=True)
class Sizes:
    """Height and width that a layer reads and writes, in pixels; all 1 for a flat layer."""

    h_in: int = 1
    w_in: int = 1
    h_out: int = 1
    w_out: int = 1


def dense_cost(geometry, sizes: Sizes, bias: bool) -> Cost:
    """Cost of the layer as it is: T*S/group*D*E weights, each used once an output pixel.

    ``geometry`` has the attributes T, S, D, E and group.
    """
    weights = geometry.T * (geometry.S // geometry.group) * geometry.D * geometry.E
    return Cost(weights + (geometry.T if bias else 0), weights * sizes.h_out * sizes.w_out)


def chain_cost(parts: Iterable, sizes: Sizes, bias: bool) -> Cost:
    """Cost of a chain of small layers; the bias, if any, belongs to the last one.

    Each part has the attributes out, inp, kh, kw, group and axes ('', 'h', 'w' or 'hw': the
    spatial axes whose stride, padding and dilation it takes).
    """
    total, last = ZERO, 0
    for part, its in chain_sizes(parts, sizes):
        weights = part.out * (part.inp // part.group) * part.kh * part.kw
        total += Cost(weights, weights * its.h_out * its.w_out)
        last = part.out
    return total + Cost(last, 0) if bias else total


def chain_sizes(parts: Iterable, sizes: Sizes) -> Iterator[tuple]:
    """Each part of a chain with the sizes that it reads and writes."""
    h, w = sizes.h_in, sizes.w_in
    for part in parts:
        before = h, w
        h = sizes.h_out if "h" in part.axes else h
        w = sizes.w_out if "w" in part.axes else w
        yield part, Sizes(*before, h, w)


def column_elements(channels: int, kh: int, kw: int, sizes: Sizes) -> int:
    """Numbers that im2col writes for one image: kh*kw of each of the ``channels`` it reads, for
    every output pixel; none for a 1x1 kernel that moves pixel by pixel, whose image is its own
    matrix (paper 000, appendix)."""
    if kh == kw == 1 and (sizes.h_in, sizes.w_in) == (sizes.h_out, sizes.w_out):
        return 0
    return channels * kh * kw * sizes.h_out * sizes.w_out


def rearrangements(parts: Iterable, sizes: Sizes) -> int:
    """The operations that the appendix of paper 000 holds against a chain: the im2col elements of
    each part times its filters.

    Caffe writes the columns once whatever the filters (``column_elements`` is what it moves); the
    product is the order in which the paper ranks 2-, 3- and 4-way chains.
    """
    return sum(
        part.out * column_elements(part.inp, part.kh, part.kw, its)
        for part, its in chain_sizes(parts, sizes)
    )
