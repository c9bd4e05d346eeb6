"""What a layer can become, from the smallest ranks to itself, and what of it each step keeps.

The metric is the normalised PCA energy y_p of paper 004, equation 2: the sum of the singular values
that a rank keeps, from 0 at the first rank to 1 where the chain would cost as much as the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..decompose.truncated import singular_values
from .budget import Limit
from .candidate import Candidate
from .context import Ranks
from .measured import share_of

LEAST = 1e-9
"""A metric of nothing: so small that no layer is given it without need."""


@dataclass(frozen=True, eq=False)
class Ladder:
    """The steps of one layer, ascending in cost; the last is the layer as it is (None) if that is
    worth having, or its full rank.

    shares: of the full rank, (n,); that of the layer as it is where its chain would cost as much
    """

    candidate: Candidate
    ranks: tuple[Ranks | None, ...]
    shares: np.ndarray

    @classmethod
    def of(cls, candidate: Candidate, growth: bool = False) -> Ladder:
        """Every step on the scheme's way from the least ranks to the largest."""
        steps = max(candidate.max_ranks) // candidate.geometry.group
        ranks: list[Ranks | None] = []
        shares: list[float] = []
        for step in range(steps + 1):
            each = candidate.scaled(step, steps)
            if ranks and each == ranks[-1]:
                continue
            shares.append(share_of(candidate, each))
            if not growth and candidate.after(each).macs >= candidate.before.macs:
                ranks.append(None)
                break
            ranks.append(each)
        return cls(candidate, tuple(ranks), np.array(shares))

    def costs(self, budgets: Sequence[Limit]) -> np.ndarray:
        """What every step spends of each budget, (n, m)."""
        return np.array(
            [[limit.spend(self.candidate, each) for limit in budgets] for each in self.ranks],
            np.float64,
        )

    def metric(self, values: np.ndarray) -> np.ndarray:
        """Values of the steps, with 1 for the layer as it is, and none below ``LEAST``."""
        found = np.maximum(np.asarray(values, np.float64), LEAST)
        if self.ranks[-1] is None:
            found[-1] = 1.0
        return found


def energies(ladder: Ladder) -> np.ndarray:
    """The normalised PCA energy of every step, (n,) float64.

    Where a scheme has several ranks, and for CP, it is the product over the modes of the channels;
    a CP keeps of each mode's spectrum the share that its rank has of the largest on the ladder.
    """
    spectra = _spectra(ladder.candidate)
    full, group = ladder.candidate.max_ranks, ladder.candidate.geometry.group
    kept = np.ones(len(ladder.shares))
    for place, modes in enumerate(spectra):
        if len(modes) == 1:
            ranks = [_at(ladder, full, step)[place] / group for step in range(len(kept))]
            kept *= _summed(modes[0], np.array(ranks))
        else:
            for values in modes:
                kept *= _summed(values, ladder.shares / ladder.shares[-1] * len(values))
    low, high = kept[0], kept[-1]
    return ladder.metric((kept - low) / (high - low) if high > low else np.ones(len(kept)))


def _at(ladder: Ladder, full: Ranks, step: int) -> Sequence[float]:
    """The ranks of a step; of the layer as it is those at which its chain would cost as much."""
    return ladder.ranks[step] or [ladder.shares[step] * most for most in full]


def _spectra(candidate: Candidate) -> list[list[np.ndarray]]:
    """For each rank, the singular values that it cuts, descending, summed over the groups."""
    kernel, group = candidate.seen(), candidate.geometry.group
    step, found = len(kernel) // group, []
    for start in range(0, len(kernel), step):
        block = kernel[start : start + step]
        for place, modes in enumerate(candidate.scheme.unfoldings(block)):
            if place == len(found):
                found.append({})
            # The window's mode is small, and no channel is saved by it.
            for name, matrix in modes.items():
                if name != "D" or len(modes) == 1:
                    found[place][name] = found[place].get(name, 0) + singular_values(matrix)
    return [list(modes.values()) for modes in found]


def _summed(values: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """The sum of the first ``ranks`` values, in between linear, over the sum of all."""
    total = np.append(0.0, np.cumsum(values))
    return np.interp(ranks, np.arange(len(total)), total) / max(total[-1], 1e-300)
