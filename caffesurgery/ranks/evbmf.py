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
from scipy.linalg import eigh
from scipy.optimize import minimize_scalar

from ..decompose.truncated import DIRECT, gram, working

TAU = 2.5129
"""tau-bar over sqrt(alpha), to which the theory's root is approximated (Nakajima et al. 2013)."""
DEAD = 1e-4
"""Rows and columns with a norm below this share of the largest carry no weights."""
_FLOOR = 1e-18
_LARGE = 384  # rows from which float32 halves the time, unless the noise is near its rounding
_NEAR = 3e-5
_EXACT = 1e-14
_CHUNK = 1 << 18  # values of x at a time
_NEWTON = 60


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Squared singular values of a matrix (L, M), L <= M, without its dead rows and columns.

    squares: (L,) float64, descending, not below 1e-18 of the largest; empty for a zero matrix
    dead: rows and columns, of the matrix as it was given, that were left out
    """

    squares: np.ndarray
    columns: int
    dead: tuple[int, int] = (0, 0)

    @property
    def rows(self) -> int:
        """L, the short side."""
        return len(self.squares)


@dataclass(frozen=True)
class Estimate:
    """The rank of a matrix, the variance of the noise in its entries, and the rank's energy.

    energy: the share of the squared norm in the singular values that are kept
    """

    rank: int
    noise: float
    energy: float


def spectrum(matrix: np.ndarray, dead: float = DEAD) -> Spectrum:
    """The spectrum of a matrix, any float dtype and layout, from the Gram matrix of its short side.

    Rows and columns whose norm is below the share ``dead`` of the largest are left out first:
    without noise in them, no noise at all would be the best explanation.
    """
    matrix = working(matrix)
    largest = float(np.abs(matrix).max(initial=0.0))
    if largest == 0:
        return Spectrum(np.empty(0), matrix.shape[1], matrix.shape)
    scale = 1.0
    if not 1e-6 < largest < 1e6:  # squares of float32 would overflow or vanish
        scale = 2.0 ** np.round(np.log2(largest))
        matrix = matrix / np.float32(scale)
    rows, columns = (_alive(matrix, axis, dead) for axis in (1, 0))
    gone = (len(rows) - int(rows.sum()), len(columns) - int(columns.sum()))
    if any(gone):
        matrix = np.ascontiguousarray(matrix[rows][:, columns])
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    squares = _eigenvalues(wide, len(wide) < _LARGE)
    if len(wide) >= _LARGE and squares[len(wide) // 2] < _NEAR * squares[0]:
        squares = _eigenvalues(wide, len(wide) <= DIRECT)
    squares = np.maximum(squares.astype(np.float64), _FLOOR * float(squares[0]))
    return Spectrum(squares * scale**2, wide.shape[1], gone)


def _eigenvalues(matrix: np.ndarray, wide: bool) -> np.ndarray:
    """Of the Gram matrix of the rows, descending; in float64 where ``wide``, else in float32."""
    total = gram(matrix, wide=wide)
    found = eigh(total, lower=False, eigvals_only=True, overwrite_a=True, check_finite=False)
    return found[::-1]


def _alive(matrix: np.ndarray, axis: int, dead: float) -> np.ndarray:
    norms = np.sqrt(np.einsum("ij,ij->i" if axis else "ij,ij->j", matrix, matrix))
    return norms >= dead * norms.max()


def estimate(found: Spectrum) -> Estimate:
    """Rank and noise at the global minimum of the free energy; rank 0 where all is noise.

    Noise below what float32 can hold is none: the rank is then the number of singular values.
    """
    if not found.rows:
        return Estimate(0, 0.0, 0.0)
    total = float(found.squares.sum())
    squares = found.squares / total
    precision, rank = _minimum(found, squares)
    if found.rows / precision < _EXACT:  # the noise's share of the squared norm
        rank = int(np.count_nonzero(squares > 10 * _EXACT * squares[0]))
    return Estimate(rank, total / (found.columns * precision), float(squares[:rank].sum()))


def compatible(found: Spectrum) -> int:
    """The rank that the widely copied Python code gives, for tables that were made with it.

    It looks for one minimum by a bounded scalar search with an absolute tolerance, between the same
    bounds, so its rank changes with the scale of the matrix and is often not the best.  Takes the
    spectrum with its dead rows and columns.
    """
    if not found.rows:
        return 0
    energy = _FreeEnergy(found.squares, found.rows / found.columns, _threshold(found))
    bounds = sorted(1 / (found.columns * u) for u in _bounds(found, found.squares))

    def signals(noise: float) -> int:
        return int(np.count_nonzero(found.squares > found.columns * noise * energy.threshold))

    def value(noise: float) -> float:
        return energy.values(np.array([1 / (found.columns * noise)]), np.array([signals(noise)]))[0]

    return signals(minimize_scalar(value, bounds=bounds, method="bounded").x)


def _bounds(found: Spectrum, squares: np.ndarray) -> tuple[float, float]:
    """Between which 1 / (M sigma^2) lies, by Theorem 6 of Nakajima et al."""
    most = min(int(np.ceil(found.rows / (1 + found.rows / found.columns))), found.rows) - 1
    low = found.rows / float(squares.sum())
    return low, max(low, min(_threshold(found) / squares[most], 1 / squares[most:].mean()))


def _threshold(found: Spectrum) -> float:
    """x-bar: a singular value is signal where its square over M sigma^2 is above it."""
    alpha = found.rows / found.columns
    tau = TAU * alpha**0.5
    return (1 + tau) * (1 + alpha / tau)


def _minimum(found: Spectrum, squares: np.ndarray) -> tuple[float, int]:
    """1 / (M sigma^2) at the global minimum of the free energy, and the number of signals there.

    For ``squares`` that add up to 1.
    """
    energy = _FreeEnergy(squares, found.rows / found.columns, _threshold(found))
    low, high = _bounds(found, squares)
    kinks = energy.threshold / squares
    inside = (kinks > low) & (kinks < high)
    ends = np.concatenate([[low], kinks[inside], [high]])
    signals = np.count_nonzero(kinks <= low) + np.arange(len(ends) - 1)
    places, signals = energy.minima(ends, signals)
    values = energy.values(places, signals)
    best = int(np.argmin(values))
    return float(places[best]), int(signals[best])


@dataclass(frozen=True, eq=False)
class _FreeEnergy:
    """The free energy of a spectrum as a function of the precision u = 1 / (M sigma^2).

    With x = u s^2 and q = alpha / tau(x), it is u times the noise's squares, plus for each signal
    1 + alpha + q + log(tau + 1) + alpha log(tau / alpha + 1), minus L log u.
    """

    squares: np.ndarray
    alpha: float
    threshold: float

    @functools.cached_property
    def tails(self) -> np.ndarray:
        """Sum of the squares behind the first 0, 1, ... L."""
        return np.append(np.cumsum(self.squares[::-1])[::-1], 0.0)

    def values(self, u: np.ndarray, signals: np.ndarray) -> np.ndarray:
        """The free energy, up to a constant, at each ``u`` with so many signals."""
        noise = u * self.tails[signals] - len(self.squares) * np.log(u)
        return noise + self._over_signals(u, signals, self._signal)

    def _signal(self, tau: np.ndarray, q: np.ndarray) -> np.ndarray:
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
            tau, q = self._tau(x)
            found = np.where(there, term(tau, q), 0.0)
            total[part] = found.sum(axis=1) if weights is None else found @ weights[:most]
        return total

    def _tau(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """tau(x) and alpha / tau, for x of at least the threshold."""
        middle = x - (1 + self.alpha)
        tau = (middle + np.sqrt(middle**2 - 4 * self.alpha)) / 2
        return tau, self.alpha / tau

    def slope(self, u: np.ndarray, signals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """u times the derivative at each ``u`` with so many signals, and the derivative of that.

        The first is convex in u as long as the number of signals stays.
        """
        value = u * self.tails[signals] + (1 + self.alpha) * signals - len(self.squares)
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
        jump = float((self._signal(tau, self.alpha / tau) - self.threshold)[0])
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
