"""Empirical variational Bayes matrix factorisation: the rank of a noisy matrix from its spectrum.

In: a matrix; out: the rank at the global minimum of the free energy over the noise variance, by the
global analytic solution of Nakajima et al. (JMLR 2013), which papers 001 and 003 choose ranks with.
The free energy has one kink for each singular value and many local minima, so every stretch between
two kinks is looked at; between kinks its derivative is convex, and Newton's method finds the root.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from .spectrum import Spectrum

TAU = 2.5129
"""tau-bar over sqrt(alpha), to which the theory's root is approximated (Nakajima et al. 2013)."""
_EXACT = 1e-14
_CHUNK = 1 << 18  # values of x at a time
_NEWTON = 60


@dataclass(frozen=True)
class Estimate:
    """The rank of a matrix, the variance of the noise in its entries, and the rank's energy.

    energy: the share of the squared norm in the singular values that are kept
    """

    rank: int
    noise: float
    energy: float


def estimate(found: Spectrum) -> Estimate:
    """Rank and noise at the global minimum of the free energy; rank 0 where all is noise.

    Noise below what float32 can hold is none: the rank is then the number of singular values.
    """
    if not found.rows:
        return Estimate(0, 0.0, 0.0)
    energy = FreeEnergy(found)
    precision, rank = minimum(energy)
    if precision > 1 / _EXACT:  # the noise's share of the squared norm over that at rank 0
        limit = 10 * _EXACT * found.squares[0]
        rank = int(np.count_nonzero(found.squares > limit))
    kept = float(found.squares[:rank].sum()) / found.total
    return Estimate(rank, energy.noise(precision), kept)


def compatible(found: Spectrum) -> int:
    """The rank that the widely copied Python code gives, for tables that were made with it.

    It looks for one minimum by a bounded scalar search with an absolute tolerance, between the same
    bounds, so its rank changes with the scale of the matrix and is often not the best.  Takes the
    spectrum with its dead rows and columns.
    """
    if not found.rows:
        return 0
    energy = FreeEnergy(found)
    bounds = sorted(energy.noise(precision) for precision in energy.bounds())

    def signals(noise: float) -> int:
        return int(np.count_nonzero(found.squares > found.columns * noise * energy.threshold))

    def value(noise: float) -> float:
        precision = found.total / (found.columns * noise * found.rows)
        return energy.values(np.array([precision]), np.array([signals(noise)]))[0]

    return signals(minimize_scalar(value, bounds=bounds, method="bounded").x)


def minimum(energy: FreeEnergy) -> tuple[float, int]:
    """The precision at the global minimum within the bounds, and the number of signals there."""
    low, high = energy.bounds()
    kinks = energy.threshold / energy.squares
    inside = (kinks > low) & (kinks < high)
    ends = np.concatenate([[low], kinks[inside], [high]])
    signals = np.count_nonzero(kinks <= low) + np.arange(len(ends) - 1)
    places, signals = energy.minima(ends, signals)
    values = energy.values(places, signals)
    best = int(np.argmin(values))
    return float(places[best]), int(signals[best])


class FreeEnergy:
    """The free energy of a spectrum as a function of its precision u, up to a constant.

    u is the variance that all entries have on average over that of the noise, at least 1.  With x
    the precision times a square over the mean of the squares, and q = alpha / tau(x), it is the sum
    of x over all that is noise, plus for each signal
    1 + alpha + q + log(tau + 1) + alpha log(tau / alpha + 1), minus L log u.

    squares: over their mean, descending; where only the leading ones are known, it holds for a
        precision at which no other is signal
    """

    def __init__(self, found: Spectrum):
        self.found, self.rows = found, found.rows
        self.alpha = found.rows / found.columns
        tau = TAU * self.alpha**0.5
        self.threshold = (1 + tau) * (1 + self.alpha / tau)  # x-bar: above it a square is signal
        self.squares = found.squares * (found.rows / found.total)

    @functools.cached_property
    def tails(self) -> np.ndarray:
        """Sum of the squares behind the first 0, 1, ... known ones."""
        rest = self.found.rest * (self.rows / self.found.total)
        return np.append(np.cumsum(self.squares[::-1])[::-1], 0.0) + rest

    @functools.cached_property
    def most(self) -> int:
        """The number of signals below which there is a minimum (Nakajima et al., Theorem 6)."""
        return min(int(np.ceil(self.rows / (1 + self.alpha))), self.rows) - 1

    def noise(self, precision: float) -> float:
        """The variance of the noise in the entries of the matrix."""
        return self.found.total / (self.rows * self.found.columns * precision)

    def bounds(self) -> tuple[float, float]:
        """Between which the precision of the minimum lies, or up to which enough is known."""
        if self.found.more:
            return 1.0, max(1.0, self.threshold / self.squares[-1])
        squares, most = self.squares, self.most
        return 1.0, max(1.0, min(self.threshold / squares[most], 1 / squares[most:].mean()))

    def values(self, u: np.ndarray, signals: np.ndarray) -> np.ndarray:
        """The free energy at each ``u`` with so many signals."""
        noise = u * self.tails[signals] - self.rows * np.log(u)
        return noise + self._over_signals(u, signals, self.signal)

    def signal(self, tau: np.ndarray, q: np.ndarray) -> np.ndarray:
        """What a signal adds."""
        logs = np.log(tau + 1) + self.alpha * np.log(tau / self.alpha + 1)
        return 1 + self.alpha + q + logs

    def _over_signals(self, u: np.ndarray, signals: np.ndarray, term, weights=None) -> np.ndarray:
        """Sum over the signals, times their weights, of ``term(tau, alpha / tau)`` at each u."""
        total = np.zeros(len(u))
        step = max(1, _CHUNK // max(1, int(signals.max(initial=0))))
        for start in range(0, len(u), step):
            part = slice(start, start + step)
            most = int(signals[part].max(initial=0))
            there = np.arange(most) < signals[part, None]
            x = np.where(there, u[part, None] * self.squares[:most], self.threshold)
            found = np.where(there, term(*self.tau(x)), 0.0)
            total[part] = found.sum(axis=1) if weights is None else found @ weights[:most]
        return total

    def tau(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """tau(x) and q = alpha / tau, for x of at least the threshold."""
        middle = x - (1 + self.alpha)
        tau = (middle + np.sqrt(middle**2 - 4 * self.alpha)) / 2
        return tau, self.alpha / tau

    def slope(self, u: np.ndarray, signals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """u times the derivative at each ``u`` with so many signals, and the derivative of that.

        The first is convex in u as long as the number of signals stays.
        """
        value = u * self.tails[signals] + (1 + self.alpha) * signals - self.rows
        value += self._over_signals(u, signals, lambda tau, q: q)
        falling = self._over_signals(u, signals, lambda tau, q: q / (tau - q), self.squares)
        return value, self.tails[signals] - falling

    def minima(self, ends: np.ndarray, signals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the free energy has its local minima between the first and last of ``ends``.

        They lie between neighbouring ends, which are the kinks, and at kinks: tau-bar is rounded,
        so that the free energy jumps there by a little.
        """
        left, right = ends[:-1], ends[1:]
        start, stop = self.slope(left, signals), self.slope(right, signals)
        tau = np.array([TAU * self.alpha**0.5])
        jump = float((self.signal(tau, self.alpha / tau) - self.threshold)[0])
        up, down = stop[0] <= 0, start[0] >= 0
        up[-1] = down[0] = True  # the bounds themselves
        if jump < 0:
            up[:-1] = False
        else:
            down[1:] = False
        inner, kind = self._roots(left, right, start, stop, signals)
        return (
            np.concatenate([right[up], left[down], inner]),
            np.concatenate([signals[up], signals[down], kind]),
        )

    def _roots(self, left, right, start, stop, signals) -> tuple[np.ndarray, np.ndarray]:
        """The last root of the slope between ``left`` and ``right``, where there is one.

        By Newton's method from the right: on a convex function it never goes beyond that root.
        """
        (low, falling), (high, rising) = start, stop
        with np.errstate(divide="ignore", invalid="ignore"):  # parallel tangents
            cross = (high - low + falling * left - rising * right) / (falling - rising)
            depth = low + falling * (cross - left)
        maybe = (high > 0) & (rising > 0) & ((low < 0) | (depth < 0))
        left, signals, u = left[maybe], signals[maybe], right[maybe]
        for _ in range(_NEWTON):
            value, rise = self.slope(u, signals)
            step = np.where(rise > 0, value / np.where(rise > 0, rise, 1), np.inf)
            u = u - step
            going = u > left
            left, signals, u = left[going], signals[going], u[going]
            if not (np.abs(step[going]) > 1e-13 * u).any():
                break
        return u, signals
