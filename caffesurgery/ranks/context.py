"""What a rank rule is told beside the layers themselves: the rest of the net, and what can measure.

A rule that needs no more than weights ignores nearly all of it; a rule that needs accuracy asks
``measure``, one that needs milliseconds ``predict``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from ..cost import Cost
from ..decompose import Aim
from ..errors import RankError
from ..timing import Profile

Ranks = tuple[int, ...]

Progress = Callable[[str, float], None]
"""Called with the layer that is at work and the share of all that is done."""

Measure = Callable[[Sequence[Mapping[str, Ranks]]], Sequence[float]]
"""Cases go in, each the ranks of the layers that are decomposed, by name; all others stay as they
are.  The score of each case comes out, higher is better: an accuracy as a share.  Cases of one call
may be evaluated side by side."""


@dataclass(frozen=True)
class RuleContext:
    """Everything about a net that its candidates do not tell.

    growth: a layer may end with more multiply-adds than it had
    progress: called while a rule is at work
    seed: of everything random
    aim: effort and bound of the decompositions
    rest: cost of all that is not among the candidates, for one image
    measure: evaluates cases on labelled data; None without data
    workers: decompose layers for rules that ask for it; None where nobody does but this process
    profile, rest_ms: how fast a machine is, with the milliseconds that it is predicted to take for
        all that is not among the candidates; None where no times are asked for
    images: how many images at a time those milliseconds are for
    """

    growth: bool = False
    progress: Progress | None = None
    seed: int = 0
    aim: Aim = Aim()
    rest: Cost = Cost(0, 0)
    measure: Measure | None = None
    workers: Executor | None = None
    profile: Profile | None = None
    rest_ms: float = 0.0
    images: int = 1

    def tell(self, layer: str, share: float) -> None:
        """Report progress, if anyone listens."""
        if self.progress:
            self.progress(layer, share)

    def measured(self, rule: str, cases: Sequence[Mapping[str, Ranks]]) -> list[float]:
        """Scores of ``cases``; RankError naming ``rule`` where there is no data to measure on."""
        if self.measure is None:
            raise RankError(
                f"--ranks {rule}: it needs labelled images to measure with, and none are given; "
                "give --images and --labels, or choose a rule that looks at the weights alone"
            )
        return [float(score) for score in self.measure(cases)]


ALONE = RuleContext()
"""Layers that are a whole net, without data."""
