"""``vbmf``: every layer gets the ranks that variational Bayes tells from noise in its weights.

Papers 001 and 003: for Tucker-2 the ranks of the mode-3 and mode-4 unfoldings, for CP the largest
of the three unfoldings, otherwise the rank of the matrix that is truncated; of the groups of a
layer the largest.  ``weaken=0.8`` goes only so far from the full rank to that one.
"""

from __future__ import annotations

from dataclasses import dataclass

from .candidate import Candidate
from .context import ALONE
from .evbmf import Estimate, compatible
from .large import estimate_of
from .options import Option, share
from .rule import Allocation, Choice, Rule, Skip, register
from .spectrum import spectrum


@dataclass(frozen=True)
class _Found:
    """What one unfolding of one group says: which it is, and what was estimated of it."""

    unfolding: str
    estimate: Estimate
    dead: int


@register
class Vbmf(Rule):
    name = "vbmf"
    example = "vbmf"
    summary = "the ranks that stand out of the noise, by variational Bayes"
    options = (
        Option(
            "weaken",
            "how far to go from the full rank to that of the theory",
            share,
            "a share above 0 and at most 1",
            1.0,
        ),
        Option("compat", "the rank of the widely copied Python code, for tables made with it"),
    )

    def allocate(self, candidates, context=ALONE):
        found: Allocation = {}
        for index, candidate in enumerate(candidates):
            context.tell(candidate.name, index / len(candidates))
            found[candidate.name] = self._choice(candidate)
        return found

    def _choice(self, candidate: Candidate) -> Choice | Skip:
        # Not what a metric sees of it: the noise that VBMF looks for is even in the weights alone.
        kernel, group = candidate.kernel(), candidate.geometry.group
        if not kernel.any():
            return Skip("vbmf: all its weights are zero")
        seen = self._estimates(candidate, kernel)
        most = [rank // group for rank in candidate.max_ranks]
        ranks = [max(each.estimate.rank for each in place) for place in seen]
        if not any(ranks):
            return Skip(f"vbmf: nothing but noise ({_told(seen)}), so no rank can be said")
        # An unfolding that is all noise says nothing about its mode, which then stays whole.
        wanted = [rank or full for rank, full in zip(ranks, most)]
        weaken = self.given["weaken"] or 1.0
        wanted = [
            max(1, min(full, round(full - weaken * (full - rank))))
            for rank, full in zip(wanted, most)
        ]
        softer = f", weakened by {weaken:g}" if weaken < 1 else ""
        if wanted == most:
            return Skip(f"vbmf: full rank ({_told(seen)}{softer}), nothing to cut")
        why = f"vbmf: {_told(seen)}{' in a group' if group > 1 else ''}{softer}"
        return Choice(tuple(rank * group for rank in wanted), why, _largest(seen))

    def _estimates(self, candidate: Candidate, kernel) -> list[list[_Found]]:
        """For each rank of the scheme, what the unfoldings say that it is chosen by."""
        places: list[list[_Found]] = [[] for _ in candidate.max_ranks]
        step = len(kernel) // candidate.geometry.group
        for start in range(0, len(kernel), step):
            block = kernel[start : start + step]
            for place, unfoldings in zip(places, candidate.scheme.unfoldings(block)):
                place.extend(self._estimate(name, each) for name, each in unfoldings.items())
        return places

    def _estimate(self, name: str, matrix) -> _Found:
        if self.given["compat"]:
            seen = spectrum(matrix, dead=0.0)
            return _Found(name, Estimate(compatible(seen), 0.0, 0.0), 0)
        return _Found(name, *estimate_of(matrix))


def _largest(seen: list[list[_Found]]) -> dict[str, int]:
    """The largest rank of each unfolding over the groups."""
    largest: dict[str, int] = {}
    for each in (each for place in seen for each in place):
        largest[each.unfolding] = max(largest.get(each.unfolding, 0), each.estimate.rank)
    return largest


def _told(seen: list[list[_Found]]) -> str:
    """The ranks in words, and how many rows and columns were left out as dead."""
    ranks = ", ".join(f"{name} {rank}" for name, rank in _largest(seen).items())
    dead = max(each.dead for place in seen for each in place)
    return ranks + (f", {dead} dead rows and columns left out" if dead else "")
