"""Why a plan's ranks, and not the next: what a lower and a higher one would cost and lose.

What a rank loses is told by the spectra of the unfoldings that it cuts: no decomposition at that
rank has a smaller relative error.  For truncated SVDs it is the error itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from glob import escape

import numpy as np

from ..cost import Cost
from ..decompose.truncated import singular_values
from ..files.caffemodel import Caffemodel
from ..net.shapes import NetShapes
from ..ranks import Candidate
from ..ranks.context import Progress, Ranks
from .candidates import find_candidates
from .plan import Plan


@dataclass(frozen=True)
class Step:
    """Ranks, the cost of the chain there, and the error that it has at least."""

    ranks: Ranks
    cost: Cost
    least_error: float


@dataclass(frozen=True)
class Explained:
    """One planned layer: its full ranks, where it stands, and the steps beside that, if any."""

    name: str
    full: Ranks
    here: Step
    lower: Step | None
    higher: Step | None


def explain(
    shapes: NetShapes, weights: Caffemodel, plan: Plan, progress: Progress | None = None
) -> tuple[Explained, ...]:
    """Every layer of a plan for the net, in the plan's order."""
    found = []
    for index, layer in enumerate(plan.layers):
        if progress:
            progress(layer.name, index / len(plan.layers))
        candidates, _ = find_candidates(shapes, weights, layer.scheme, [escape(layer.name)])
        found.append(_explained(candidates[0], layer.ranks))
    return tuple(found)


def _explained(candidate: Candidate, ranks: Ranks) -> Explained:
    least_error, full = _least_error(candidate), candidate.max_ranks

    def step(by: int) -> Step | None:
        group = candidate.geometry.group
        moved = tuple(min(most, max(group, rank + by * group)) for rank, most in zip(ranks, full))
        if by and moved == ranks:
            return None
        return Step(moved, candidate.after(moved), least_error(moved))

    return Explained(candidate.name, full, step(0), step(-1), step(+1))


def _least_error(candidate: Candidate) -> Callable[[Ranks], float]:
    """The relative error that no chain at some ranks can be below."""
    kernel, group = candidate.seen(), candidate.geometry.group
    step, squares, total = len(kernel) // group, {}, 0.0
    for start in range(0, len(kernel), step):
        for place, modes in enumerate(candidate.scheme.unfoldings(kernel[start : start + step])):
            for mode, matrix in modes.items():
                found = singular_values(matrix) ** 2
                squares[place, mode] = squares.get((place, mode), 0.0) + found
    total = max((float(each.sum()) for each in squares.values()), default=0.0)

    def least(ranks: Ranks) -> float:
        lost = [each[ranks[place] // group :].sum() for (place, _), each in squares.items()]
        return float(np.sqrt(max(lost) / total)) if total else 0.0

    return least
