"""Joint CP by alternating least squares, with the norms of the components held down.

In: one group's kernel and factors to start from; out: the factors of all modes, found together.
What is minimised is ||W - What||^2 + ridge sum_r d_r^2, d_r the norm of component r: without the
second term components grow and cancel each other, the instability of papers 000 and 002.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from itertools import count
from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

from .truncated import matmul, squared_norm, turned_columns

_ALTERNATIONS = 3  # between the two spatial factors of 4-way CP
_FIRST = 0.1  # the ridge of the first sweep
_LAST = {3: 6.5e-3, 4: 4.5e-3}  # of the last over the squared error, by ways
_DOUBLE = 1e-5  # ridges below this are solved with in float64
_ROUNDING = 1e-7  # the ridge that is always there, so that the equations can be solved
_AHEAD, _FASTER, _MOST = 0.5, 1.05, 1.0  # extrapolation: at first, its growth, and at most
_SETTLED, _LONGER = 0.99, 4  # sweeps go on, to 4 times as many, while each lowers the error by 1 %
_EXACT = 1e-9  # squared error, over the squared norm, that float32 cannot lower
_WIDER, _TURNS = 1.25, 3  # the leading subspaces: dimensions over the rank, steps to find them
_SMALLER = 0.75  # modes that would not shrink to this share stay whole
_WHOLE = 7  # one of so many sweeps, the last ones, is over the whole kernel
_TIGHTER = 1.5  # growth of the ridge when the norms are above their bound

Factors = list[np.ndarray]
Tick = Callable[[float], None]


class Joint(NamedTuple):
    """A CP: factors (size, R) float32 of each mode, squared error, norm of each component.

    The norm of a component is shared evenly by its columns.
    """

    factors: Factors
    lost: float
    norms: np.ndarray


class Cube:
    """A kernel (T, S, D, E) laid out so that each sweep is two products over contiguous memory.

    ``array`` is (few, D E, many): the mode of the fewer channels first.  Factors come in that
    order here, with one spatial mode (D E) or two (D and E) between the channels.
    """

    def __init__(self, block: np.ndarray, ways: int):
        T, S, D, E = block.shape
        self.inputs_first = S <= T
        axes = (1, 2, 3, 0) if self.inputs_first else (0, 2, 3, 1)
        few, many = min(T, S), max(T, S)
        array = np.array(block.transpose(axes), np.float32, order="C")
        self.array = array.reshape(few, D * E, many)
        self.flat = self.array.reshape(few * D * E, many)
        self.sizes = (few, D * E, many) if ways == 3 else (few, D, E, many)
        self.energy = squared_norm(self.array)

    def cut(self, rank: int) -> tuple[Cube, list[np.ndarray | None]]:
        """The cube within the leading subspaces of both channel modes, and their bases.

        A basis is None for a mode that would hardly shrink.  The energy stays that of the whole
        cube, so that squared errors are those of the factors lifted back to it.
        """
        small, wanted = copy(self), int(_WIDER * rank) + 1
        few, K, many = self.array.shape
        bases: list[np.ndarray | None] = [None, None]
        if wanted <= _SMALLER * many:
            bases[1] = _leading(self.flat.T, wanted)
            many, small.flat = wanted, matmul(self.flat, bases[1])
        if wanted <= _SMALLER * few:
            rows = small.flat.reshape(few, K * many)
            bases[0] = _leading(rows, wanted)
            few, small.flat = wanted, matmul(bases[0].T, rows)
        small.array = small.flat.reshape(few, K, many)
        small.flat = small.array.reshape(few * K, many)
        return small, bases

    def ordered(self, factors: Factors) -> Factors:
        """Factors (first, spatial ..., last) as (inputs, spatial ..., outputs), and back."""
        first, *spatial, last = factors
        return factors if self.inputs_first else [last, *spatial, first]


def _leading(matrix: np.ndarray, size: int) -> np.ndarray:
    """An orthonormal basis (m, size) of about the leading left singular vectors.

    From the rows of the largest norms, so that the order of channels does not matter.
    """
    largest = np.argsort(-np.einsum("mn,mn->m", matrix, matrix), kind="stable")[:size]
    return turned_columns(matrix, np.eye(len(matrix), dtype=np.float32)[:, largest], _TURNS)


def rows_start(cube: Cube, rank: int, seed: Sequence[int]) -> Factors:
    """Components that each begin at one of the fewer channels, with a random spatial pattern.

    The largest channels come first and, where there are more components, once more.  A kernel with
    its channels permuted starts from the same components.
    """
    rng = np.random.default_rng(seed)
    largest = np.argsort(-np.einsum("fkm,fkm->f", cube.array, cube.array), kind="stable")
    few, *spatial, many = cube.sizes
    first = np.zeros((few, rank), np.float32)
    first[largest[np.arange(rank) % few], np.arange(rank)] = 1
    patterns = [rng.standard_normal((size, rank), np.float32) for size in spatial]
    return [first, *patterns, np.zeros((many, rank), np.float32)]


def plain(cube: Cube, start: Factors, sweeps: int, tick: Tick) -> Joint:
    """Alternating least squares as paper 002 uses it: nothing holds the norms down."""
    found = Joint(start, cube.energy, np.zeros(0))
    for done in range(sweeps):
        found = _sweep(cube, found.factors, 0.0)
        tick((done + 1) / sweeps)
    return found


def bounded(cube: Cube, start: Factors, sweeps: int, max_norm: float | None, tick: Tick) -> Joint:
    """A falling ridge, with extrapolation: every sweep starts ahead of where the last one ended.

    A sweep that raised the penalised error is undone, and the next steps are half as long.
    All sweeps but the last seventh run within the leading subspaces of the channels.
    max_norm bounds the sum of the norms over that of the kernel: the ridge stops falling, or grows
    again, until it is met.  More sweeps than asked for are done while they still gain much.
    """
    whole, (cube, bases) = cube, cube.cut(start[0].shape[1])
    found, state, ahead, least = None, _moved(start, bases, down=True), _AHEAD, 0.0
    for done in count(1):
        if done == sweeps - sweeps // _WHOLE:
            leapt = state is not found.factors
            found = found._replace(factors=_moved(found.factors, bases))
            cube, state = whole, _moved(state, bases) if leapt else found.factors
        share = found.lost / cube.energy if found else 1.0
        last = max(_LAST[len(cube.sizes)] * share, least)
        ridge = _ridge((done - 1) / max(sweeps - 1, 1), last)
        new = _sweep(cube, state, ridge)
        tick(min(done / sweeps, 1.0))
        leapt = found is not None and state is not found.factors
        if leapt and _cost(new, ridge) > _cost(found, ridge):
            state, ahead = found.factors, ahead / 2
            continue
        above = max_norm is not None and new.norms.sum() > max_norm * np.sqrt(cube.energy)
        if above:
            least = ridge * (_TIGHTER if done >= sweeps else 1.0)
        gains = share > _EXACT and new.lost < _SETTLED**2 * share * cube.energy
        if done >= sweeps and not above and not (gains and done < _LONGER * sweeps):
            return new
        state = new.factors
        if found is not None and not above:
            state = [f + np.float32(ahead) * (f - old) for f, old in zip(state, found.factors)]
            ahead = min(ahead * _FASTER, _MOST)
        found = new


def _moved(factors: Factors, bases: Sequence[np.ndarray | None], down: bool = False) -> Factors:
    """Factors of a cut cube as those of the whole one, or the other way, down."""
    first, *spatial, last = factors
    ends = [
        end if base is None else matmul(base.T if down else base, end)
        for base, end in zip(bases, (first, last))
    ]
    return [ends[0], *spatial, ends[1]]


def _ridge(progress: float, last: float) -> float:
    """The ridge at a share of the way down to the last one."""
    return max(last, _FIRST ** (1 - progress) * last**progress) if progress < 1 else last


def _cost(found: Joint, ridge: float) -> float:
    return found.lost + ridge * float(found.norms @ found.norms)


def _sweep(cube: Cube, factors: Factors, ridge: float) -> Joint:
    """Every factor once: the last channel mode, the spatial ones, the first channel mode."""
    first, *spatial, _ = factors
    few, K, many = cube.array.shape
    rank = first.shape[1]
    shape, fixed = _shape(spatial), _gram(first)
    pairs = (first[:, None, :] * shape).reshape(few * K, rank)
    last = _solve(fixed * _gram(shape), matmul(pairs.T, cube.flat), ridge)
    seen = matmul(cube.flat, last).reshape(few, K, rank)
    grams = _gram(last)
    image = np.einsum("fkr,fr->kr", seen, first)
    spatial = _spatial(image, fixed * grams, spatial, ridge)
    shape = _shape(spatial)
    grams *= _gram(shape)
    image = np.einsum("fkr,kr->fr", seen, shape)
    first = _solve(grams, np.ascontiguousarray(image.T), ridge)
    shown = float(np.sum(first * image, dtype=np.float64))
    kept = float(np.sum(grams * _gram(first), dtype=np.float64))
    factors, norms = _balanced([first, *spatial, last])
    return Joint(factors, max(cube.energy - 2 * shown + kept, 0.0), norms)


def _spatial(image: np.ndarray, grams: np.ndarray, old: Factors, ridge: float) -> Factors:
    """Spatial factors from the kernel contracted with both channel factors: (D E, R)."""
    if len(old) == 1:
        return [_solve(grams, np.ascontiguousarray(image.T), ridge)]
    vertical, horizontal = old
    image = image.reshape(len(vertical), len(horizontal), -1)
    for _ in range(_ALTERNATIONS):
        seen = np.einsum("der,er->rd", image, horizontal)
        vertical = _solve(grams * _gram(horizontal), seen, ridge)
        seen = np.einsum("der,dr->re", image, vertical)
        horizontal = _solve(grams * _gram(vertical), seen, ridge)
    return [vertical, horizontal]


def _shape(spatial: Factors) -> np.ndarray:
    """The spatial patterns (D E, R), C order."""
    if len(spatial) == 1:
        return spatial[0]
    vertical, horizontal = spatial
    return (vertical[:, None, :] * horizontal).reshape(-1, vertical.shape[1])


def _gram(factor: np.ndarray) -> np.ndarray:
    return matmul(factor.T, factor)


def _solve(grams: np.ndarray, seen: np.ndarray, ridge: float) -> np.ndarray:
    """The factor F (size, R) of F (grams + ridge diag(grams)) = seen^T, seen (R, size)."""
    wide = ridge < _DOUBLE
    system = grams.astype(np.float64 if wide else np.float32)
    factorise, solve = (lapack.dpotrf, lapack.dpotrs) if wide else (lapack.spotrf, lapack.spotrs)
    diagonal = np.einsum("rr->r", system)
    mean = float(diagonal.sum()) / len(diagonal)
    diagonal += ridge * diagonal + _ROUNDING * max(mean, float(np.finfo(np.float32).tiny))
    while True:
        lower, failed = factorise(system.T, 1, 0)
        if not failed:
            break
        diagonal += 1e-6 * diagonal.mean()  # float32 grams of components that are all but parallel
    found, _ = solve(lower, seen.astype(system.dtype, copy=False), 1)
    return np.ascontiguousarray(found.T, np.float32)


def _balanced(factors: Factors) -> tuple[Factors, np.ndarray]:
    """The factors with each component's norm shared evenly, and these norms in float64."""
    lengths = [np.sqrt(np.einsum("nr,nr->r", f, f, dtype=np.float64)) for f in factors]
    norms = np.prod(lengths, axis=0)
    share = norms ** (1 / len(factors))
    scales = (np.where(one > 0, share / np.where(one > 0, one, 1), 0) for one in lengths)
    return [f * scale.astype(np.float32) for f, scale in zip(factors, scales)], norms
