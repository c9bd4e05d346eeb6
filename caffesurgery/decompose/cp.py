"""CP decompositions, 3-way and 4-way, by several algorithms (papers 000 and 002).

One class for each geometry and one function for each algorithm; their pairs are the schemes:
``cp3`` and ``cp4`` by the default, ridge-bounded joint alternating least squares, ``cp3-tpm`` by
the greedy tensor power method, ``cp3-als`` by plain ALS, ``cp3-random`` with random factors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import islice, zip_longest
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from ..errors import DecomposeError
from . import als
from .geometry import Part
from .power import Deflation
from .scheme import SCHEMES, Aim, GroupFactors, Scheme
from .search import smallest
from .truncated import residual, squared_norm
from .unfold import all_unfoldings

SWEEPS = {3: {"normal": 24, "high": 40}, 4: {"normal": 40, "high": 72}}
"""Sweeps of joint ALS by ways and effort; those of 4 ways gain less and cost the same."""

_SMALL, _MORE = 1 << 14, 2  # kernels of so few numbers get more sweeps: they cost little
_ROUNDED = 1e-6  # shares of the kernel's squared norm that the roundings of deflation disturb
_PLAIN = 100  # sweeps of plain ALS: what its users wait for


class Found(NamedTuple):
    """A CP of one group: one (R, size) array for each mode, component norms, squared error.

    ``gains`` are the squared norms, where the error of each smaller rank follows from them.
    """

    vectors: list[np.ndarray]
    norms: np.ndarray
    lost: float
    gains: np.ndarray | None = None


class Algorithm(NamedTuple):
    """An algorithm: ``find(block, modes, rank, seed, aim, tick)`` and what people should know."""

    suffix: str
    find: Callable[..., Found]
    text: str
    source: str


class _Cp(Scheme):
    """What 3-way and 4-way CP share; modes are in the order (S, spatial ..., T)."""

    stem: str
    about: str
    takes_max_norm = True

    def __init__(self, algorithm: Algorithm):
        self.algorithm = algorithm
        self.name = self.stem + algorithm.suffix
        self.title = f"{self.about}; {algorithm.text}"
        self.source = f"{self.chain_source}; {algorithm.source}"
        self.energy_is_searched = algorithm.find in (joint, plain)

    def modes(self, T: int, S: int, D: int, E: int) -> tuple[int, ...]:
        """Sizes of the modes."""
        raise NotImplementedError

    def unsuited(self, geometry):
        return "needs a kernel larger than 1 x 1" if geometry.D * geometry.E == 1 else None

    def bounds(self, T, S, D, E):
        return (full_rank(self.modes(T, S, D, E)),)

    def factor(self, block, ranks, seed, tick, aim):
        modes = self.modes(*block.shape)
        if not block.any():
            zero = np.zeros(ranks[0])
            vectors = [np.zeros((ranks[0], size), np.float32) for size in modes]
            return GroupFactors(self.kernels(vectors, *block.shape), 0.0, zero, zero)
        exact = ranks[0] == full_rank(modes) and aim.max_norm is None
        if exact and self.algorithm.find is not random:
            found = _slices(block, modes, ranks[0])
        else:
            found = self.algorithm.find(block, modes, ranks[0], seed, aim, tick)
        return GroupFactors(
            self.kernels(found.vectors, *block.shape), found.lost, found.gains, found.norms
        )

    def unfoldings(self, block):
        return (all_unfoldings(block),)

    def kernels(self, vectors, T, S, D, E) -> tuple[np.ndarray, ...]:
        """The parts' kernels from one (R, size) array for each mode."""
        raise NotImplementedError

    def energy_ranks(self, blocks, energy, most):
        ways = len(self.modes(*blocks[0].shape))
        wanted = (energy - 1e-9) * sum(squared_norm(block) for block in blocks)
        running = [Deflation(block, ways) for block in blocks]
        rank, kept = 1, 0.0
        for rank, found in enumerate(zip_longest(*running, fillvalue=(0.0, ())), 1):
            kept += sum(weight**2 for weight, _ in found)
            if kept >= wanted or rank == most[0]:
                break
        return [rank]

    def error_ranks(self, kernel, group, error, most, error_at):
        if self.algorithm.find is random:
            raise DecomposeError(f"{self.name} fits nothing, so no rank of it is for an error")
        if self.algorithm.find is power_method:
            return super().error_ranks(kernel, group, error, most, error_at)
        return [smallest(lambda rank: error_at([rank]), error, most[0])]


class Cp3(_Cp):
    """1 x 1 (S -> R), depthwise D x E on the R channels, 1 x 1 (R -> T)."""

    stem = "cp3"
    about = "3-way CP: 1 x 1, depthwise D x E, 1 x 1"
    chain_source = "paper 000, equations 3 to 8"
    equations = "K[t, s, j, i] = sum_r K_s[r, s] K_dd[r, j, i] K_t[t, r]"
    cost = "R*S/g + R*D*E + T*R/g"

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


class Cp4(_Cp):
    """1 x 1 (S -> R), depthwise D x 1, depthwise 1 x E, 1 x 1 (R -> T)."""

    stem = "cp4"
    about = "4-way CP: 1 x 1, depthwise D x 1, depthwise 1 x E, 1 x 1"
    chain_source = "paper 002, equations 3 to 9"
    equations = "K[t, s, j, i] = sum_r K_s[r, s] K_v[r, j] K_h[r, i] K_t[t, r]"
    cost = "R*S/g + R*D + R*E + T*R/g"

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


def power_method(block, modes, rank, seed, aim: Aim, tick) -> Found:
    """Greedy rank-1 deflation: component after component, each the best for what is left.

    error(k)^2 = 1 - sum_{r <= k} d_r^2 / ||W||^2 exactly, so that one run gives the error curve,
    and sum d_r^2 <= ||W||^2, so that it cannot degenerate.
    """
    weights, vectors, lost = _greedy(block, modes, rank, tick)
    vectors = _shared(weights, vectors)
    if lost < _ROUNDED * (lost + np.sum(weights**2)):
        lost = _lost(block, vectors)
    found = Found(vectors, weights, lost, weights**2)
    if 2 * rank >= full_rank(modes):  # deflation never ends exactly; slices may lose less
        return min(found, _slices(block, modes, rank), key=attrgetter("lost"))
    return found


def joint(block, modes, rank, seed, aim: Aim, tick) -> Found:
    """All components together, at bounded norms."""
    cube, start = _prepared(block, modes, rank, seed)
    sweeps = SWEEPS[len(modes)][aim.effort] * (_MORE if block.size <= _SMALL else 1)
    found = als.bounded(cube, start, sweeps, aim.max_norm, _stepped(tick, rank))
    found = _from_joint(block, cube, found)
    if 2 * rank >= full_rank(modes) and aim.max_norm is None:  # slices may lose less
        return min(found, _slices(block, modes, rank), key=attrgetter("lost"))
    return found


def plain(block, modes, rank, seed, aim: Aim, tick) -> Found:
    """Alternating least squares with nothing to hold the norms down, as paper 002 uses it."""
    cube, start = _prepared(block, modes, rank, seed)
    return _from_joint(block, cube, als.plain(cube, start, _PLAIN, _stepped(tick, rank)))


def _prepared(block, modes, rank, seed) -> tuple[als.Cube, als.Factors]:
    """The kernel laid out for ALS and where it starts; all groups of a layer start alike."""
    cube = als.Cube(block, len(modes))
    return cube, als.rows_start(cube, rank, seed[:1])


def random(block, modes, rank, seed, aim: Aim, tick) -> Found:
    """Independent normal numbers, of the size that gives the chain the kernel's norm."""
    rng = np.random.default_rng(seed)
    size = (squared_norm(block) / block.size / rank) ** (1 / (2 * len(modes)))
    vectors = [np.float32(size) * rng.standard_normal((rank, n), np.float32) for n in modes]
    norms = np.prod([np.linalg.norm(v.astype(np.float64), axis=1) for v in vectors], axis=0)
    return Found(_shared(norms, [_units(v) for v in vectors]), norms, _lost(block, vectors))


ALGORITHMS = (
    Algorithm("", joint, "joint ALS at bounded norms", "ALS of paper 002, with a ridge"),
    Algorithm("-tpm", power_method, "tensor power method", "paper 000, Algorithm 1"),
    Algorithm("-als", plain, "plain ALS", "paper 002, section 2.1"),
    Algorithm("-random", random, "random factors", "ablation of paper 000, section 3.4.2"),
)

SCHEMES.update((one.name, one) for kind in (Cp3, Cp4) for one in map(kind, ALGORITHMS))


def full_rank(modes: Sequence[int]) -> int:
    """The rank at which every tensor with these modes is exact.

    Fixing the index of all modes but the largest leaves vectors: one component for each.
    """
    return int(np.prod(modes)) // max(modes)


def _slices(block, modes, rank: int) -> Found:
    """The CP of fixed modes."""
    norms, vectors = fixed_modes(block.transpose(1, 2, 3, 0).reshape(modes), rank)
    vectors = _shared(norms, vectors)
    return Found(vectors, norms, _lost(block, vectors), norms**2)


def _stepped(tick, rank: int) -> als.Tick:
    """Turns a share of the work into components done, the last of which is not ticked here."""
    steps = iter(range(1, rank))
    shown = 0

    def share_done(share: float) -> None:
        nonlocal shown
        while shown < min(int(share * rank), rank - 1):
            shown = next(steps)
            tick(shown)

    return share_done


def _from_joint(block, cube: als.Cube, found: als.Joint) -> Found:
    """Components in falling order of norm, with the error of exactly these factors."""
    order = np.argsort(-found.norms, kind="stable")
    vectors = [np.ascontiguousarray(f.T[order]) for f in cube.ordered(found.factors)]
    lost = found.lost
    if lost < 0.1 * cube.energy:  # float32 products leave few digits in the difference
        lost = _lost(block, vectors)
    return Found(vectors, found.norms[order], lost)


def _shared(norms: np.ndarray, vectors: list[np.ndarray]) -> list[np.ndarray]:
    """Unit vectors (R, size) of each mode, with the norms shared evenly by the modes."""
    share = (norms ** (1 / len(vectors))).astype(np.float32)[:, None]
    return [vector * share for vector in vectors]


def _units(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _greedy(block, modes, rank, tick) -> tuple[np.ndarray, list[np.ndarray], float]:
    """Norms (R,), unit vectors (R, size) of each mode, and the squared norm of what is left; zeros
    past the last component."""
    weights, deflation = np.zeros(rank), Deflation(block, len(modes))
    vectors = [np.zeros((rank, size), np.float32) for size in modes]
    for r, (weight, found) in enumerate(islice(deflation, rank)):
        weights[r] = weight
        for factor, vector in zip(vectors, found):
            factor[r] = vector
        if r + 1 < rank:
            tick(r + 1)
    return weights, vectors, deflation.lost


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
    step = max(1, (1 << 20) // (len(inputs) * D * E))
    total = 0.0
    for start in range(0, S, step):
        some = slice(start, start + step)
        pattern = reduce(_each, spatial, inputs[:, some])
        total += residual(block[:, some].reshape(T, -1), outputs.T, pattern)
    return total


def _each(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Row-wise Kronecker product of (R, m) and (R, n): (R, m n)."""
    return (left[:, :, None] * right[:, None, :]).reshape(len(left), -1)
