"""``drop=0.01``: the smallest net that loses no more than this much of its accuracy.

Another rule says the ranks for each share of the multiply-adds; shares are tried on labelled
images, a few at once, ever closer to where the loss becomes too large.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RankError, UsageError
from .candidate import Candidate
from .context import ALONE, Ranks, RuleContext
from .options import Option, share
from .rule import RULES, Allocation, Choice, Rule, register

_AT_ONCE = 4
_ROUNDS = 3


@register
class Drop(Rule):
    name = "drop"
    example = "drop=0.01"
    summary = "the smallest net that loses at most this share of the images"
    value = Option("drop", "how much of the score may be lost", share, "a share, such as 0.01")
    options = (
        Option("by", "the rule that says the ranks for a budget", str, "a rule with macs=",
               "enc-model"),
        Option("of", "what a share of the MACs is a share of", str, "net or layers", "net"),
    )  # fmt: skip

    def allocate(self, candidates, context=ALONE):
        rule = RULES.get(self.given["by"])
        if rule is None or "macs" not in (option.name for option in rule.options):
            known = [name for name, each in RULES.items() if "macs" in _words(each)]
            raise UsageError(
                f"--ranks {self.text}: by={self.given['by']}: expected a rule that takes a budget, "
                f"one of {', '.join(known)}"
            )
        least = context.measured(self.text, [{}])[0] - self.argument
        low, high, best = 0.0, 1.0, None
        for _ in range(_ROUNDS):
            step = (high - low) / (_AT_ONCE + 1)
            shares = [round(low + step * index, 4) for index in range(1, _AT_ONCE + 1)]
            tried = self._tried(rule, shares, candidates, context)
            for each, allocation, score in tried:
                if score >= least:
                    high, best = each, (each, allocation, score)
                    break
                low = each
        return self._result(best, least, context)

    def _tried(self, rule, shares, candidates, context) -> list[tuple[float, Allocation, float]]:
        """(Share, allocation, score) of each share that the rule can reach, ascending."""
        found = []
        for each in shares:
            text = f"{rule.name}:macs={each:g},of={self.given['of']}"
            try:
                found.append((each, rule.parse(text).allocate(candidates, context)))
            except RankError:  # even the smallest ranks need more
                continue
        cases = [case_of(allocation, candidates, context) for _, allocation in found]
        scores = context.measured(self.text, cases) if cases else []
        return [(each, allocation, score) for (each, allocation), score in zip(found, scores)]

    def _result(self, best, least: float, context: RuleContext) -> Allocation:
        if best is None:
            raise RankError(
                f"--ranks {self.text}: with every share of the MACs that was tried more is lost; "
                "allow more, or decompose other layers"
            )
        share, allocation, score = best
        lost = least + self.argument - score
        told = f"drop={self.argument:g}: {share:g} of the MACs lose {lost:.4f}"
        return {
            name: Choice(each.ranks, f"{told}; {each.why}", each.measured)
            if isinstance(each, Choice)
            else each
            for name, each in allocation.items()
        }


def case_of(
    allocation: Allocation, candidates: Sequence[Candidate], context: RuleContext
) -> dict[str, Ranks]:
    """What is to be measured of an allocation: the layers that a plan would decompose."""
    return {
        each.name: choice.ranks
        for each in candidates
        if isinstance(choice := allocation[each.name], Choice)
        and (context.growth or each.after(choice.ranks).macs < each.before.macs)
    }


def _words(rule: type[Rule]) -> set[str]:
    return {option.name for option in rule.options}
