"""What a decomposition is to reach and what it found: of one group, and of the whole layer.

In come the factors of each group with what they lose; out come those of the layer, side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .geometry import Part


@dataclass(frozen=True)
class Aim:
    """What a decomposition that searches is to reach; the others have no use for it.

    effort: 'normal', or 'high' for about twice the time and a little less error
    max_norm: bound on the sum of the norms of CP components over the norm of the kernel
    """

    effort: str = "normal"
    max_norm: float | None = None


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Factors of one layer, what they lose, and how stable they are.

    factors: float32 arrays, one for each part, of the part's ``weight_shape``
    error: ||W - What|| / ||W|| over all groups (0 for a zero kernel)
    curve: float64, the error with the first 1, 2, ... components of each group, ending at this
        rank; None for schemes whose smaller ranks are not a prefix of the larger
    norm_ratio: the sum of the norms of the CP components over ||W||; None for other schemes
    sensitivity: expected squared change of What over the variance of small noise in all factors
    warning: a sentence when the decomposition is degenerate or misses a bound
    output_error: relative root mean square error of the outputs, under a Metric; else None
    shift: (T,) float32, what the bias gains so that the outputs keep their mean; None where the
        metric does not ask for it
    """

    factors: tuple[np.ndarray, ...]
    error: float
    curve: np.ndarray | None = None
    norm_ratio: float | None = None
    sensitivity: float = 0.0
    warning: str | None = None
    output_error: float | None = None
    shift: np.ndarray | None = None

    @property
    def fitness(self) -> float:
        """1 - ||W - What|| / ||W||: equation 12 of paper 002, after Kolda and Bader.

        Under a metric the same of the outputs.
        """
        return 1 - (self.error if self.output_error is None else self.output_error)


class GroupFactors(NamedTuple):
    """What a scheme found for one group: factors, squared error, and of each component its gain.

    gains: what each component takes off the squared error; None where smaller ranks differ
    norms: norms of the components of a CP
    """

    factors: tuple[np.ndarray, ...]
    lost: float
    gains: np.ndarray | None = None
    norms: np.ndarray | None = None


def nothing(parts: Sequence[Part], ranks: Sequence[int], group: int) -> Decomposition:
    """The decomposition of a zero kernel: zero factors, no error."""
    factors = tuple(np.zeros(part.weight_shape, np.float32) for part in parts)
    return Decomposition(factors, 0.0, np.zeros(ranks[0] // group) if len(ranks) == 1 else None)


def joined(found: Sequence[GroupFactors], scale: float, energy: float) -> Decomposition:
    """The groups' factors side by side, scaled back, with the error over the whole layer."""
    columns = list(zip(*(group.factors for group in found)))
    share = np.float32(scale ** (1 / len(columns)))
    columns = (np.concatenate(c) if len(c) > 1 else c[0] for c in columns)
    factors = tuple(np.ascontiguousarray(factor) for factor in columns)
    if scale != 1:
        factors = tuple(factor * share for factor in factors)
    energy = energy / scale**2
    error = float(np.sqrt(max(0.0, sum(group.lost for group in found)) / energy))
    curve = ratio = None
    if found[0].norms is not None:  # a CP
        ratio = float(sum(group.norms.sum() for group in found) / np.sqrt(energy))
    if all(group.gains is not None for group in found):
        kept = np.cumsum(sum(group.gains for group in found))
        curve = np.sqrt(np.maximum(0, 1 - kept / energy))
        curve[-1] = error
    return Decomposition(factors, error, curve, ratio)
