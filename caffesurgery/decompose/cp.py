"""CP decompositions by the greedy tensor power method (papers 000, Algorithm 1, and 002).

Every component is the best rank-1 approximation found of what the ones before left over, so
error(k)^2 = 1 - sum_{r <= k} d_r^2 / ||W||^2 exactly, and one run gives the whole error curve.
"""

from __future__ import annotations

from functools import reduce
from itertools import islice, zip_longest

import numpy as np

from .power import components
from .scheme import GroupFactors, Part, Scheme, register
from .truncated import residual, squared_norm


class _Cp(Scheme):
    """What 3-way and 4-way CP share; modes are in the order (S, spatial ..., T)."""

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
        full = self.bounds(*block.shape)[0]
        weights, vectors = _greedy(block, modes, rank if rank < full else 0, tick)
        if 2 * rank >= full:  # deflation never ends exactly; from about here slices lose less
            others = fixed_modes(block.transpose(1, 2, 3, 0).reshape(modes), rank)
            if np.sum(others[0] ** 2) >= np.sum(weights**2):
                weights, vectors = others
        share = (weights ** (1 / len(modes))).astype(np.float32)[:, None]
        vectors = [vector * share for vector in vectors]
        return GroupFactors(self.kernels(vectors, *block.shape), _lost(block, vectors), weights**2)

    def kernels(self, vectors, T, S, D, E) -> tuple[np.ndarray, ...]:
        """The parts' kernels from one (R, size) array for each mode."""
        raise NotImplementedError

    def energy_ranks(self, blocks, energy, most):
        ways = len(self.modes(*blocks[0].shape))
        wanted = (energy - 1e-9) * sum(squared_norm(block) for block in blocks)
        running = [components(block, ways) for block in blocks]
        rank, kept = 1, 0.0
        for rank, found in enumerate(zip_longest(*running, fillvalue=(0.0, ())), 1):
            kept += sum(weight**2 for weight, _ in found)
            if kept >= wanted or rank == most[0]:
                break
        return [rank]


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
        return (
            "needs a kernel larger than 1 both ways" if min(geometry.D, geometry.E) == 1 else None
        )

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


def _greedy(block, modes, rank, tick) -> tuple[np.ndarray, list[np.ndarray]]:
    """Norms (R,) and unit vectors (R, size) of each mode; zeros past the last component."""
    weights = np.zeros(rank)
    vectors = [np.zeros((rank, size), np.float32) for size in modes]
    for r, (weight, found) in enumerate(islice(components(block, len(modes)), rank)):
        weights[r] = weight
        for factor, vector in zip(vectors, found):
            factor[r] = vector
        if r + 1 < rank:
            tick(r + 1)
    return weights, vectors


def fixed_modes(tensor: np.ndarray, rank: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The CP of fixed modes: each slice over the two largest modes, by its SVD.

    Returns the ``rank`` largest norms, descending, and one (R, size) array of unit vectors for
    each mode.  Exact at the product of all modes but the largest.
    """
    order = np.argsort(tensor.shape, kind="stable")
    few, (p, q) = order[:-2], order[-2:]
    matrices = tensor.transpose(order).reshape(-1, tensor.shape[p], tensor.shape[q])
    left, values, right = np.linalg.svd(matrices.astype(np.float32), full_matrices=False)
    ranked = np.argsort(-values, axis=None, kind="stable")[:rank]
    index, component = np.unravel_index(ranked, values.shape)
    vectors: list = [None] * tensor.ndim
    for mode, at in zip(few, np.unravel_index(index, [tensor.shape[mode] for mode in few])):
        vectors[mode] = np.eye(tensor.shape[mode], dtype=np.float32)[at]
    vectors[p] = left[index, :, component]
    vectors[q] = right[index, component]
    return values[index, component].astype(np.float64), vectors


def _lost(block: np.ndarray, vectors: list[np.ndarray]) -> float:
    """Squared error of the CP, a few input channels at a time so that memory stays bounded."""
    inputs, *spatial, outputs = vectors
    T, S, D, E = block.shape
    step = max(1, (1 << 22) // (len(inputs) * D * E))
    total = 0.0
    for start in range(0, S, step):
        some = slice(start, start + step)
        pattern = reduce(_each, spatial, inputs[:, some])
        total += residual(block[:, some].reshape(T, -1), outputs.T, pattern)
    return total


def _each(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Row-wise Kronecker product of (R, m) and (R, n): (R, m n)."""
    return (left[:, :, None] * right[:, None, :]).reshape(len(left), -1)
