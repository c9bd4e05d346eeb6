"""``enc-model:macs=0.25``: the ranks with the best whole-net objective of paper 004, section V.

A_p from the weights' PCA energies, A_m from measured metrics, or A_c from both; A_e, which is ours,
is exp of minus the sum of the layers' squared relative errors, each times what it is worth to the
net, and the first choice where images say so.  The choice is the exact best, or with ``quick`` that
of the Lagrangian; either way the reason says how much better any other can be at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, expm1

from .budget import BUDGET
from .candidate import Candidate
from .context import ALONE, RuleContext
from .enc import Found, combined, product, products
from .enc_rule import EncRule, Problem, one_of
from .knapsack import Unreachable
from .options import Option
from .rule import Allocation, register

OBJECTIVES = {"energy": "A_p", "measured": "A_m", "both": "A_c"}
_ERRORS = {"error": "A_e"}


@register
class EncModel(EncRule):
    name = "enc-model"
    example = "enc-model:macs=0.25"
    summary = "the best product of the layers' metrics within a budget, exactly"
    options = (
        *BUDGET,
        one_of(*OBJECTIVES, *_ERRORS, default=None),
        Option("quick", "stop at the Lagrangian's choice and its bound"),
    )

    def allocate(self, candidates, context=ALONE):
        return self.best(candidates, context, 1)[0]

    def best(
        self, candidates: Sequence[Candidate], context: RuleContext, count: int
    ) -> list[Allocation]:
        """The ``count`` best allocations by the objective, the best first."""
        metric = self.given["metric"] or _first_choice(candidates)
        energy, measured = metric in ("energy", "both"), metric in ("measured", "both")
        problem = self.problem(candidates, context, energy, measured, metric == "error")
        try:
            found = self._solved(problem, metric, count)
        except Unreachable as error:
            self.unreachable(problem, error)
            raise
        return [self.allocation(problem, each.choice, _told(each, metric)) for each in found]

    def _solved(self, problem: Problem, metric: str, count: int) -> list[Found]:
        costs, amounts, quick = problem.costs, problem.amounts, bool(self.given.get("quick"))
        if metric == "both":
            return combined(
                problem.energies, problem.scores, costs, amounts,
                problem.budgets[0].share, count, quick,
            )  # fmt: skip
        values = problem.energies or problem.scores
        if count > 1:
            return products(values, costs, amounts, count)
        return [product(values, costs, amounts, quick)]


def _first_choice(candidates: Sequence[Candidate]) -> str:
    """The metric where none is asked for."""
    return "error" if any(each.metric for each in candidates) else "energy"


def _told(found: Found, metric: str) -> str:
    """The objective and how far from the best it is at most."""
    name = {**OBJECTIVES, **_ERRORS}[metric]
    if name == "A_c":
        value, gap = found.value, found.bound / found.value - 1
    else:
        value, gap = exp(found.value), expm1(found.bound - found.value)
    best = "the best" if gap < 1e-9 else f"at most {100 * gap:.2g} % below the best"
    return f"{name} {value:.6g}, {best}"
