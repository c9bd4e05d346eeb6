"""Channel decomposition of paper 004: a D x E convolution to R channels, then 1 x 1.

The truncated SVD of the T x (S D E) matrix.  Its product is that of ``cp2`` and ``tucker1-out``
at the same rank, the optimum; only how the singular values are shared differs: evenly here and
in ``cp2``, all in the first layer in ``tucker1-out``, whose second layer is orthonormal.
"""

from __future__ import annotations

import numpy as np

from ..errors import DecomposeError
from .geometry import Part
from .matrix import MatrixScheme, balanced
from .scheme import GroupFactors, register
from .truncated import residual, squared_norm


@register
class Channel(MatrixScheme):
    """Channel SVD: D x E (S -> R), then 1 x 1 (R -> T), singular values shared evenly."""

    name = "channel"
    title = "channel SVD: D x E, then 1 x 1"
    source = "paper 004, equation 10 (after Denil et al. 2013)"
    equations = "W[t, s, y, x] = sum_r K_t[t, r] K_d[r, s, y, x]"
    cost = "R*S*D*E/g + T*R/g"
    kinds = frozenset({"conv"})
    suffixes = ("_d", "_t")

    def bounds(self, T, S, D, E):
        return (min(T, S * D * E),)

    def chain(self, geometry, rank):
        g = geometry
        return (
            Part(self.suffixes[0], rank, g.S, g.D, g.E, g.group, "hw"),
            Part(self.suffixes[1], g.T, rank, 1, 1, g.group),
        )

    def unfold(self, block):
        return block.reshape(len(block), -1)

    def fold(self, svd, T, S, D, E):
        left, right = balanced(svd)
        return right.reshape(-1, S, D, E), left[:, :, None, None]


@register
class Cp2(Channel):
    """2-way CP: the same matrix and the same optimum under the name of paper 000.

    The greedy tensor power method on a matrix finds one singular triplet after the other, so it
    ends where the truncated SVD does; the SVD is exact and faster.
    """

    name = "cp2"
    title = "2-way CP, T x SDD: D x E, then 1 x 1"
    source = "paper 000, equations 9 to 12, for first convolutions"
    equations = "K[t, s, j, i] = sum_r K_sdd[r, s, j, i] K_t[t, r]"
    suffixes = ("_sdd", "_t")


@register
class Cp2Random(Cp2):
    """The chain of ``cp2`` with random factors, of the size that gives it the kernel's norm."""

    name = "cp2-random"
    title = "2-way CP: D x E, then 1 x 1; random factors"
    source = "ablation of paper 000, section 3.4.2"
    optimal = False

    def factor(self, block, ranks, seed, tick, aim):
        matrix, rng = self.unfold(block), np.random.default_rng(seed)
        size = np.float32((squared_norm(block) / block.size / ranks[0]) ** 0.25)
        left = size * rng.standard_normal((len(matrix), ranks[0]), np.float32)
        right = size * rng.standard_normal((ranks[0], matrix.shape[1]), np.float32)
        kernels = (right.reshape(-1, *block.shape[1:]), left[:, :, None, None])
        return GroupFactors(kernels, residual(np.asarray(matrix, np.float32), left, right))

    def error_ranks(self, kernel, group, error, most, error_at):
        raise DecomposeError(f"{self.name} fits nothing, so no rank of it is for an error")
