"""SVD of fully connected layers: one matrix in, two out (paper 000, section 2.2, equation 14).

The paper's W is M x N (inputs x outputs), Caffe's is its transpose, N x M.
"""

from __future__ import annotations

from .geometry import Part
from .matrix import MatrixScheme
from .scheme import register


@register
class Svd(MatrixScheme):
    """First layer (U D)^T, R x M, with the singular values; second V, N x R, orthonormal.

    A fully connected layer over a spatial bottom (C, H, W) is flattened as Caffe flattens it:
    the first factor has shape (R, C, H, W), the same numbers as (R, M).
    """

    name = "svd"
    title = "SVD of a fully connected layer"
    source = "paper 000, section 2.2"
    equations = "W = U D V^T (M x N);  z = (U D)^T x,  y = V z"
    cost = "R*S*D*E/g + T*R/g"
    kinds = frozenset({"fc"})

    def unsuited(self, geometry):
        return "grouped layers are not fully connected" if geometry.group > 1 else None

    def bounds(self, T, S, D, E):
        return (min(T, S * D * E),)

    def chain(self, geometry, rank):
        g = geometry
        return (
            Part("_ud", rank, g.S, g.D, g.E, g.group, "hw"),
            Part("_vt", g.T, rank, 1, 1, g.group),
        )

    def unfold(self, block):
        return block.reshape(len(block), -1)

    def fold(self, svd, T, S, D, E):
        return svd.projected.reshape(-1, S, D, E), svd.left[:, :, None, None]
