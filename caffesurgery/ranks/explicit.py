"""``conv2=154,conv3=105x112,fc6=max``: the user's own ranks, by layer name or pattern.

Two numbers are the input and output rank of a Tucker scheme, and ``max`` is the full rank.  Ranks
of a grouped layer are totals over its groups.  A rank above the full one leaves its layer alone,
since the layer would grow: paper 000 prints rank 59 for VGG16's conv1_1, whose full rank is 27.
"""

from __future__ import annotations

import fnmatch

from ..errors import DecomposeError, RankError, UsageError, suggest
from .context import ALONE
from .rule import Choice, Rule, Skip, register

_SHAPES = {1: "one rank", 2: "two ranks, INxOUT", 3: "three ranks, INxOUTxCORE"}


@register
class Explicit(Rule):
    name = "explicit"
    example = "conv2=154,conv3=105x112"
    summary = "these ranks, by layer name or pattern; 'max' is the full rank"

    def __init__(self, text: str, flag: str = "--ranks"):
        """``flag`` is the option that the text was given with, for messages."""
        super().__init__(text)
        self.flag = flag

    def allocate(self, candidates, context=ALONE):
        wanted = self.patterns()
        for pattern in wanted:
            if not any(fnmatch.fnmatchcase(candidate.name, pattern) for candidate in candidates):
                names = [candidate.name for candidate in candidates]
                raise RankError(
                    f"{self.flag} {self.text}: this method can decompose no layer '{pattern}'; "
                    f"{suggest(pattern, names)}"
                )
        found = {}
        for candidate in candidates:
            pattern = best_match(candidate.name, wanted)
            if pattern is None:
                found[candidate.name] = Skip("no rank given for it")
            else:
                choice = self._choice(candidate, pattern, wanted[pattern], context.growth)
                found[candidate.name] = choice
        return found

    def patterns(self) -> dict[str, str]:
        """The rank of each layer name or pattern, as text; UsageError for what is neither."""
        wanted = {}
        for item in self.text.split(","):
            name, separator, value = (piece.strip() for piece in item.rpartition("="))
            if not separator or not name or not value:
                raise UsageError(
                    f"{self.flag} {self.text}: met '{item.strip()}', expected LAYER=RANK, "
                    f"for example {self.example}"
                )
            if name in wanted:
                raise UsageError(
                    f"{self.flag} {self.text}: '{name}' is given twice; keep one of them"
                )
            wanted[name] = value
        return wanted

    def _choice(self, candidate, pattern: str, value: str, growth: bool) -> Choice | Skip:
        ranks, full = self._ranks(candidate, value), candidate.max_ranks
        if not growth and any(rank > most for rank, most in zip(ranks, full)):
            return Skip(
                f"rank {value} of {candidate.scheme.name} is more than this layer has: the largest "
                f"possible is {'x'.join(map(str, full))}"
            )
        try:
            candidate.scheme.check_ranks(candidate.geometry, ranks)
        except DecomposeError as error:
            raise RankError(f"{self.flag} {candidate.name}={value}: {error}") from error
        return Choice(ranks, f"given: {pattern}={value}")

    def _ranks(self, candidate, value: str) -> tuple[int, ...]:
        names = candidate.scheme.rank_names
        if value == "max":
            return candidate.max_ranks
        try:
            ranks = tuple(int(number) for number in value.lower().split("x"))
        except ValueError:
            ranks = ()
        if len(ranks) != len(names):
            shape = _SHAPES[len(names)]
            raise RankError(
                f"{self.flag} {candidate.name}={value}: {candidate.scheme.name} takes {shape}, "
                f"for example {candidate.name}="
                f"{'x'.join(map(str, candidate.scaled(1, 2)))}"
            )
        return ranks


def best_match(name: str, patterns) -> str | None:
    """The name itself if it is there, else the first pattern that matches."""
    if name in patterns:
        return name
    return next((pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern)), None)
