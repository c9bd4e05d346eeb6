"""``params:average=150``: ranks in proportion to the parameters (paper 000, section 3.7)."""

from __future__ import annotations

from .context import ALONE
from .proportional import AVERAGES, allocate
from .rule import Rule, register


@register
class Params(Rule):
    name = "params"
    example = "params:average=150"
    summary = "in proportion to the parameters, with this average rank"
    options = AVERAGES

    def allocate(self, candidates, context=ALONE):
        weights = [candidate.before.params for candidate in candidates]
        return allocate(self.name, candidates, weights, self.given, "{:,} parameters")
