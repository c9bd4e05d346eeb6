"""``sensitivity:average=150``: ranks in proportion to the accuracy that each layer costs.

Paper 000, section 2.5: each layer alone is decomposed at one small rank, and what the net then
loses is measured on labelled images, or read from a file where it was measured elsewhere: the
paper fine-tunes for one epoch first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..errors import RankError, suggest
from .candidate import Candidate
from .context import ALONE, RuleContext
from .options import Option, count
from .proportional import AVERAGES, allocate
from .rule import Rule, register


@register
class Sensitivity(Rule):
    name = "sensitivity"
    example = "sensitivity:average=150"
    summary = "in proportion to the accuracy lost when one layer alone is decomposed"
    options = (
        *AVERAGES,
        Option("rank", "the small rank at which each layer is measured", count, "a rank", 10),
        Option("losses", "a JSON file with the loss of each layer by name, measured already", str,
               "a file"),
    )  # fmt: skip

    def allocate(self, candidates, context=ALONE):
        if self.given["losses"]:
            losses = self._read(self.given["losses"], candidates)
        else:
            losses = self._measure(candidates, context)
        return allocate(self.name, candidates, losses, self.given, "a loss of {:g}")

    def _measure(self, candidates: Sequence[Candidate], context: RuleContext) -> list[float]:
        """What is lost with each layer alone at the small rank; nothing where the net gains."""
        cases = [{each.name: _small(each, self.given["rank"])} for each in candidates]
        base, *scores = context.measured(self.text, [{}, *cases])
        return [round(max(base - score, 0.0), 12) for score in scores]

    def _read(self, path: str, candidates: Sequence[Candidate]) -> list[float]:
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            losses = {name: float(loss) for name, loss in found.items()}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            reason = getattr(error, "strerror", None) or "it is no JSON object of numbers"
            raise RankError(
                f"--ranks {self.text}: {path}: cannot be read ({reason}); expected the loss of "
                'each layer by name, for example {"conv2": 11.89}'
            ) from None
        for each in candidates:
            if not losses.get(each.name, -1.0) >= 0:
                raise RankError(
                    f"--ranks {self.text}: {path} has no loss of at least 0 for the layer "
                    f"'{each.name}'; {suggest(each.name, losses)}"
                )
        return [losses[each.name] for each in candidates]


def _small(candidate: Candidate, rank: int) -> tuple[int, ...]:
    """The rank in every mode: as much as there is, in multiples of the groups."""
    group = candidate.geometry.group
    return tuple(min(most, max(group, rank // group * group)) for most in candidate.max_ranks)
