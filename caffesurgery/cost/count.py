"""Counts parameters and multiply-adds of a layer and of the chain of small layers that replaces it.

A multiply-add counts as 1, and costs are those of one image, as in the papers' tables (paper 000,
equations (18) to (20) and its Table 5).  A part that takes a spatial axis's stride brings that axis
from its input to its output size, so the parts before it run on the larger map.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """``params``: learned numbers; ``macs``: multiply-adds for one image."""

    params: int
    macs: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.params + other.params, self.macs + other.macs)


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
    total, h, w, last = ZERO, sizes.h_in, sizes.w_in, 0
    for part in parts:
        h = sizes.h_out if "h" in part.axes else h
        w = sizes.w_out if "w" in part.axes else w
        weights = part.out * (part.inp // part.group) * part.kh * part.kw
        total += Cost(weights, weights * h * w)
        last = part.out
    return total + Cost(last, 0) if bias else total
