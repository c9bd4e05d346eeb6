"""Ranks in proportion to a number of each layer, with a given average (paper 000, Algorithm 2).

The paper's ranks keep their average exactly, and those of grouped layers divide over the groups.
So the ranks are those whole numbers with that sum that are nearest to the proportions, by the sum
of the squared differences; without groups that is the method of largest remainders.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

from .candidate import Candidate
from .options import Option, positive
from .rule import Allocation, Choice, Skip

_STEPS = (-2, -1, 0, 1, 2, 3)
AVERAGES = (
    Option("average", "average rank of the convolutions", positive, "a number", required=True),
    Option("fc", "average rank of the fully connected layers, by default the same", positive,
           "a number"),
)  # fmt: skip
"""What every rule with a given average can be told."""


def proportional(
    weights: Sequence[float], average: float, groups: Sequence[int] | None = None
) -> list[int]:
    """Ranks in proportion to ``weights``, each a positive multiple of its group, with ``average``.

    Where no multiples add up to the average times the layers, their sum is as near as can be.
    """
    groups = list(groups or [1] * len(weights))
    total = round(average * len(weights))
    whole = sum(weights)
    wanted = [total * (weight / whole if whole else 1 / len(weights)) for weight in weights]
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for exact, group in zip(wanted, groups):
        base = floor(exact / group)
        options = {max(1, base + step) * group for step in _STEPS}
        reached: dict[int, tuple[float, tuple[int, ...]]] = {}
        for so_far, (error, ranks) in best.items():
            for rank in sorted(options):
                entry = (error + (rank - exact) ** 2, (*ranks, rank))
                if so_far + rank not in reached or entry < reached[so_far + rank]:
                    reached[so_far + rank] = entry
        best = reached
    nearest = min(best, key=lambda found: (abs(found - total), best[found]))
    return list(best[nearest][1])


def allocate(
    rule: str,
    candidates: Sequence[Candidate],
    weights: Sequence[float],
    given: dict[str, object],
    say: str,
) -> Allocation:
    """Ranks in proportion to ``weights``, convolutions and fully connected layers by themselves.

    ``say`` tells what a weight is, with {} for its value.
    """
    found: Allocation = {}
    for kind, average in (("conv", given["average"]), ("fc", given["fc"] or given["average"])):
        chosen = [k for k, each in enumerate(candidates) if each.geometry.kind == kind]
        groups = [candidates[k].geometry.group for k in chosen]
        ranks = proportional([weights[k] for k in chosen], average, groups) if chosen else []
        for k, rank in zip(chosen, ranks):
            why = f"{rule}: {say.format(weights[k])}, average {average:g}"
            found[candidates[k].name] = _choice(candidates[k], rank, why, weights[k])
    return found


def _choice(candidate: Candidate, rank: int, why: str, weight: float) -> Choice | Skip:
    """One rank for every mode; a rank beyond the full one leaves the layer alone, as explicit."""
    most = candidate.max_ranks
    if rank > max(most):
        return Skip(f"{why}: rank {rank} is more than this layer has, {'x'.join(map(str, most))}")
    return Choice(tuple(min(rank, full) for full in most), why, {"weight": weight})
