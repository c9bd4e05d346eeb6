"""``enc-map:macs=0.25``: all layers at the same level of their metric (paper 004, section IV).

The level is the highest whose net keeps within the budget; the metric is the PCA energy of the
weights, or what was measured with one layer alone decomposed.
"""

from __future__ import annotations

from .budget import BUDGET
from .context import ALONE
from .enc import inverse, mapped
from .enc_rule import EncRule, one_of
from .knapsack import Unreachable
from .rule import register


@register
class EncMap(EncRule):
    name = "enc-map"
    example = "enc-map:macs=0.25"
    summary = "an equal metric in every layer, PCA energy or measured, within a budget"
    options = (*BUDGET, one_of("energy", "measured"))

    def allocate(self, candidates, context=ALONE):
        measured = self.given["metric"] == "measured"
        problem = self.problem(candidates, context, not measured, measured)
        shares = [ladder.shares for ladder in problem.ladders]
        if measured:
            points = [(curve.shares, curve.scores) for curve in problem.curves]
        else:
            points = list(zip(shares, problem.energies))
        try:
            chosen, level = mapped(
                [inverse(*each) for each in points], shares, problem.costs, problem.amounts
            )
        except Unreachable as error:
            self.unreachable(problem, error)
            raise
        return self.allocation(problem, chosen, f"all at {level:.4f}")
