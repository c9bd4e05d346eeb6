"""CP decompositions by the greedy tensor power method (paper 000, Algorithm 1; 4-way: paper 002).

Every component is the best rank-1 approximation found of what the ones before left over, so
error(k)^2 = 1 - sum_{r <= k} d_r^2 / ||W||^2 exactly, and one run gives the whole error curve.
"""

from __future__ import annotations

from functools import reduce
from itertools import islice

import numpy as np

from caffesurgery.decompose.power import components
from caffesurgery.decompose.scheme import GroupFactors, Part, Scheme, register
from caffesurgery.decompose.truncated import residual


class _Cp(Scheme):
    """What 3-way and 4-way CP share; modes are in the order (S, spatial ..., T)."""

    counts_components = True

    def modes(self, T: int, S: int, D: int, E: int) -> tuple[int, ...]:
        """Sizes of the modes."""
        raise NotImplementedError

    def unsuited(self, geometry):
        return "needs a kernel larger than 1 x 1" if geometry.D * geometry.E == 1 else None

    def bounds(self, T, S, D, E):
        # Fixing the index of all modes but the largest leaves vectors: one component for each.
        modes = self.modes(T, S, D, E)
        return (int(np.prod(modes)) // max(modes),)

    def factor(self, block, ranks, seed, tick):
        rank, modes = ranks[0], self.modes(*block.shape)
        if rank == self.bounds(*block.shape)[0]:
            weights, vectors = slices(block.transpose(1, 2, 3, 0).reshape(modes))
        else:
            weights = np.zeros(rank)
            vectors = [np.zeros((rank, size), np.float32) for size in modes]
            for r, (weight, found) in enumerate(islice(components(block, len(modes)), rank)):
                weights[r] = weight
                for factor, vector in zip(vectors, found):
                    factor[r] = vector
                tick()
        share = (weights ** (1 / len(modes))).astype(np.float32)[:, None]
        vectors = [vector * share for vector in vectors]
        spatial_and_inputs = reduce(_each, vectors[:-1]).reshape(rank, -1)
        lost = residual(block.reshape(len(block), -1), vectors[-1].T, spatial_and_inputs)
        return GroupFactors(self.kernels(vectors, *block.shape), lost, weights**2)

    def kernels(self, vectors, T, S, D, E) -> tuple[np.ndarray, ...]:
        """The parts' kernels from one (R, size) array for each mode."""
        raise NotImplementedError

    def energy_ranks(self, blocks, energy, most):
        ways = len(self.modes(*blocks[0].shape))
        wanted = (energy - 1e-9) * sum(float(np.vdot(b, b)) for b in blocks)
        running = [components(block, ways) for block in blocks]
        kept = 0.0
        for rank in range(1, most[0]):
            kept += sum(next(found, (0.0,))[0] ** 2 for found in running)
            if kept >= wanted:
                return [rank]
        return [most[0]]


@register
class Cp3(_Cp):
    """1 x 1 (S -> R), depthwise D x E on the R channels, 1 x 1 (R -> T)."""

    name = "cp3"
    title = "3-way CP: 1 x 1, depthwise D x E, 1 x 1"
    source = "paper 000, Algorithm 1 and equations 3 to 8"
    equations = "K[t, s, j, i] = sum_r K_s[r, s] K_dd[r, j, i] K_t[t, r]"

    def modes(self, T, S, D, E):
        return (S, D * E, T)

    def chain(self, geometry, rank):
        g = geometry
        return (
            Part("_s", rank, g.S, 1, 1, g.group),
            Part("_dd", rank, rank, g.D, g.E, rank, "hw"),
            Part("_t", g.T, rank, 1, 1, g.group),
        )

    def kernels(self, vectors, T, S, D, E):
        inputs, spatial, outputs = vectors
        return inputs[:, :, None, None], spatial.reshape(-1, 1, D, E), outputs.T[:, :, None, None]


@register
class Cp4(_Cp):
    """1 x 1 (S -> R), depthwise D x 1, depthwise 1 x E, 1 x 1 (R -> T)."""

    name = "cp4"
    title = "4-way CP: 1 x 1, depthwise D x 1, depthwise 1 x E, 1 x 1"
    source = "paper 002, after Lebedev et al. 2015"
    equations = "K[t, s, j, i] = sum_r K_s[r, s] K_v[r, j] K_h[r, i] K_t[t, r]"

    def modes(self, T, S, D, E):
        return (S, D, E, T)

    def unsuited(self, geometry):
        return "needs a kernel larger than 1 both ways" if min(geometry.D, geometry.E) == 1 else None

    def chain(self, geometry, rank):
        g = geometry
        return (
            Part("_s", rank, g.S, 1, 1, g.group),
            Part("_v", rank, rank, g.D, 1, rank, "h"),
            Part("_h", rank, rank, 1, g.E, rank, "w"),
            Part("_t", g.T, rank, 1, 1, g.group),
        )

    def kernels(self, vectors, T, S, D, E):
        inputs, vertical, horizontal, outputs = vectors
        return (
            inputs[:, :, None, None],
            vertical[:, None, :, None],
            horizontal[:, None, None, :],
            outputs.T[:, :, None, None],
        )


def slices(tensor: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The exact CP: fix every mode but the two largest, and take the SVD of each slice.

    Returns the norms, descending, and one (R, size) array of unit vectors for each mode; R is
    the product of all modes but the largest.  Greedy deflation never ends exactly; this does.
    """
    order = np.argsort(tensor.shape, kind="stable")
    few, (p, q) = order[:-2], order[-2:]
    small = [tensor.shape[mode] for mode in few]
    matrices = tensor.transpose(order).reshape(-1, tensor.shape[p], tensor.shape[q])
    left, values, right = np.linalg.svd(matrices.astype(np.float32), full_matrices=False)
    ranked = np.argsort(-values, axis=None, kind="stable")
    index, component = np.unravel_index(ranked, values.shape)
    vectors: list = [None] * tensor.ndim
    for mode, at in zip(few, np.unravel_index(index, small)):
        vectors[mode] = np.eye(tensor.shape[mode], dtype=np.float32)[at]
    vectors[p] = left[index, :, component]
    vectors[q] = right[index, component]
    return values[index, component].astype(np.float64), vectors


def _each(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Row-wise Kronecker product of (R, m) and (R, n): (R, m n)."""
    return (left[:, :, None] * right[:, None, :]).reshape(len(left), -1)
