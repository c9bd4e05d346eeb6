"""What the rules of paper 004 share: ladders of steps for every layer, metrics, and the outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .budget import BUDGET, Limit, limits, require_reach
from .candidate import Candidate
from .context import RuleContext
from .knapsack import Unreachable
from .ladder import Ladder, energies
from .lost import lost
from .measured import LayerMetric, layer_metrics
from .options import Option
from .rule import Allocation, Choice, Rule, Skip

_MOST = 500.0  # losses above it count as this, so that none vanishes


@dataclass(frozen=True, eq=False)
class Problem:
    """A net's layers as ladders, what their steps cost, and what they are worth.

    energies, scores: the normalised PCA energy (or what ``kind`` says) and the measured metric of
    every step of each layer; curves: the points that were measured; None where the rule does not
    ask for them
    kind: what ``energies`` are, or 'kept' for the exponential of minus what a layer's errors lose
    """

    ladders: list[Ladder]
    budgets: list[Limit]
    costs: list[np.ndarray]
    energies: list[np.ndarray] | None
    scores: list[np.ndarray] | None
    curves: list[LayerMetric] | None
    kind: str = "energy"

    @property
    def amounts(self) -> list[float]:
        """What may be spent of each budget."""
        return [limit.amount for limit in self.budgets]


class EncRule(Rule):
    """A rule that looks at the whole net; a subclass gives ``allocate``."""

    options = BUDGET

    def problem(
        self,
        candidates: Sequence[Candidate],
        context: RuleContext,
        energy: bool,
        measured: bool,
        kept: bool = False,
    ) -> Problem:
        """The problem of the candidates with the metrics that are asked for."""
        budgets = limits(self.text, self.given, candidates, context)
        ladders = [Ladder.of(candidate, context.growth) for candidate in candidates]
        worth, scores, curves = [], None, None
        if kept:
            worth = [np.exp(-np.minimum(each, _MOST)) for each in lost(ladders, context)]
        for index, each in enumerate(ladders if energy else ()):
            context.tell(each.candidate.name, index / len(ladders))
            worth.append(energies(each))
        if measured:
            curves = layer_metrics(self.text, candidates, context)
            scores = [each.metric(curve(each.shares)) for each, curve in zip(ladders, curves)]
        costs = [each.costs(budgets) for each in ladders]
        kind = "kept" if kept else "energy"
        return Problem(ladders, budgets, costs, worth or None, scores, curves, kind)

    def unreachable(self, problem: Problem, error: Unreachable) -> None:
        """Raise the RankError for budgets that are out of reach."""
        least = np.maximum(error.least, np.nextafter(problem.amounts, np.inf))
        require_reach(self.text, problem.budgets, least.tolist())

    def allocation(self, problem: Problem, chosen: Sequence[int], told: str) -> Allocation:
        """The steps as what each layer gets; ``told`` is what is said of the whole net."""
        found: Allocation = {}
        for index, (ladder, step) in enumerate(zip(problem.ladders, chosen)):
            measured = {
                name: round(float(values[index][step]), 6)
                for name, values in ((problem.kind, problem.energies), ("score", problem.scores))
                if values is not None
            }
            ranks, name = ladder.ranks[step], ladder.candidate.name
            if ranks is not None:
                worth = ", ".join(f"{key} {value:.4f}" for key, value in measured.items())
                found[name] = Choice(ranks, f"{self.name}: {worth}; {told}", measured)
            elif len(ladder.ranks) == 1:
                found[name] = Skip(f"{self.name}: even the smallest rank needs as many MACs")
            else:
                found[name] = Skip(f"{self.name}: worth keeping as it is; {told}")
        return found


def one_of(*names: str, default: str | None = "") -> Option:
    """The option ``metric=`` with these values; the first by default, or ``default``."""

    def read(text: str) -> str:
        if text not in names:
            raise ValueError
        return text

    return Option(
        "metric",
        "what a step is worth",
        read,
        " or ".join(names),
        names[0] if default == "" else default,
    )
