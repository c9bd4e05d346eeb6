"""Spatial decomposition of paper 004: a vertical D x 1 convolution, then a horizontal 1 x E.

The truncated SVD of the (S D) x (E T) matrix whose rows are (s, y) and whose columns are (x, t).
"""

from __future__ import annotations

from .geometry import Part
from .matrix import MatrixScheme, balanced
from .scheme import register


@register
class Spatial(MatrixScheme):
    """Spatial SVD: D x 1 (S -> R), then 1 x E (R -> T), singular values shared evenly."""

    name = "spatial"
    title = "spatial SVD: D x 1, then 1 x E"
    source = "paper 004, equation 9 (after Jaderberg et al. 2014)"
    equations = "W[t, s, y, x] = sum_r K_h[t, r, x] K_v[r, s, y]"
    cost = "R*S*D/g + T*R*E/g"

    def unsuited(self, geometry):
        return "needs a kernel larger than 1 x 1" if geometry.D * geometry.E == 1 else None

    def bounds(self, T, S, D, E):
        return (min(S * D, E * T),)

    def chain(self, geometry, rank):
        g = geometry
        return (
            Part("_v", rank, g.S, g.D, 1, g.group, "h"),
            Part("_h", g.T, rank, 1, g.E, g.group, "w"),
        )

    def unfold(self, block):
        T, S, D, E = block.shape
        return block.transpose(1, 2, 3, 0).reshape(S * D, E * T)

    def fold(self, svd, T, S, D, E):
        left, right = balanced(svd)
        vertical = left.T.reshape(-1, S, D, 1)
        horizontal = right.reshape(-1, E, T).transpose(2, 0, 1)
        return vertical, horizontal[:, :, None, :]
