"""Random numbers from a seed and a counter: the same wherever and whenever they are asked for."""

from __future__ import annotations

import functools

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


@functools.lru_cache(maxsize=4)
def permutation(size: int, seed: int, *rounds: int) -> np.ndarray:
    """0 to size - 1, shuffled for one round (an epoch, or a file in an epoch); read-only."""
    order = np.random.default_rng([seed, *rounds]).permutation(size)
    order.flags.writeable = False
    return order


def draws(items: np.ndarray, seed: int, kinds: int) -> np.ndarray:
    """``kinds`` uint64 numbers for each item: SplitMix64 of (seed, item, kind); items x kinds."""
    count = np.asarray(items, np.uint64)[:, None] * np.uint64(kinds) + np.arange(
        kinds, dtype=np.uint64
    )
    start = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    with np.errstate(over="ignore"):
        value = start + (count + np.uint64(1)) * np.uint64(_GOLDEN)
        for shift, factor in _MIX:
            value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return value ^ (value >> np.uint64(31))
