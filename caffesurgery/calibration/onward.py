"""What becomes of a layer's outputs: the factors of BatchNorm and Scale, and a residual sum.

Where a block's branch is added to a shortcut, what the shortcut has lost can be made good in the
branch: the sum is what counts (as He, Zhang, Sun 2017 do when they prune channels).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..net.shapes import LayerShapes, NetShapes
from .statistics import rates
from .walk import Step, Unit, Walk

_LEAST = 1e-3
"""Factors smaller than this share of the largest move nothing: their outputs hardly count."""


def has_statistics(entry: LayerShapes) -> bool:
    """Whether a layer is a BatchNorm that goes by stored statistics."""
    params = entry.layer.params("batch_norm_param")
    stored = not params.has("use_global_stats") or params["use_global_stats"]
    return entry.layer.type == "BatchNorm" and stored


def follow(
    shapes: NetShapes, blobs: Mapping[int, Sequence[np.ndarray]], index: int
) -> tuple[int, np.ndarray | None]:
    """(Last layer, factors): the BatchNorm and the Scale that alone read a layer's outputs, one
    after the other, and what they multiply each channel with; (index, None) without any."""
    factor = None
    while len(readers := shapes.graph.consumers(index)) == 1:
        after = readers[0][0]
        entry, own = shapes.layers[after], blobs.get(after, ())
        if factor is None and has_statistics(entry):
            factor = rates(own, entry.layer.params("batch_norm_param")["eps"])
        elif _is_scale(entry, factor):
            factor = factor * np.asarray(own[0], np.float64).reshape(-1)
        else:
            break
        index = after
    return index, factor


def _is_scale(entry: LayerShapes, factor: np.ndarray | None) -> bool:
    """Whether a layer multiplies each channel with a learned factor."""
    if factor is None or entry.layer.type != "Scale" or len(entry.bottoms) != 1:
        return False
    return entry.params[0] == factor.shape and entry.layer.params("scale_param")["axis"] == 1


def output_weights(
    shapes: NetShapes, blobs: Mapping[int, Sequence[np.ndarray]], index: int
) -> np.ndarray | None:
    """(T,) what an error of each output of a layer counts behind BatchNorm and Scale; None where
    neither follows."""
    _, factor = follow(shapes, blobs, index)
    return None if factor is None else factor**2


@dataclass(frozen=True, eq=False)
class Shortcut:
    """The other side of the sum that a layer's outputs go into, behind ``factor`` (T,) or none."""

    adder: tuple[int, int]
    side: int
    factor: np.ndarray | None

    def target(self, walk: Walk, made: np.ndarray, step: Step) -> np.ndarray:
        """What the layer should put out so that the sum is what it was."""
        old, new = (
            walk.bottom(net, index, step, self.side)
            for net, index in zip(("old", "new"), self.adder)
        )
        missing = old - new
        if self.factor is not None:
            small = np.abs(self.factor) < _LEAST * np.abs(self.factor).max()
            share = np.where(small, 0.0, 1 / np.where(small, 1.0, self.factor))
            missing *= share.astype(np.float32).reshape(-1, *(1,) * (missing.ndim - 2))
        return made + missing


def find_shortcut(walk: Walk, unit: Unit) -> Shortcut | None:
    """The sum that a chain's outputs go into, where all else in it is computed before, and differs
    from what it was; None where there is none."""
    old, last = walk.old, unit.old
    if len(old.layers[last].tops) != 1:
        return None
    last, factor = follow(old, walk.old_blobs, last)
    readers = old.graph.consumers(last)
    if len(readers) != 1 or not _is_sum(old.layers[readers[0][0]]):
        return None
    adder, own = readers[0]
    side = 1 - own
    maker = old.graph.sources[adder][side][0]
    after = walk.units[adder].new[0]
    if maker >= unit.old or not walk.moved(after, side):
        return None
    return Shortcut((adder, after), side, factor)


def _is_sum(entry: LayerShapes) -> bool:
    params = entry.layer.params("eltwise_param")
    plain = params["operation"] == "SUM" and set(params["coeff"]) <= {1.0}
    return entry.layer.type == "Eltwise" and plain and len(entry.bottoms) == 2
