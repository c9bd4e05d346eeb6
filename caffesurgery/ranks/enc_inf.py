"""``enc-inf:macs=0.25,candidates=50``: the best that paper 004's model has to offer, evaluated.

The allocations with the largest whole-net objectives within the budget are evaluated on labelled
images, all of the net at once, and the one with the highest score is taken (section V, D).
"""

from __future__ import annotations

from .budget import BUDGET
from .context import ALONE
from .drop import case_of
from .enc_model import OBJECTIVES, EncModel
from .enc_rule import one_of
from .options import Option, count
from .rule import Allocation, Choice, register


@register
class EncInf(EncModel):
    name = "enc-inf"
    example = "enc-inf:macs=0.25,candidates=50"
    summary = "the best candidates of enc-model, each evaluated on labelled data"
    options = (
        *BUDGET,
        Option("candidates", "how many allocations are evaluated", count, "a number", 50),
        one_of("all", *OBJECTIVES),
    )

    def allocate(self, candidates, context=ALONE):
        found: dict[tuple, tuple[str, Allocation]] = {}
        wanted = list(OBJECTIVES) if self.given["metric"] == "all" else [self.given["metric"]]
        share = -(-self.given["candidates"] // len(wanted))
        for metric in wanted:
            model = EncModel(self.text, None, {**self.given, "metric": metric})
            for allocation in model.best(candidates, context, share):
                case = case_of(allocation, candidates, context)
                found.setdefault(tuple(case.items()), (OBJECTIVES[metric], allocation))
        scores = context.measured(self.text, [dict(case) for case in found])
        first = max(range(len(scores)), key=lambda index: (scores[index], -index))
        objective, allocation = list(found.values())[first]
        told = (
            f"enc-inf: scores {scores[first]:.4f}, the best of {len(scores)} candidates (from "
            f"{min(scores):.4f}), by {objective}"
        )
        return {
            name: Choice(each.ranks, f"{told}; {each.why}", each.measured)
            if isinstance(each, Choice)
            else each
            for name, each in allocation.items()
        }
