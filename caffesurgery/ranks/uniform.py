"""``uniform:macs=0.25``: every layer gets the same share of its full rank (paper 004's baseline).

The share is the largest that keeps the net within its budgets.
"""

from __future__ import annotations

from .budget import BUDGET, limits, require_reach, worthwhile
from .context import ALONE
from .rule import Choice, Rule, Skip, register

_STEPS = 1 << 16


@register
class Uniform(Rule):
    name = "uniform"
    example = "uniform:macs=0.25"
    summary = "the same share of the full rank everywhere, within a budget"
    options = BUDGET

    def allocate(self, candidates, context=ALONE):
        budgets = limits(self.text, self.given, candidates, context)

        def ranks(step):
            scaled = ((each, each.scaled(step, _STEPS)) for each in candidates)
            return [worthwhile(each, ranks, context.growth) for each, ranks in scaled]

        def spent(step):
            pairs = list(zip(candidates, ranks(step)))
            return [sum(limit.spend(*pair) for pair in pairs) for limit in budgets]

        def fits(step):
            return all(each <= limit.amount for each, limit in zip(spent(step), budgets))

        require_reach(self.text, budgets, spent(0))
        low, high = 0, _STEPS
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        share = f"{self.name}: {low / _STEPS:.4f} of the full rank"
        return {
            each.name: Choice(found, share) if found else Skip(f"{share} needs as many MACs")
            for each, found in zip(candidates, ranks(low))
        }
