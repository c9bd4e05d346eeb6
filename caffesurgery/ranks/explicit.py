"""``conv2=154,conv3=105x112,fc6=max``: the user's own ranks, by layer name or pattern.

Two numbers are the input and output rank of a Tucker scheme, and ``max`` is the full rank.  Ranks
of a grouped layer are totals over its groups.  A rank above the full one leaves its layer alone,
since the layer would grow: paper 000 prints rank 59 for VGG16's conv1_1, whose full rank is 27.
"""

from __future__ import annotations

import fnmatch

from ..errors import DecomposeError, RankError, UsageError, suggest
from .rule import Choice, Rule, Skip, register


@register
class Explicit(Rule):
    name = "explicit"
    example = "conv2=154,conv3=105x112"
    summary = "these ranks, by layer name or pattern; 'max' is the full rank"

    def allocate(self, candidates, growth=False, progress=None):
        wanted = self._parse()
        for pattern in wanted:
            if not any(fnmatch.fnmatchcase(candidate.name, pattern) for candidate in candidates):
                names = [candidate.name for candidate in candidates]
                raise RankError(
                    f"--ranks {self.argument}: this method can decompose no layer '{pattern}'; "
                    f"{suggest(pattern, names)}"
                )
        found = {}
        for candidate in candidates:
            pattern = _best_match(candidate.name, wanted)
            if pattern is None:
                found[candidate.name] = Skip("no rank given for it")
            else:
                found[candidate.name] = self._choice(candidate, pattern, wanted[pattern], growth)
        return found

    def _parse(self) -> dict[str, str]:
        wanted = {}
        for item in self.argument.split(","):
            name, separator, value = (piece.strip() for piece in item.rpartition("="))
            if not separator or not name or not value:
                raise UsageError(
                    f"--ranks {self.argument}: met '{item.strip()}', expected LAYER=RANK, "
                    f"for example {self.example}"
                )
            if name in wanted:
                raise UsageError(
                    f"--ranks {self.argument}: '{name}' is given twice; keep one of them"
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
            raise RankError(f"--ranks {candidate.name}={value}: {error}") from error
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
            shape = "two ranks, INxOUT" if len(names) == 2 else "one rank"
            raise RankError(
                f"--ranks {candidate.name}={value}: {candidate.scheme.name} takes {shape}, "
                f"for example {candidate.name}="
                f"{'x'.join(str(max(most // 2, 1)) for most in candidate.max_ranks)}"
            )
        return ranks


def _best_match(name: str, patterns) -> str | None:
    """The name itself if it is there, else the first pattern that matches."""
    if name in patterns:
        return name
    return next((pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern)), None)
