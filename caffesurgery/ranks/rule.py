"""What a rank rule is, and the table of those that there are.

A rule sees every layer that may be decomposed (its scheme, geometry, costs, and its kernel when it
asks for it) and the context around them, and says for each layer the ranks and why, or why not.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import UsageError, suggest
from . import options
from .candidate import Candidate
from .context import ALONE, RuleContext
from .fits import smallest_ranks
from .options import Option

SHARE = re.compile(r"\d*\.\d+")
"""A value that no rank can be: the name in front of it was meant to be that of a rule."""


@dataclass(frozen=True)
class Choice:
    """The ranks of a layer, the sentence that goes into the plan, and the numbers behind it."""

    ranks: tuple[int, ...]
    why: str
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Skip:
    """A layer that the rule leaves as it is, and why."""

    why: str


Allocation = dict[str, "Choice | Skip"]


class Rule:
    """A rank rule: a class with its texts, what it can be told, and ``allocate``.

    name, example, summary: for people; the example is complete and can be typed
    value: what stands behind ``name=``, if anything does
    options: what can stand behind the colon
    """

    name = ""
    example = ""
    summary = ""
    value: Option | None = None
    options: tuple[Option, ...] = ()

    def __init__(self, text: str, value: object = None, given: Mapping[str, object] | None = None):
        """``text`` is the whole rule as it was typed; ``value`` and ``given`` are read already."""
        self.text = text
        self.argument = value
        self.given = dict(given or {})

    @classmethod
    def parse(cls, text: str) -> Rule:
        """The rule that ``text`` asks for; UsageError that shows what was expected."""
        _, value, words = options.split(text)
        known = {option.name: option for option in cls.options}
        return cls(
            text,
            options.read_value(text, cls.value, value, cls.example),
            options.read_words(text, known, words, cls.example),
        )

    def allocate(self, candidates: Sequence[Candidate], context: RuleContext = ALONE) -> Allocation:
        """Ranks, or a reason not to decompose, by name of each candidate."""
        raise NotImplementedError


class SearchRule(Rule):
    """A rule that looks at each kernel by itself; a subclass gives ``asks`` and ``why``.

    asks: the method of a scheme that finds ranks for the rule's value
    """

    asks = ""

    def why(self) -> str:
        """The sentence for the plan."""
        raise NotImplementedError

    def allocate(self, candidates, context=ALONE):
        limits = [None if context.growth else _limit(each) for each in candidates]
        found = smallest_ranks(context, candidates, self.asks, self.argument, limits)
        return {each.name: Choice(ranks, self.why()) for each, ranks in zip(candidates, found)}


def _limit(candidate: Candidate) -> int | None:
    """The first rank at which the layer would grow: nobody needs to know what lies above.

    Only where there is one rank; two are bounded by their unfoldings and cost little to find.
    """
    if len(candidate.max_ranks) > 1:
        return None
    group = candidate.geometry.group
    within = candidate.largest_within(candidate.before.macs - 1) or (0,)
    return min(candidate.max_ranks[0], within[0] + group)


RULES: dict[str, type[Rule]] = {}


def register(rule: type[Rule]) -> type[Rule]:
    """Class decorator that enters a rule into the table."""
    RULES[rule.name] = rule
    return rule


def parse_rule(text: str) -> Rule:
    """The rule that ``text`` asks for, e.g. 'ratio=0.25', or explicit ranks 'conv2=154,fc6=365'."""
    name, value, words = options.split(text)
    if name in RULES and name != "explicit":
        return RULES[name].parse(text)
    near = difflib.get_close_matches(name, RULES, n=1, cutoff=0.75)
    if "=" not in text or (value and SHARE.fullmatch(value)) or (words and near):
        raise UsageError(
            f"--ranks {text or repr(text)}: expected a rule with its value, one of "
            f"{', '.join(rule.example for rule in RULES.values())}; {suggest(name, RULES)}"
        )
    return RULES["explicit"](text)
