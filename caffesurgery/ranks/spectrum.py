"""The squared singular values of a matrix of weights, without the rows and columns that are dead.

From the Gram matrix of the short side: no vectors and no singular value decomposition are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from ..decompose.truncated import DIRECT, gram

DEAD = 1e-4
"""Rows and columns with a norm below this share of the largest carry no weights."""
LARGE = 384
"""Rows from which float32 halves the time, unless the noise is near its rounding."""
_FLOOR = 1e-18
_NEAR = 3e-5
_PIECE = 1 << 20  # values at a time


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Squared singular values of a matrix (L, M), L <= M, without its dead rows and columns.

    squares: (L,) float64, descending, not below 1e-18 of the largest; empty for a zero matrix
    dead: rows and columns, of the matrix as it was given, that were left out
    more, rest: how many further squares there are, all below these, and what they add up to, where
        only the leading ones are known
    """

    squares: np.ndarray
    columns: int
    dead: tuple[int, int] = (0, 0)
    more: int = 0
    rest: float = 0.0

    @property
    def rows(self) -> int:
        """L, the short side."""
        return len(self.squares) + self.more

    @property
    def total(self) -> float:
        """The squared norm."""
        return float(self.squares.sum()) + self.rest


@dataclass(frozen=True, eq=False)
class Prepared:
    """A matrix ready for its Gram matrix: lying, alive, and at a scale that float32 can square.

    scale: what it was divided by; dead: rows and columns, of the matrix as given, left out
    """

    matrix: np.ndarray
    scale: float
    dead: tuple[int, int]


def prepared(matrix: np.ndarray, dead: float = DEAD) -> Prepared:
    """A matrix (any float dtype and layout) without its dead rows and columns, short side first.

    Those are the ones whose norm is below the share ``dead`` of the largest: without noise in them,
    no noise at all would be the best explanation.
    """
    if matrix.dtype != np.float32 or not matrix.dtype.isnative:
        matrix = matrix.astype(np.float32)
    largest = max((float(np.abs(piece).max(initial=0.0)) for piece in _pieces(matrix)), default=0.0)
    scale = 1.0
    if largest and not 1e-6 < largest < 1e6:  # squares of float32 would overflow or vanish
        scale = 2.0 ** np.round(np.log2(largest))
        matrix = matrix / np.float32(scale)
    rows, columns = _alive(matrix, dead)
    gone = (len(rows) - int(rows.sum()), len(columns) - int(columns.sum()))
    if any(gone):
        matrix = np.ascontiguousarray(matrix[rows][:, columns])
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    return Prepared(wide, scale, gone)


def _pieces(matrix: np.ndarray) -> Iterator[np.ndarray]:
    """The matrix by rows, each piece aligned in memory: blobs lie anywhere in their file."""
    step = max(1, _PIECE // max(1, matrix.shape[1]))
    for start in range(0, len(matrix), step):
        yield np.require(matrix[start : start + step], np.float32, "A")


def _alive(matrix: np.ndarray, dead: float) -> tuple[np.ndarray, np.ndarray]:
    """Which rows and which columns carry weights."""
    rows, columns = [np.empty(0)], np.zeros(matrix.shape[1])
    for piece in _pieces(matrix):
        rows.append(np.einsum("ij,ij->i", piece, piece))
        columns += np.einsum("ij,ij->j", piece, piece)
    norms = np.sqrt(np.concatenate(rows)), np.sqrt(columns)
    return tuple((n > 0) & (n >= dead * n.max(initial=0.0)) for n in norms)


def spectrum(matrix: np.ndarray, dead: float = DEAD) -> Spectrum:
    """The spectrum of a matrix, any float dtype and layout."""
    return spectrum_of(prepared(matrix, dead))


def spectrum_of(ready: Prepared, total: np.ndarray | None = None) -> Spectrum:
    """All of the spectrum; in float64 where there are few rows or next to no noise.

    total: the Gram matrix in float32 where it is there already; it is overwritten
    """
    wide = ready.matrix
    rows, columns = wide.shape
    if not rows:
        return Spectrum(np.empty(0), columns, ready.dead)
    squares = eigenvalues(gram(wide, wide=rows < LARGE) if total is None else total)
    if LARGE <= rows <= DIRECT and squares[rows // 2] < _NEAR * squares[0]:
        squares = eigenvalues(gram(wide, wide=True))
    squares = np.maximum(squares.astype(np.float64), _FLOOR * float(squares[0]))
    return Spectrum(squares * ready.scale**2, columns, ready.dead)


def eigenvalues(total: np.ndarray) -> np.ndarray:
    """Of a symmetric matrix by its upper triangle, descending; overwrites it."""
    found = eigh(total, lower=False, eigvals_only=True, overwrite_a=True, check_finite=False)
    return found[::-1]
