"""The knapsack behind the whole-net rules, against every choice there is and against its bounds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caffesurgery.ranks.knapsack import Item, Unreachable, best, lagrangian, solve


def every(items, budgets):
    """(value, choice) of every choice within the budgets, the best first."""
    found = []
    for choice in itertools.product(*(range(len(item.values)) for item in items)):
        spent = sum(item.costs[k] for item, k in zip(items, choice))
        if (spent <= np.asarray(budgets) + 1e-9).all():
            found.append((sum(item.values[k] for item, k in zip(items, choice)), choice))
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))


def problem(rng, kinds="mixed", budgets=1, items=4, options=6):
    """Items whose values saturate, fall, tie or are far from concave in their costs."""
    found = []
    for _ in range(items):
        size = int(rng.integers(1, options + 1))
        costs = np.sort(rng.integers(0, 30, (size, budgets)), axis=0).astype(float)
        if kinds == "reals":
            costs = np.sort(rng.random((size, budgets)) * 30, axis=0)
        values = {
            "ties": rng.integers(0, 3, size),
            "saturated": np.minimum(np.arange(size), 2),
            "convex": np.arange(size) ** 3,
        }.get(kinds, rng.standard_normal(size).round(2))
        found.append(Item(costs, np.asarray(values, float)))
    return found


def reach(items):
    return sum(item.costs.min(axis=0) for item in items)


KINDS = ["mixed", "ties", "saturated", "convex", "reals"]


@pytest.mark.parametrize("budgets", [1, 2])
@pytest.mark.parametrize("kinds", KINDS)
def test_the_best_of_every_choice_is_found_and_proven(kinds, budgets):
    rng = np.random.default_rng(KINDS.index(kinds))
    for _ in range(25):
        items = problem(rng, kinds, budgets)
        limits = (reach(items) + rng.integers(0, 50, budgets)).tolist()
        found, quick = solve(items, limits), lagrangian(items, limits)
        top = every(items, limits)[0][0]
        assert found.value == pytest.approx(top)
        assert found.exact
        assert quick.value <= top + 1e-9 <= quick.bound + 2e-9
        for each in (found, quick):
            values = [item.values[k] for item, k in zip(items, each.choice)]
            costs = sum(item.costs[k] for item, k in zip(items, each.choice))
            assert each.value == pytest.approx(sum(values))
            assert each.spent == pytest.approx(costs.tolist())
            assert (costs <= np.asarray(limits) + 1e-9).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.integers(1, 2), st.integers(1, 12))
def test_the_next_best_choices_follow_in_order(seed, kinds, budgets, count):
    rng = np.random.default_rng(seed)
    items = problem(rng, kinds, budgets, items=3, options=4)
    limits = (reach(items) + rng.integers(0, 40, budgets)).tolist()
    wanted = [value for value, _ in every(items, limits)[:count]]
    found = best(items, limits, count)
    assert [each.value for each in found] == pytest.approx(wanted)
    assert len({each.choice for each in found}) == len(found)


def layers(count, options, seed=0, unit=1.0):
    """Layers as a net has them: cost linear in the rank, value a saturating logarithm."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        ranks = np.arange(1, int(rng.integers(options // 4, options)) + 1)
        spectrum = rng.random(len(ranks)) * np.exp(-ranks / (0.1 + rng.random()) / len(ranks) * 3)
        energy = np.cumsum(np.sort(spectrum)[::-1])
        costs = ranks * (unit * int(rng.integers(1, 40)) if unit >= 1 else rng.random())
        found.append(Item(costs[:, None].astype(float), np.log(energy / energy[-1])))
    return found


@pytest.mark.parametrize("unit", [0.5, 1, 602_112, 10**12 + 39])
def test_nets_of_200_layers_and_costs_without_a_common_unit(unit):
    items = layers(200, 120, unit=unit)
    whole = sum(float(item.costs.max()) for item in items)
    found, quick = solve(items, [0.3 * whole]), lagrangian(items, [0.3 * whole])
    assert found.spent[0] <= 0.3 * whole
    assert quick.value <= found.value <= found.bound <= quick.bound
    assert quick.bound - quick.value < 1e-3
    assert found.bound - found.value < 1e-5


def test_two_budgets_hold_on_a_large_net():
    rng = np.random.default_rng(1)
    items = [
        Item(np.hstack([item.costs, item.costs * rng.random()]), item.values)
        for item in layers(20, 80)
    ]
    whole = sum(item.costs.max(axis=0) for item in items)
    limits = (whole * [0.4, 0.3]).tolist()
    found = solve(items, limits)
    assert all(spent <= limit for spent, limit in zip(found.spent, limits))
    assert found.bound - found.value < 2e-3


def test_what_nothing_can_reach_is_said_with_the_least_that_is_needed():
    with pytest.raises(Unreachable) as caught:
        solve([Item(np.array([[3.0], [5.0]]), np.array([0.0, 1.0]))], [2.0])
    assert caught.value.least.tolist() == [3.0]


def test_of_equal_values_the_cheaper_is_taken():
    item = Item(np.array([[9.0], [1.0], [4.0]]), np.array([1.0, 1.0, 1.0]))
    assert solve([item, item], [100.0]).choice == (1, 1)
