"""Budgets: what a net may cost after surgery, and what the choices of its layers spend of that.

``macs=``, ``params=``, ``bytes=`` and ``ms=`` bound the whole net, layers that no rule decides
included; with ``of=layers`` a share is one of the layers that the rule decides alone, as the papers
count.  A number up to 1 is a share, a larger one absolute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import RankError, UsageError
from .candidate import Candidate
from .context import Ranks, RuleContext
from .options import Option, positive

BYTES = 4
"""Of one float32 parameter, as Caffe stores them."""


def _scope(text: str) -> str:
    if text not in ("net", "layers"):
        raise ValueError
    return text


_AMOUNT = "a share up to 1 or an amount, for example 0.25 or 300M"
BUDGET = (
    Option("macs", "multiply-adds for one image", positive, _AMOUNT),
    Option("params", "parameters", positive, _AMOUNT),
    Option("bytes", "bytes of the parameters as float32", positive, _AMOUNT),
    Option("ms", "predicted milliseconds", positive, "a share up to 1 or milliseconds"),
    Option("of", "what shares are shares of: net or layers", _scope, "net or layers", "net"),
)
"""What every rule with a budget can be told."""


@dataclass(frozen=True)
class Limit:
    """One budget, for the layers that a rule decides.

    amount: what they may spend together
    whole, rest: what the net as it is spends, and what it spends outside of them
    spend: what a layer spends at ranks, or as it is where they are None
    """

    name: str
    amount: float
    whole: float
    rest: float
    spend: Callable[[Candidate, Ranks | None], float]

    def share(self, spent: float) -> float:
        """The share of the whole net's cost that is left when the layers spend ``spent``."""
        return (spent + self.rest) / self.whole


def limits(
    text: str,
    given: Mapping[str, object],
    candidates: Sequence[Candidate],
    context: RuleContext,
) -> list[Limit]:
    """The budgets that a rule was given; UsageError for none, RankError for those out of reach."""
    found = []
    for name, (spend, rest) in _spending(context).items():
        wanted = given[name]
        if wanted is None:
            continue
        if name == "ms" and context.profile is None:
            raise UsageError(f"--ranks {text}: ms= needs the profile of a machine (--profile)")
        layers = sum(spend(candidate, None) for candidate in candidates)
        if wanted > 1:
            amount = wanted - rest
        elif given["of"] == "layers":
            amount = wanted * layers
        else:
            amount = wanted * (layers + rest) - rest
        found.append(Limit(name, amount, layers + rest, rest, spend))
    if not found:
        raise UsageError(f"--ranks {text}: expected a budget: macs=, params=, bytes= or ms=")
    return found


def _spending(context: RuleContext) -> dict[str, tuple[Callable, float]]:
    """By budget, what a layer spends, and what the rest of the net does."""

    def macs(candidate: Candidate, ranks: Ranks | None) -> float:
        return candidate.cost(ranks).macs

    def params(candidate: Candidate, ranks: Ranks | None) -> float:
        return candidate.cost(ranks).params

    def size(candidate: Candidate, ranks: Ranks | None) -> float:
        return BYTES * candidate.cost(ranks).params

    def ms(candidate: Candidate, ranks: Ranks | None) -> float:
        return candidate.milliseconds(ranks, context.profile, context.images)

    return {
        "macs": (macs, context.rest.macs),
        "params": (params, context.rest.params),
        "bytes": (size, BYTES * context.rest.params),
        "ms": (ms, context.rest_ms),
    }


def require_reach(text: str, budgets: Sequence[Limit], least: Sequence[float]) -> None:
    """RankError where even the smallest ranks spend more than a budget."""
    for limit, spent in zip(budgets, least):
        if spent > limit.amount:
            raise RankError(
                f"--ranks {text}: the smallest ranks leave {limit.share(spent):.4f} of the net's "
                f"{limit.name}, the budget is {limit.share(limit.amount):.4f}; allow more, or "
                "decompose more layers"
            )


def worthwhile(candidate: Candidate, ranks: Ranks, growth: bool) -> Ranks | None:
    """The ranks, or None where the layer is better left as it is: it would need as many MACs."""
    return ranks if growth or candidate.after(ranks).macs < candidate.before.macs else None
