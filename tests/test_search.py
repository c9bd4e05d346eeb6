"""The search for the smallest rank: right on curves of every kind, and with few tries."""

from __future__ import annotations

import numpy as np
import pytest

from caffesurgery.decompose.search import SLACK, smallest

CURVES = {
    "exponential": lambda x: np.exp(-5 * x),
    "steep": lambda x: np.exp(-30 * x) + 1e-4 * (1 - x),
    "root": lambda x: np.sqrt(np.maximum(0, 1 - x)),
    "power": lambda x: (1 + 20 * x) ** -0.6 * (1 - x) ** 0.3,
    "jump to zero": lambda x: np.where(x < 0.5, 1 - x, 0.0),
    "flat": lambda x: 1 - 0.3 * x,
}


@pytest.mark.parametrize("kind", CURVES)
@pytest.mark.parametrize("most", [1, 2, 3, 9, 64, 200, 2300])
def test_finds_the_smallest_rank_in_few_tries(kind, most):
    curve = CURVES[kind](np.arange(most + 1) / most)
    for error in (0.95, 0.7, 0.3, 0.1, 1e-3, 0.0):
        tries = []

        def error_at(rank, tries=tries):
            tries.append(rank)
            return float(curve[rank])

        found = smallest(error_at, error, most)
        true = next((r for r in range(1, most) if curve[r] <= error + 1e-5), most)
        assert true <= found <= (true if true <= SLACK else true * (1 + 2 / SLACK))
        assert found == most or curve[found] <= error + 1e-5
        assert len(set(tries)) == len(tries) <= 16
        assert most not in tries or most == 1


def test_a_noisy_curve_gives_a_rank_that_does():
    rng = np.random.default_rng(0)
    curve = np.exp(-5 * np.arange(1001) / 1000) * (1 + 0.003 * rng.standard_normal(1001))
    for error in (0.8, 0.4, 0.2, 0.05):
        found = smallest(lambda rank: float(curve[rank]), error, 1000)
        true = int(np.argmax(curve <= error))
        assert curve[found] <= error + 1e-5 and abs(found - true) <= 4 + true / 30
