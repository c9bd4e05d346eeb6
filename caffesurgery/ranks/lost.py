"""What each step of a layer loses, for the rules that minimise what a net is predicted to lose.

Of a layer it is the squared relative error, of the outputs where images say what it sees, else of
the weights, times what that is worth to the net.  Of a net it is the sum over its layers, as for
errors that are small and independent; where layers are refitted the net loses less, since each of
them makes good what was lost before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..decompose.truncated import singular_values
from .candidate import Candidate
from .context import ALONE, RuleContext
from .fits import fits
from .ladder import Ladder

_TRIED = 6
"""Steps of a layer at which it is decomposed, where no spectrum tells what all of them lose."""

_LEAST = 1e-12


def lost(ladders: Sequence[Ladder], context: RuleContext = ALONE) -> list[np.ndarray]:
    """What the net loses at every step of each layer alone, (n,), falling; 0 for the layer as is.

    Truncated SVDs tell all of it; others are decomposed at six steps, and the logarithm of the
    error, which falls about linearly with the rank, is interpolated.
    """
    tried = {k: _tried(each) for k, each in enumerate(ladders) if not each.candidate.scheme.optimal}
    pairs = [
        (ladders[k].candidate, ladders[k].ranks[step])
        for k, steps in tried.items()
        for step in steps
    ]
    errors = iter([1 - each.fitness for each in fits(context, pairs)])
    found = []
    for k, ladder in enumerate(ladders):
        if k in tried:
            values = _between(ladder, tried[k], [next(errors) ** 2 for _ in tried[k]])
        else:
            values = _known(ladder)
        if ladder.ranks[-1] is None:
            values[-1] = 0.0
        values = np.minimum.accumulate(np.maximum(values, 0.0))
        found.append(values)
    worth = _worths([ladder.candidate for ladder in ladders])
    return [values * each for values, each in zip(found, worth)]


def _worths(candidates: Sequence[Candidate]) -> list[float]:
    """What the net loses for each unit of the squared relative error of each layer; of a layer that
    is too large for images to say anything of it, the median of the others'."""
    known = [each.worth for each in candidates if each.metric]
    typical = float(np.median(known)) if known else 1.0
    return [each.worth if each.metric else typical for each in candidates]


def _known(ladder: Ladder) -> np.ndarray:
    """From the spectrum that the scheme truncates, that of all groups together."""
    candidate, group = ladder.candidate, ladder.candidate.geometry.group
    blocks = np.split(candidate.seen(), group)
    squares = sum(singular_values(candidate.scheme.unfold(block)) ** 2 for block in blocks)
    kept = np.append(0.0, np.cumsum(squares))
    shares = kept / max(kept[-1], np.finfo(np.float64).tiny)
    ranks = [(each or candidate.max_ranks)[0] // group for each in ladder.ranks]
    return 1 - shares[np.minimum(ranks, len(squares))]


def _tried(ladder: Ladder) -> list[int]:
    """The steps at which a layer is decomposed: its ends, and about evenly between them."""
    last = len(ladder.ranks) - 1 - (ladder.ranks[-1] is None)
    return sorted({round(step) for step in np.linspace(0, last, _TRIED)}) if last >= 0 else []


def _between(ladder: Ladder, steps: Sequence[int], squares: Sequence[float]) -> np.ndarray:
    if not steps:
        return np.zeros(len(ladder.ranks))
    logs = np.log(np.maximum(squares, _LEAST))
    return np.exp(np.interp(np.arange(len(ladder.ranks)), steps, logs))
