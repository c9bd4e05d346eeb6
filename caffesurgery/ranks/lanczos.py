"""Leading eigenvalues of a large Gram matrix, and how all its eigenvalues lie, by block Lanczos.

A block of random vectors is multiplied by the matrix again and again, and each new block made
orthonormal to those before; in that basis the matrix is a band whose eigenvalues, the Ritz values,
rise towards the leading ones of the matrix (Golub and Underwood 1977).  The first rows of the
band's eigenvectors say how much of the spectrum each stands for: for random vectors that is
quadrature of traces (Ubaru, Chen and Saad 2017).
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import blas, eig_banded, eigvals_banded

from ..decompose.truncated import matmul, orthonormal

_LOST = 1e-5  # vectors shorter than this share of the norm are rounding, with nothing new in them


class Exhausted(Exception):
    """The blocks so far span all that float32 can tell of the matrix."""


class BlockLanczos:
    """The growing basis of a symmetric matrix (n, n), float32, Fortran order, upper triangle.

    width: vectors in a block; most: columns of the basis that there is room for
    """

    def __init__(self, total: np.ndarray, width: int, most: int, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.total, self.width, self.size = total, width, 0
        self._basis = np.empty((most + width, len(total)), np.float32)
        start = rng.standard_normal((len(total), width), dtype=np.float32)
        self._basis[:width] = orthonormal(start).T
        self._band = np.zeros((width + 1, most))  # lower band storage of LAPACK

    def extend(self, size: int) -> None:
        """Blocks are added until the basis has at least ``size`` columns (in whole blocks)."""
        while self.size < size:
            self._step()

    def values(self) -> np.ndarray:
        """The Ritz values, float64, descending; none is above the eigenvalue in its place."""
        band = self._band[:, : self.size]
        return eigvals_banded(band, lower=True, check_finite=False)[::-1]

    def density(self) -> tuple[np.ndarray, np.ndarray]:
        """(values, weights): sums of functions of all eigenvalues are about sums over these.

        The weights add up to n.  Each ``width`` random vectors give the sum of f with a variance of
        about twice the sum of f^2 over ``width``.
        """
        band = self._band[:, : self.size]
        values, vectors = eig_banded(band, lower=True, check_finite=False)
        weights = (vectors[: self.width] ** 2).sum(axis=0) * (len(self.total) / self.width)
        return values[::-1], weights[::-1]

    def _step(self) -> None:
        """One more block; its products with the last two are the band, those with others nil."""
        width, size = self.width, self.size
        near, seen = self._basis[max(0, size - width) : size + width], self._basis[: size + width]
        block = blas.ssymm(1.0, self.total, near[-width:].T).T
        within = matmul(near, block.T)
        for basis, along in ((near, within), (seen, None)):
            along = matmul(basis, block.T) if along is None else along
            block = block - matmul(along.T, basis)
        lengths = np.sqrt(np.einsum("ij,ij->i", block, block))
        if lengths.min() < _LOST * np.abs(within).max():
            raise Exhausted
        following = orthonormal(np.ascontiguousarray(block.T)).T
        self._basis[size + width : size + 2 * width] = following
        onward = matmul(self._basis[size + width : size + 2 * width], block.T)
        both = np.vstack([within[-width:], np.triu(onward)]).astype(np.float64)
        columns = np.arange(width)
        self._band[:, size : size + width] = both[columns + np.arange(width + 1)[:, None], columns]
        self.size = size + width
