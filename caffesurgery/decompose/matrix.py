"""Base of the schemes that are one truncated SVD: the kernel as a matrix, cut at a rank.

A subclass says how the kernel unfolds to a matrix and how the singular triplets become two
small kernels; the optimum in the Frobenius norm follows from Eckart and Young.
"""

from __future__ import annotations

import numpy as np

from .scheme import GroupFactors, Scheme
from .truncated import TruncatedSVD, singular_values, truncated_svd


class MatrixScheme(Scheme):
    """A scheme with one rank, that of an unfolding of the kernel."""

    optimal = True

    def unfold(self, block: np.ndarray) -> np.ndarray:
        """The kernel (T, S, D, E) of one group as a matrix; a view where possible."""
        raise NotImplementedError

    def fold(self, svd: TruncatedSVD, T: int, S: int, D: int, E: int) -> tuple[np.ndarray, ...]:
        """The factors, as the parts' kernels, from the unfolding's singular triplets."""
        raise NotImplementedError

    def unfoldings(self, block):
        return ({"matrix": self.unfold(block)},)

    def factor(self, block, ranks, seed, tick, aim):
        svd = truncated_svd(self.unfold(block), ranks[0], seed)
        return GroupFactors(self.fold(svd, *block.shape), svd.lost, svd.values**2)

    def energy_ranks(self, blocks, energy, most):
        squares = sum(singular_values(self.unfold(block)) ** 2 for block in blocks)
        return [min(rank_reaching(squares, energy), most[0])]


def rank_reaching(squares: np.ndarray, energy: float) -> int:
    """The smallest rank that keeps ``energy`` (to rounding) of the sum of ``squares``."""
    kept = np.cumsum(squares)
    return int(np.searchsorted(kept, (energy - 1e-9) * kept[-1])) + 1


def balanced(svd: TruncatedSVD) -> tuple[np.ndarray, np.ndarray]:
    """Left (m, R) and right (R, n) with the singular values shared evenly between them."""
    root = np.sqrt(svd.values).astype(np.float32)
    return svd.left * root, svd.projected / np.where(root > 0, root, 1)[:, None]
