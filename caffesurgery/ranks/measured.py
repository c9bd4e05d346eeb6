"""What single layers are worth at each rank, measured: the metric y_m of paper 004, section II.

Each layer alone is decomposed at a few ranks, which VBMF says where to take, and the net's score is
measured; in between it is interpolated by PCHIP.  The ranks are those of the authors' files: a
tenth of the largest that is worth having, half of VBMF's, halfway between these two, VBMF's, and
halfway from it to the largest.  At the full rank nothing changes, which needs no measuring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .candidate import Candidate
from .context import Ranks, RuleContext
from .rule import Choice, parse_rule

_SAMPLES = ((0.1, 0.0), (0.05, 0.25), (0.0, 0.5), (0.0, 1.0), (0.5, 0.5))
"""Each sampled rank, as parts of the largest that is worth having and of VBMF's."""


@dataclass(frozen=True, eq=False)
class LayerMetric:
    """The score of the net over that of the net as it is, when one layer alone has some rank.

    shares: what was measured lies at these shares of the full rank, from 0 (where nothing is left,
    so that the score is none) to 1 (where nothing changes); scores: the values there
    """

    shares: tuple[float, ...]
    scores: tuple[float, ...]

    def __call__(self, shares) -> np.ndarray:
        """The interpolated metric at shares of the full rank; any shape, float64."""
        from scipy.interpolate import PchipInterpolator

        return PchipInterpolator(self.shares, self.scores)(np.asarray(shares, np.float64))


def share_of(candidate: Candidate, ranks: Ranks) -> float:
    """The share of the full rank; the mean share where there are several ranks."""
    return sum(rank / most for rank, most in zip(ranks, candidate.max_ranks)) / len(ranks)


def sampled_ranks(candidate: Candidate, context: RuleContext) -> list[Ranks]:
    """The ranks at which a layer is measured, ascending, the full one left out."""
    group = candidate.geometry.group
    top = None if context.growth else candidate.largest_within(candidate.before.macs)
    top = top or candidate.max_ranks
    choice = parse_rule("vbmf").allocate([candidate], context)[candidate.name]
    noise = choice.ranks if isinstance(choice, Choice) else top
    found = set()
    for of_top, of_noise in _SAMPLES:
        wanted = (of_top * most + of_noise * min(rank, most) for most, rank in zip(top, noise))
        found.add(tuple(max(group, round(each / group) * group) for each in wanted))
    return sorted(ranks for ranks in found if ranks != candidate.max_ranks)


def layer_metrics(
    rule: str, candidates: Sequence[Candidate], context: RuleContext
) -> list[LayerMetric]:
    """The measured metric of every candidate; RankError, naming ``rule``, where nothing measures.

    A score is measured once for each sampled rank of each layer, all of them at once.
    """
    samples = [sampled_ranks(candidate, context) for candidate in candidates]
    cases = [
        {candidate.name: ranks} for candidate, each in zip(candidates, samples) for ranks in each
    ]
    base, *scores = context.measured(rule, [{}, *cases])
    found, start = [], 0
    for candidate, each in zip(candidates, samples):
        values = scores[start : start + len(each)]
        start += len(each)
        found.append(_metric(candidate, each, [value / max(base, 1e-9) for value in values]))
    return found


def _metric(candidate: Candidate, samples: list[Ranks], scores: list[float]) -> LayerMetric:
    points = {0.0: 0.0}
    points.update((share_of(candidate, ranks), score) for ranks, score in zip(samples, scores))
    points[1.0] = 1.0
    shares = sorted(points)
    return LayerMetric(tuple(shares), tuple(points[share] for share in shares))
