"""Whole-net objectives of paper 004 and the choices that make them largest within budgets.

A_p and A_m are products of a metric over the layers (equations 6 and 7), so their logarithms are a
knapsack.  A_c = A_p C / C_orig + A_m (equation 8) is convex in the logarithms of both, so its best
choice is best for some weighted sum of them: the weights are bisected until a bound closes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .knapsack import Item, Solution, Unreachable, best, lagrangian, solve

_TOLERANCE = 1e-9
_ROUNDS = 40


@dataclass(frozen=True)
class Found:
    """A choice (a step for each layer), the objective there, and a bound that none exceeds.

    For A_p and A_m both are logarithms: a product over many layers is too small to read.
    """

    choice: tuple[int, ...]
    value: float
    bound: float


def product(
    metrics: Sequence[np.ndarray],
    costs: Sequence[np.ndarray],
    budgets: Sequence[float],
    quick: bool = False,
) -> Found:
    """The largest product of one metric over the layers.

    metrics: for each layer (n,) positive; costs: (n, m).  ``quick`` stops at the dual bound.
    Raises knapsack.Unreachable.
    """
    found = (lagrangian if quick else solve)(_items([np.log(y) for y in metrics], costs), budgets)
    return Found(found.choice, found.value, found.bound)


def products(
    metrics: Sequence[np.ndarray],
    costs: Sequence[np.ndarray],
    budgets: Sequence[float],
    count: int,
) -> list[Found]:
    """The ``count`` choices with the largest products, the best first."""
    found = best(_items([np.log(y) for y in metrics], costs), budgets, count)
    return [Found(each.choice, each.value, each.bound) for each in found]


def combined(
    energies: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    costs: Sequence[np.ndarray],
    budgets: Sequence[float],
    share: Callable[[float], float],
    count: int = 1,
    quick: bool = False,
) -> list[Found]:
    """The ``count`` best choices by A_c; only of the first is the bound that of all choices.

    ``share`` makes C / C_orig of what is spent of the first budget.
    """
    logs = [np.log(np.column_stack(pair)) for pair in zip(energies, scores)]
    top = share(budgets[0])

    def at(weight: float, solver=lagrangian if quick else solve):
        weights = np.array([weight, 1 - weight])
        return solver(_items([both @ weights for both in logs], costs), budgets)

    def objective(found: Solution) -> float:
        a, m = sum(both[k] for both, k in zip(logs, found.choice))
        return float(np.exp(a) * share(found.spent[0]) + np.exp(m))

    lines = [(weight, at(weight)) for weight in (0.0, 1.0)]
    for _ in range(_ROUNDS):
        leading = max((found for _, found in lines), key=objective)
        corner, weight, place = _highest(lines, top)
        if corner <= objective(leading) * (1 + _TOLERANCE):
            break
        low, high = lines[place][0], lines[place + 1][0]
        if not low < weight < high or min(weight - low, high - weight) < 1e-4 * (high - low):
            weight = (low + high) / 2
        if not low < weight < high:
            break
        lines.insert(place + 1, (weight, at(weight)))
    bound = max(objective(leading), corner)
    chosen = {leading.choice: leading}
    if count > 1:
        weight = next(weight for weight, found in lines if found.choice == leading.choice)
        more = at(weight, lambda items, limits: best(items, limits, 2 * count))
        chosen.update((each.choice, each) for each in more)
    ordered = sorted(chosen.values(), key=lambda each: (-objective(each), each.choice))
    return [Found(each.choice, objective(each), bound) for each in ordered[:count]]


def _highest(lines, top: float) -> tuple[float, float, int]:
    """(Bound, weight to look at next, place of the pair of lines) where A_c may be largest.

    No choice lies above any line weight a + (1 - weight) m = bound, so the largest value of a
    convex function is at a corner between two neighbouring ones.
    """
    found = []
    for place, ((low, first), (high, second)) in enumerate(zip(lines, lines[1:])):
        system = np.array([[low, 1 - low], [high, 1 - high]])
        a, m = np.linalg.solve(system, [first.bound, second.bound])
        energy, score = float(np.exp(min(a, 50)) * top), float(np.exp(min(m, 50)))
        found.append((energy + score, energy / max(energy + score, 1e-300), place))
    return max(found)


def _items(values: Sequence[np.ndarray], costs: Sequence[np.ndarray]) -> list[Item]:
    return [Item(cost, value) for cost, value in zip(costs, values)]


def inverse(shares: np.ndarray, scores: np.ndarray) -> Callable[[float], float]:
    """From a level of a layer's metric to the share of the full rank where it is reached.

    Interpolated by PCHIP between those points of the metric that rise above all before them.
    """
    from scipy.interpolate import PchipInterpolator

    scores = np.asarray(scores, np.float64)
    rising = np.concatenate([[True], np.diff(np.maximum.accumulate(scores)) > 0])
    shares, scores = np.asarray(shares, np.float64)[rising], scores[rising]
    if len(scores) < 2:
        return lambda level: float(shares[0])
    curve = PchipInterpolator(scores, shares)
    return lambda level: float(curve(min(max(level, scores[0]), scores[-1])))


def mapped(
    inverses: Sequence[Callable[[float], float]],
    shares: Sequence[np.ndarray],
    costs: Sequence[np.ndarray],
    budgets: Sequence[float],
) -> tuple[tuple[int, ...], float]:
    """The highest level that all layers can have within the budgets (equation 12), and the steps.

    A layer takes the step whose share of the full rank, one of its ``shares``, is nearest to that
    which the level asks for.  Raises knapsack.Unreachable.
    """

    def steps(level: float) -> tuple[int, ...]:
        return tuple(
            int(np.argmin(np.abs(each - find(level)))) for find, each in zip(inverses, shares)
        )

    def spent(chosen: Sequence[int]) -> np.ndarray:
        return np.sum([cost[step] for cost, step in zip(costs, chosen)], axis=0)

    limits = np.asarray(budgets) * (1 + 1e-12)
    if (spent(steps(0.0)) > limits).any():
        raise Unreachable(spent(steps(0.0)))
    low, high = 0.0, 2.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if (spent(steps(middle)) <= limits).all() else (low, middle)
    return steps(low), low
