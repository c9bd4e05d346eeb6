"""``fitness:speedup=4``: ranks moved one by one, by fitness and complexity (002, Algorithm 1).

From any starting ranks: while the net is too slow, the layer with the largest fitness times
multiply-adds loses a rank; while it is faster than asked for, the one with the smallest gains one.
The fitness, 1 - ||W - What|| / ||W||, is guessed to be proportional to the rank, as the paper does,
or known from decompositions (``refit``).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..decompose import Decomposition
from ..errors import RankError, UsageError
from .candidate import Candidate
from .context import ALONE, Ranks, RuleContext
from .fits import fits
from .options import Option, positive
from .rule import RULES, Allocation, Choice, Rule, parse_rule, register

_START = "vbmf"


def _scope(text: str) -> str:
    if text not in ("net", "layers"):
        raise ValueError
    return text


@register
class Fitness(Rule):
    name = "fitness"
    example = "fitness:speedup=4"
    summary = "by fitness and complexity, one rank at a time, until the net is so much faster"
    options = (
        Option("speedup", "multiply-adds before over after", positive, "a number above 1",
               required=True),
        Option("start", "rule with the first ranks, or one rank for all layers", str,
               "a rule, for example vbmf or energy=0.9, or a rank", _START),
        Option("refit", "decompose anew for the fitness of each new rank"),
        Option("of", "what is to be so much faster", _scope, "net or layers", "net"),
    )  # fmt: skip

    def allocate(self, candidates, context=ALONE):
        if self.given["speedup"] <= 1:
            raise UsageError(f"--ranks {self.text}: speedup= has to be above 1")
        start = _start(self.given["start"], candidates, context)
        layers = [_Layer(each, ranks, context) for each, ranks in zip(candidates, start)]
        for layer, found in zip(
            layers, fits(context, [(each.candidate, each.ranks) for each in layers])
        ):
            layer.learn(found)
        rest = context.rest.macs if self.given["of"] == "net" else 0
        self._select(layers, rest)
        return {each.candidate.name: each.choice(self.name) for each in layers}

    def _select(self, layers: Sequence[_Layer], rest: int) -> None:
        """Algorithm 1, ended where the speed-up is reached and one more rank would lose it."""
        target, refit = self.given["speedup"], bool(self.given["refit"])
        whole = sum(each.dense for each in layers) + rest

        def speedup() -> float:
            return whole / (sum(each.macs for each in layers) + rest)

        while speedup() < target:
            free = [each for each in layers if each.can(-1)]
            if not free:
                raise RankError(
                    f"--ranks {self.text}: the smallest ranks are {speedup():.2f} times as fast; "
                    "ask for less, or decompose more layers"
                )
            max(free, key=lambda each: each.profit).move(-1, refit)
        while True:
            free = [each for each in layers if each.can(+1)]
            if not free:
                return
            layer = min(free, key=lambda each: each.profit)
            before = layer.position, layer.fitness
            layer.move(+1, refit)
            if speedup() < target:
                layer.position, layer.fitness = before
                return


class _Layer:
    """One layer on its way: ``position`` is its first rank, the others keep their proportion."""

    def __init__(self, candidate: Candidate, start: Ranks, context: RuleContext):
        self.candidate = candidate
        self.dense = candidate.before.macs
        self.fitness = 0.0
        self._context = context
        self._start = start
        self._group = candidate.geometry.group
        self.position = start[0]
        self._known: dict[int, float] = {}

    @property
    def ranks(self) -> Ranks:
        """Its ranks, multiples of its groups."""
        ranks = []
        for first, most in zip(self._start, self.candidate.max_ranks):
            wanted = first * self.position // self._start[0] // self._group * self._group
            ranks.append(min(most, max(self._group, wanted)))
        return tuple(ranks)

    @property
    def macs(self) -> int:
        """What the layer needs: as it is, where its chain would need more."""
        after = self.candidate.after(self.ranks).macs
        return after if self._context.growth else min(after, self.dense)

    @property
    def profit(self) -> float:
        """Fitness times complexity."""
        return self.fitness * self.dense

    def can(self, way: int) -> bool:
        """Whether there is a rank in that direction."""
        following = self.position + way * self._group
        return self._group <= following <= self.candidate.max_ranks[0]

    def move(self, way: int, refit: bool) -> None:
        """One rank (of each group) down or up, with the fitness guessed or known."""
        following = self.position + way * self._group
        guess = self.fitness * following / self.position
        self.position = following
        if refit and following not in self._known:
            self.learn(fits(self._context, [(self.candidate, self.ranks)])[0])
        self.fitness = self._known[following] if refit else guess

    def learn(self, found: Decomposition) -> None:
        """Take note of the error at the ranks of now, and of those below them, if it is told."""
        for index, below in enumerate(() if found.curve is None else found.curve):
            self._known[(index + 1) * self._group] = 1.0 - float(below)
        self.fitness = self._known[self.position] = found.fitness

    def choice(self, rule: str) -> Choice:
        first = "x".join(map(str, self._start))
        share = self.profit / 1e6
        return Choice(
            self.ranks,
            f"{rule}: {self.fitness:.4f}, times its MACs {share:.4g}M, from rank {first}",
            {"fitness": self.fitness},
        )


def _start(text: str, candidates: Sequence[Candidate], context: RuleContext) -> list[Ranks]:
    """The first ranks of every layer; the full ones where the rule leaves a layer alone."""
    if text.isdecimal() and int(text):
        each = [int(text)] * len(candidates)
        return [_legal(candidate, (rank,) * 3) for candidate, rank in zip(candidates, each)]
    name = text.partition("=")[0]
    if name not in RULES or name in ("explicit", Fitness.name):
        raise UsageError(
            f"start={text}: expected a rank, or a rule without ':' such as {_START} or energy=0.9"
        )
    found: Allocation = parse_rule(text).allocate(candidates, context)
    return [
        _legal(candidate, choice.ranks)
        if isinstance(choice := found[candidate.name], Choice)
        else candidate.max_ranks
        for candidate in candidates
    ]


def _legal(candidate: Candidate, ranks: Sequence[int]) -> Ranks:
    group = candidate.geometry.group
    return tuple(
        min(most, max(group, rank // group * group))
        for rank, most in zip(ranks, candidate.max_ranks)
    )
