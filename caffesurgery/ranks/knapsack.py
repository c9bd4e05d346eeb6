"""The multiple-choice knapsack: one option of every item, within budgets, for the largest value.

First by Lagrangian: the prices of the budgets at which the dual bound is least give a choice that
is filled up greedily, with that bound as the proof of how far from the best it can be.  Then
exactly, by dynamic programming over cost: what an option or a partial choice loses against the
prices is known, and all that loses more than the gap still open is left out.  Where every cost is a
multiple of one unit there are no more partial choices than cells, as in a table over that unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

STATES = {1: 300_000, 2: 20_000}
"""Partial choices kept at most, with one budget and with more; where more compete the result is
near, and its bound says so."""
_BUCKETS = 32
_AT_ONCE = 2_000_000  # partial choices times options that are looked at together
_EPS = 1e-12


@dataclass(frozen=True, eq=False)
class Item:
    """The options of one item.

    costs: (n, m) what each option spends of each of the m budgets; values: (n,)
    """

    costs: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Solution:
    """A choice of one option (an index) for each item.

    value: the sum of its values; spent: of each budget; bound: no choice has a larger value
    """

    choice: tuple[int, ...]
    value: float
    spent: tuple[float, ...]
    bound: float

    @property
    def exact(self) -> bool:
        """Whether no choice can be better."""
        return self.bound <= self.value + 1e-9 * max(1.0, abs(self.value))


class Unreachable(Exception):
    """No choice keeps within the budgets; ``least`` is the smallest that can be spent of each."""

    def __init__(self, least: np.ndarray):
        super().__init__("no choice keeps within the budgets")
        self.least = least


def solve(items: Sequence[Item], budgets: Sequence[float]) -> Solution:
    """The best choice; its ``bound`` equals its value unless too many choices compete.

    Raises Unreachable where no choice keeps within the budgets.
    """
    priced = _Priced.of(items, budgets)
    first = _greedy(priced)
    found, left_out = _enumerate(priced, priced.bound - first.value, dominated=False)
    best = max([first, *found], key=lambda solution: solution.value)
    return replace(best, bound=min(priced.bound, max(best.value, left_out)))


def lagrangian(items: Sequence[Item], budgets: Sequence[float]) -> Solution:
    """A good choice in little time, with the dual bound."""
    return _greedy(_Priced.of(items, budgets))


def best(items: Sequence[Item], budgets: Sequence[float], count: int) -> list[Solution]:
    """The ``count`` best choices, or as many as there are, the best first."""
    priced = _Priced.of(items, budgets)
    gap = max(priced.bound - _greedy(priced).value, 1e-9)
    while True:
        found, left_out = _enumerate(priced, gap, dominated=True, most=max(4000, 20 * count))
        sure = [each for each in found if each.value >= priced.bound - gap]
        crowded = left_out > -np.inf
        whole = gap > priced.largest_gap
        if len(sure) >= count or crowded or whole:
            chosen = sure if len(sure) >= count else found
            chosen = sorted(chosen, key=lambda each: (-each.value, each.choice))[:count]
            bound = min(priced.bound, max(chosen[0].value, left_out))
            return [replace(each, bound=bound) for each in chosen]
        gap *= 2


@dataclass(frozen=True, eq=False)
class _Priced:
    """A problem with the prices of its budgets: what each option loses against the best of them.

    All options stand one behind the other; ``starts`` says where those of an item begin.
    """

    costs: np.ndarray
    values: np.ndarray
    starts: np.ndarray
    budgets: np.ndarray
    prices: np.ndarray
    bound: float

    @classmethod
    def of(cls, items: Sequence[Item], budgets: Sequence[float]) -> _Priced:
        """With the prices that make the dual bound least."""
        costs = np.concatenate([np.reshape(item.costs, (len(item.values), -1)) for item in items])
        values = np.concatenate([np.asarray(item.values, np.float64) for item in items])
        starts = np.cumsum([0, *(len(item.values) for item in items[:-1])])
        limits = np.asarray(budgets, np.float64)
        flat = cls(costs.astype(np.float64), values, starts, limits, 0 * limits, np.inf)
        least = np.minimum.reduceat(flat.costs, starts).sum(axis=0)
        if (least > limits * (1 + _EPS) + _EPS).any():
            raise Unreachable(least)
        flat = replace(flat, budgets=_whole_units(flat, limits))
        limits = flat.budgets
        prices = _one_price(flat) if len(limits) == 1 else _many_prices(flat)
        bound = float(flat.reduced(prices, best=True).sum() + prices @ limits)
        return replace(flat, prices=prices, bound=bound)

    def reduced(self, prices: np.ndarray, best: bool = False) -> np.ndarray:
        """Values less what the costs are worth: of every option, or of the best of each item."""
        worth = self.values - self.costs @ prices
        return np.maximum.reduceat(worth, self.starts) if best else worth

    def cheapest_best(self, prices: np.ndarray) -> np.ndarray:
        """Of each item the option with the best reduced value, of equals the cheaper one."""
        worth = self.reduced(prices)
        top = np.repeat(np.maximum.reduceat(worth, self.starts), self.sizes)
        weight = self.costs @ np.maximum(prices, 1 / np.maximum(self.budgets, 1))
        masked = np.where(worth >= top - _EPS * np.maximum(1, np.abs(top)), weight, np.inf)
        lowest = np.repeat(np.minimum.reduceat(masked, self.starts), self.sizes)
        index = np.where(masked == lowest, np.arange(len(masked)), len(masked))
        return np.minimum.reduceat(index, self.starts)

    @property
    def sizes(self) -> np.ndarray:
        """The number of options of each item."""
        return np.diff([*self.starts, len(self.values)])

    @property
    def gaps(self) -> np.ndarray:
        """What each option loses against the best of its item."""
        worth = self.reduced(self.prices)
        return np.repeat(np.maximum.reduceat(worth, self.starts), self.sizes) - worth

    @property
    def largest_gap(self) -> float:
        """More than any choice can lose, budgets left over included."""
        worst = float(np.maximum.reduceat(self.gaps, self.starts).sum())
        return worst + float(self.prices @ self.budgets) + 1.0

    def fits(self, spent: np.ndarray) -> np.ndarray:
        """Whether what is spent, (..., m), keeps within the budgets."""
        return (spent <= self.budgets * (1 + _EPS) + _EPS).all(axis=-1)

    def solution(self, chosen: np.ndarray) -> Solution:
        """The solution of options given by their places among all."""
        spent = self.costs[chosen].sum(axis=0)
        local = tuple(int(each) for each in chosen - self.starts)
        return Solution(local, float(self.values[chosen].sum()), tuple(spent.tolist()), self.bound)


def _whole_units(flat: _Priced, budgets: np.ndarray) -> np.ndarray:
    """The budgets, rounded down to what whole costs can add up to: their unit is the gcd."""
    lowest = np.minimum.reduceat(flat.costs, flat.starts)
    above = flat.costs - np.repeat(lowest, flat.sizes, axis=0)
    rounded = budgets.copy()
    for column, (base, costs) in enumerate(zip(lowest.sum(axis=0), above.T)):
        if (costs == np.floor(costs)).all() and costs.max(initial=0) < 2**53:
            unit = max(int(np.gcd.reduce(costs.astype(np.int64))), 1)
            rounded[column] = base + (budgets[column] - base + _EPS) // unit * unit
    return rounded


def _one_price(flat: _Priced) -> np.ndarray:
    """The price at which the dual bound of one budget is least, by bisection."""

    def spent(price: float) -> float:
        return float(flat.costs[flat.cheapest_best(np.array([price]))].sum())

    budget = float(flat.budgets[0])
    if spent(0.0) <= budget:
        return np.zeros(1)
    span = np.ptp(flat.values) + 1e-300
    low, high = 0.0, span / max(budget, 1e-300)
    while spent(high) > budget and high < 1e300:
        low, high = high, high * 16
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) > budget else (low, middle)
        if high - low <= 1e-13 * high:
            break
    return np.array([high])


def _many_prices(flat: _Priced) -> np.ndarray:
    """The prices of several budgets, by cutting planes: each choice bounds the dual from below."""
    from scipy.optimize import linprog

    scale = np.maximum(flat.budgets, 1e-300)
    ceiling = 16.0 * len(flat.starts) * (np.ptp(flat.values) + 1e-300)
    prices, rows, sides, best = np.zeros(len(scale)), [], [], (np.inf, np.zeros(len(scale)))
    for _ in range(200):
        chosen = flat.cheapest_best(prices / scale)
        value, spent = flat.values[chosen].sum(), flat.costs[chosen].sum(axis=0) / scale
        best = min(best, (value + prices @ (1 - spent), prices), key=lambda pair: pair[0])
        rows.append([*(1 - spent), -1.0])
        sides.append(-value)
        bounds = [(0, ceiling)] * len(scale) + [(None, None)]
        found = linprog([0.0] * len(scale) + [1.0], rows, sides, bounds=bounds)
        if not found.success or found.x[-1] >= best[0] - 1e-10 * max(1.0, abs(best[0])):
            break
        prices = found.x[:-1]
    return best[1] / scale


def _greedy(priced: _Priced) -> Solution:
    """The choice at the prices, made to fit, then filled up with what still fits, best first."""
    chosen = priced.cheapest_best(priced.prices)
    owner = np.repeat(np.arange(len(priced.starts)), priced.sizes)
    worth = priced.reduced(priced.prices)
    spent = priced.costs[chosen].sum(axis=0)
    if not priced.fits(spent):
        chosen = _repaired(priced, chosen, owner)
        spent = priced.costs[chosen].sum(axis=0)
    while True:
        fits = priced.fits(spent - priced.costs[chosen][owner] + priced.costs)
        better = priced.values > priced.values[chosen][owner] + _EPS
        gain = np.where(fits & better, worth - worth[chosen][owner], -np.inf)
        place = int(np.argmax(gain))
        if gain[place] == -np.inf:
            return priced.solution(chosen)
        spent = spent - priced.costs[chosen[owner[place]]] + priced.costs[place]
        chosen[owner[place]] = place


def _repaired(priced: _Priced, chosen: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """A choice that fits: the budget overrun most is eased where that costs least, in turns."""
    scale = np.maximum(priced.budgets, 1e-300)
    worth = priced.reduced(priced.prices)
    least = np.minimum.reduceat((priced.costs / scale).max(axis=1), priced.starts)
    for _ in range(20 * len(priced.values)):
        spent = priced.costs[chosen].sum(axis=0)
        if priced.fits(spent):
            return chosen
        tight = int(np.argmax(spent / scale))
        saved = (priced.costs[chosen][owner] - priced.costs)[:, tight] / scale[tight]
        loss = worth[chosen][owner] - worth
        rate = np.where(saved > _EPS, (loss + _EPS) / np.maximum(saved, _EPS), np.inf)
        place = int(np.argmin(rate))
        if rate[place] == np.inf:
            break
        chosen[owner[place]] = place
    small = (priced.costs / scale).max(axis=1)
    index = np.where(small <= np.repeat(least, priced.sizes), np.arange(len(small)), len(small))
    chosen = np.minimum.reduceat(index, priced.starts)
    if not priced.fits(priced.costs[chosen].sum(axis=0)):
        raise Unreachable(np.minimum.reduceat(priced.costs, priced.starts).sum(axis=0))
    return chosen


def _enumerate(
    priced: _Priced, gap: float, dominated: bool, most: int | None = None
) -> tuple[list[Solution], float]:
    """The choices that lose at most ``gap`` against the bound, and a bound on those left out.

    Without ``dominated`` only the best of them: a partial choice that costs no less than another
    and is worth no more is dropped.  At most ``most`` partial choices are kept, those that lose
    least.
    """
    most = most or STATES[min(2, len(priced.budgets))]
    gaps, stops = priced.gaps, priced.starts + priced.sizes
    order = np.argsort(-(priced.sizes), kind="stable")
    rest = np.minimum.reduceat(priced.costs, priced.starts)[order]
    rest = np.vstack([np.cumsum(rest[::-1], axis=0)[::-1], 0 * rest[:1]])
    slack = gap * (1 + 1e-9) + _EPS
    spent, lost = np.zeros((1, len(priced.budgets))), np.zeros(1)
    trail: list[tuple[np.ndarray, np.ndarray]] = []
    left_out = -np.inf
    for step, item in enumerate(order):
        options = np.arange(priced.starts[item], stops[item])
        options = options[gaps[options] <= slack]
        parts = max(1, len(spent) * len(options) // _AT_ONCE)
        pieces = []
        for chunk in np.array_split(options, min(parts, len(options)) or 1):
            total = lost[:, None] + gaps[chunk]
            room = priced.budgets * (1 + _EPS) + _EPS - rest[step + 1]
            cost = spent[:, None] + priced.costs[chunk]
            parent, column = np.nonzero((total <= slack) & (cost <= room).all(axis=-1))
            pieces.append((cost[parent, column], total[parent, column], parent, chunk[column]))
        spent, lost, parent, option = (np.concatenate(each) for each in zip(*pieces))
        keep = np.arange(len(lost))
        if not dominated and len(lost):
            keep = _front(priced, spent, lost)
        if len(keep) > most:
            keep = keep[np.argsort(lost[keep], kind="stable")]
            left_out = max(left_out, priced.bound - float(lost[keep[most]]))
            keep = keep[:most]
        spent, lost = spent[keep], lost[keep]
        trail.append((parent[keep], option[keep]))
    return _traced(priced, order, trail, spent, lost, dominated), left_out


def _front(priced: _Priced, spent: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Partial choices that none is better than: cheaper in all budgets and worth as much."""
    value = spent @ priced.prices - lost
    order = np.lexsort((-value, *spent.T[::-1]))
    if spent.shape[1] == 1:
        ahead = np.concatenate([[-np.inf], np.maximum.accumulate(value[order])[:-1]])
        return order[value[order] > ahead + _EPS]
    same = np.concatenate([[False], (np.diff(spent[order], axis=0) == 0).all(axis=1)])
    order = order[~same]
    if spent.shape[1] > 2:
        return order
    # By the second cost in buckets: whoever is ahead in the first and in a lower bucket is cheaper.
    second, value = spent[order, 1], value[order]
    edges = np.quantile(second, np.linspace(0, 1, _BUCKETS)[1:-1])
    bucket = np.searchsorted(edges, second, side="right")
    ahead = np.full((len(order), _BUCKETS), -np.inf)
    ahead[np.arange(len(order)), bucket] = value
    ahead = np.maximum.accumulate(np.maximum.accumulate(ahead, axis=0), axis=1)
    lower = np.where(bucket > 0, ahead[np.arange(len(order)), bucket - 1], -np.inf)
    return order[value > lower + _EPS]


def _traced(priced, order, trail, spent, lost, dominated: bool) -> list[Solution]:
    """The solutions at the ends of the trail; only the best one where the others do not count."""
    ends = np.arange(len(lost))
    if not dominated and len(ends):
        ends = ends[[np.argmax(spent @ priced.prices - lost)]]
    found = []
    for end in ends:
        chosen, place = np.zeros(len(order), np.int64), end
        for (parent, option), item in zip(reversed(trail), reversed(order)):
            chosen[item], place = option[place], parent[place]
        found.append(priced.solution(chosen))
    return found
