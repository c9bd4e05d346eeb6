"""What a rank rule is, and the table of those that there are.

A rule sees every layer that may be decomposed (its scheme, geometry, costs, and its kernel when it
asks for it) and says for each the ranks and why, or why not.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..cost import Cost, Sizes, chain_cost, dense_cost
from ..decompose import Geometry, Scheme
from ..errors import UsageError, suggest

SHARE = re.compile(r"\d*\.\d+")
"""A value that no rank can be: the name in front of it was meant to be that of a rule."""


@dataclass(frozen=True)
class Candidate:
    """A layer that a scheme can replace.

    ``kernel()`` reads its weights when they are needed: (T, S/group, D, E) float32, where a fully
    connected layer has D = E = 1 unless it is seen as the convolution over its spatial bottom.
    """

    name: str
    scheme: Scheme
    geometry: Geometry
    sizes: Sizes
    bias: bool
    kernel: Callable[[], np.ndarray]

    @functools.cached_property
    def before(self) -> Cost:
        """Cost of the layer as it is."""
        return dense_cost(self.geometry, self.sizes, self.bias)

    @functools.cached_property
    def max_ranks(self) -> tuple[int, ...]:
        """The largest ranks that make sense; with them the layer is reproduced exactly."""
        return self.scheme.max_ranks(self.geometry)

    def after(self, ranks: tuple[int, ...]) -> Cost:
        """Cost of the chain at ``ranks``."""
        return chain_cost(self.scheme.parts(self.geometry, ranks), self.sizes, self.bias)

    def scaled(self, step: int, steps: int) -> tuple[int, ...]:
        """Ranks at ``step`` of ``steps`` on the straight way from nothing to the largest.

        Rounded down to the multiples that the groups ask for, and at least one a group.
        """
        group = self.geometry.group
        return tuple(max(group, (most * step // steps) // group * group) for most in self.max_ranks)

    def largest_within(self, macs: float) -> tuple[int, ...] | None:
        """The largest ranks whose chain needs at most ``macs`` multiply-adds; None if none does.

        Several ranks grow together, in proportion to the largest possible ones.
        """
        steps = max(self.max_ranks)
        if self.after(self.scaled(0, steps)).macs > macs:
            return None
        low, high = 0, steps
        while low < high:
            middle = (low + high + 1) // 2
            if self.after(self.scaled(middle, steps)).macs <= macs:
                low = middle
            else:
                high = middle - 1
        return self.scaled(low, steps)


@dataclass(frozen=True)
class Choice:
    """The ranks of a layer, and the sentence that goes into the plan."""

    ranks: tuple[int, ...]
    why: str


@dataclass(frozen=True)
class Skip:
    """A layer that the rule leaves as it is, and why."""

    why: str


Progress = Callable[[str, float], None]
"""Called with the layer that is at work and the share of all that is done."""


class Rule:
    """A rank rule: a class with a name, an example, and ``allocate``."""

    name = ""
    example = ""
    summary = ""

    def __init__(self, argument: str):
        """``argument`` is what follows the name: '0.25' in 'ratio=0.25'."""
        self.argument = argument

    def allocate(
        self,
        candidates: Sequence[Candidate],
        growth: bool = False,
        progress: Progress | None = None,
    ) -> dict[str, Choice | Skip]:
        """Ranks, or a reason not to decompose, by name of each candidate.

        With ``growth`` a layer may end with more multiply-adds than it had.
        """
        raise NotImplementedError

    def share(self) -> float:
        """The argument as a share above 0 and at most 1."""
        try:
            value = float(self.argument)
        except ValueError:
            value = -1.0
        if not 0.0 < value <= 1.0:
            raise UsageError(
                f"--ranks {self.name}={self.argument}: expected a share above 0 and at most 1, "
                f"for example {self.example}"
            )
        return value


class SearchRule(Rule):
    """A rule that looks at each kernel by itself; a subclass gives ``search``."""

    def search(self, candidate: Candidate, limit: int | None) -> Choice:
        """The smallest ranks that do, or ``limit`` where smaller ones do not."""
        raise NotImplementedError

    def allocate(self, candidates, growth=False, progress=None):
        found: dict[str, Choice | Skip] = {}
        for index, candidate in enumerate(candidates):
            if progress:
                progress(candidate.name, index / len(candidates))
            found[candidate.name] = self.search(candidate, None if growth else _limit(candidate))
        return found


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
    name, separator, argument = (piece.strip() for piece in text.partition("="))
    if name in RULES and separator:
        return RULES[name](argument)
    if not separator or SHARE.fullmatch(argument):
        raise UsageError(
            f"--ranks {text or repr(text)}: expected a rule with its value, one of "
            f"{', '.join(rule.example for rule in RULES.values())}; {suggest(name, RULES)}"
        )
    return RULES["explicit"](text)
