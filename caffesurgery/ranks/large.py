"""EVBMF of a large matrix: only the part of its spectrum that its rank depends on is computed.

The free energy up to the precision at which the next singular value would be signal needs no more
than the leading squares and the sum of the others.  Past that it must be shown to be higher: its
slope there is the slope without further signals, less what each of those takes off, a sum over the
other eigenvalues that is bounded from above by its quadrature and six standard deviations.
Wherever that shows nothing, or the rank hangs on a value that has not settled, the whole spectrum
is computed.
"""

from __future__ import annotations

import numpy as np

from ..decompose.truncated import gram
from .evbmf import Estimate, FreeEnergy, estimate, minimum
from .lanczos import BlockLanczos, Exhausted
from .spectrum import Prepared, Spectrum, prepared, spectrum_of

PARTIAL = 2048
"""Rows from which a part of the spectrum takes less time than all of it."""
_WIDTH = 32
_FIRST = 320  # columns of the basis that the quadrature is made from
_STEP = 96
_MOST = 0.45  # of the rows: above it all eigenvalues take less time
_STILL = 1e-3  # an eigenvalue is known where the last step moved it by less than this share
_MARGIN = 4.0  # the nearest eigenvalue is so many times farther from the limit than they can move
_SIGMAS = 6.0
_GRID = 2e-3  # steps of the logarithm of the precision
_FARTHEST = 1e4


def estimate_of(matrix: np.ndarray) -> tuple[Estimate, int]:
    """(Estimate, dead rows and columns left out) of a matrix, any float dtype and layout."""
    ready = prepared(matrix)
    gone = sum(ready.dead)
    if len(ready.matrix) < PARTIAL:
        return estimate(spectrum_of(ready)), gone
    total = gram(ready.matrix, wide=False)
    return by_leading(total, ready) or estimate(spectrum_of(ready, total)), gone


def by_leading(total: np.ndarray, ready: Prepared) -> Estimate | None:
    """From the Gram matrix (upper triangle, left as it is); None if all eigenvalues are needed."""
    rows, columns = ready.matrix.shape
    trace = float(total.diagonal().sum(dtype=np.float64))
    most = int(_MOST * rows) // _WIDTH * _WIDTH
    lanczos = BlockLanczos(total, _WIDTH, most)
    try:
        lanczos.extend(_FIRST)
        beyond = Beyond(*lanczos.density(), columns)
        before, size = lanczos.values(), 2 * beyond.signals() + 8 * _WIDTH
        while size <= most:
            if size - _STEP > lanczos.size:
                lanczos.extend(size - _STEP)
                before = lanczos.values()
            lanczos.extend(size)
            values, size = lanczos.values(), lanczos.size + _STEP
            found = _settled(values, before, trace, rows, columns, beyond)
            if found:
                return Estimate(found.rank, found.noise * ready.scale**2, found.energy)
            before = values
    except Exhausted:
        pass
    return None


def _settled(values, before, trace: float, rows: int, columns: int, beyond: Beyond):
    """The estimate from Ritz values (descending) and those of the step before, if it is certain."""
    moves = values[: len(before)] - before
    known = int(np.argmin(np.append(moves < _STILL * before, False)))
    if not known:
        return None
    values, moves = values[:known], moves[:known]
    part = Spectrum(values, columns, more=rows - known, rest=trace - float(values.sum()))
    energy = FreeEnergy(part)
    precision, rank = minimum(energy)
    limit = energy.threshold / (precision * energy.squares)  # over each square, 1 at the limit
    near = np.abs(limit - 1)
    shift = moves[:rank].sum() / part.rest + (moves / values)[: rank + 1].max(initial=0.0)
    if precision >= energy.bounds()[1] or near.min() < _MARGIN * shift:
        return None
    floor = energy.values(np.array([precision]), np.array([rank]))[0]
    if not beyond.is_higher(energy, floor):
        return None
    return Estimate(rank, energy.noise(precision), float(values[:rank].sum()) / trace)


class Beyond:
    """What quadrature tells of all eigenvalues, and so of the free energy at any precision.

    squares, weights: places, over the mean eigenvalue and descending, and how many lie there; the
    weights add up to the rows
    """

    def __init__(self, values: np.ndarray, weights: np.ndarray, columns: int):
        rows = round(float(weights.sum()))
        self.squares, self.weights = (
            np.maximum(values * (rows / float(values @ weights)), 0),
            weights,
        )
        self.energy = FreeEnergy(Spectrum(self.squares, columns, more=rows - len(values)))

    def _signal(self, x: np.ndarray, term) -> np.ndarray:
        """term(x, tau, q) where x is that of a signal, elsewhere 0."""
        above = x > self.energy.threshold
        tau, q = self.energy.tau(np.where(above, x, self.energy.threshold))
        return np.where(above, term(x, tau, q), 0.0)

    @property
    def farthest(self) -> float:
        """A precision beyond which there is no minimum, with a twentieth of the rows to spare."""
        wanted = self.energy.most + self.energy.rows / 20
        place = int(np.searchsorted(np.cumsum(self.weights), wanted))
        square = self.squares[place] if place < len(self.squares) else 0.0
        return max(1.0, self.energy.threshold / max(square, 1 / _FARTHEST))

    def signals(self) -> int:
        """About how many signals there are where the free energy is least."""
        u = np.geomspace(1, self.farthest, 400)
        x = u[:, None] * self.squares
        off = self._signal(x, lambda x, tau, q: x - self.energy.signal(tau, q))
        values = (x - off) @ self.weights - self.energy.rows * np.log(u)
        return round(float(self.weights @ (x[np.argmin(values)] > self.energy.threshold)))

    def is_higher(self, part: FreeEnergy, floor: float) -> bool:
        """Whether the free energy is above ``floor`` wherever ``part`` cannot say, up to the end.

        From where it can, its slope is added up in small steps, each as low as it can be.
        """
        start, known = part.bounds()[1], len(part.squares)
        if start >= self.farthest:
            return True
        u = np.exp(np.arange(np.log(start), np.log(self.farthest) + _GRID, _GRID))
        signals = np.full(len(u), known)
        least = part.slope(u[1:], signals[1:])[0] - part.tails[known] * np.diff(u)
        least -= self._taken(u[1:], part)
        other = (1 + part.alpha) * known - part.rows + self._given(u[:-1], part)
        slope = np.maximum(least, other)
        values = part.values(u[:1], signals[:1]) + np.cumsum(slope * _GRID)
        return bool(values.min() > floor)

    def _taken(self, u: np.ndarray, part: FreeEnergy) -> np.ndarray:
        """At most so much do signals that ``part`` does not know take off its slope at ``u``."""
        last = part.squares[-1]
        below = self.squares < last
        more = max(0.0, float(self.weights[~below].sum()) - len(part.squares))
        squares = np.append(self.squares[below], last)
        weights = np.append(self.weights[below], more)
        each = self._signal(u[:, None] * squares, lambda x, tau, q: x - (1 + part.alpha + q))
        highest, sums = each[:, -1], each @ weights
        spread = np.sqrt(2 * highest * sums / _WIDTH)
        return sums + _SIGMAS * spread + 2 * _SIGMAS**2 / _WIDTH * highest

    def _given(self, u: np.ndarray, part: FreeEnergy) -> np.ndarray:
        """At least so much do the eigenvalues that ``part`` does not know add to the slope."""
        below = self.squares < part.squares[-1]
        highest = 1 + part.alpha
        sums = np.minimum(u[:, None] * self.squares[below], highest) @ self.weights[below]
        return sums - _SIGMAS * np.sqrt(2 * highest * sums / _WIDTH)
