"""The smallest rank for an error, where only decomposing tells: few ranks are tried.

The logarithm of the error falls about linearly with the rank, so the next rank to try is where the
line through the last two tries meets the error that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SLACK = 64
"""Ranks above this may be larger than the smallest one by a share of 1 / SLACK."""

ROUNDING = 1e-5
"""Added to the error that is asked for: what float32 may take off or add."""

_LEAP = 3  # a try is at most this many times the one before


def smallest(error_at: Callable[[int], float], error: float, most: int) -> int:
    """The smallest of 1 ... most whose ``error_at`` is at most ``error``, which falls with rank.

    ``most``, which is never tried, where none below does.  Exact up to SLACK, where the tries end
    with a rank that does and the one before, which does not; above, by interpolation.
    """
    goal = _log(error + ROUNDING)
    low, high, tried = 0, most, False  # tried: whether ``high`` is known to do
    old, rank, before, width = 0, max(1, most // 16), 0.0, most
    while high - low > 1:
        now = _log(error_at(rank))
        slope = min((now - before) / (rank - old), -1e-9)
        aim = rank + (goal - now) / slope
        if now <= goal:
            high, tried = rank, True
            if 0 < rank // SLACK >= rank - aim:
                break
        else:
            low = rank
        if tried and (2 * (high - low) > width or not low < aim < high):
            aim = (low + high) / 2  # where the line leads nowhere, as at a jump to 0
        elif not tried:
            aim *= 1 + 0.5 / SLACK  # to the side that does, so that this may be the last try
        old, before, width = rank, now, high - low
        wanted = int(np.ceil(min(aim, _LEAP * rank)))
        rank = min(max(wanted, low + 1), high - 1)
    return high


def _log(error: float) -> float:
    return float(np.log(max(error, 1e-9)))
