"""The last layer of a chain solved anew: from what the smaller net feeds it to what the old net
made there.

With z a patch of the chain's last layer in the new net and y what the old layer made of the same
place of the same image, B and b minimise the sum of |y - B z - b|^2 + ridge |B - B_0|^2 (Zhang et
al. 2016, section 3.3, without the nonlinearity).  Several ridges are tried; images that the sums
are not from tell which is best, or that B_0 was better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dposv as posv

from ..net.shapes import LayerShapes
from .ordered import all_done
from .patches import Draw, gram_of, seen_blocks

RIDGES = (1e-5, 1e-3, 1e-2, 1e-1)
"""What pulls towards the factor as it was, over the mean variance of its inputs."""


@dataclass(frozen=True, eq=False)
class Line:
    """A linear layer as matrices: ``matrix`` (g, o, n) and ``bias`` (g, o)."""

    matrix: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True, eq=False)
class Pairs:
    """Sums over pairs of a patch z (n numbers) and outputs y (o numbers) in each of g groups.

    zz (g, n, n), yz (g, o, n), z (g, n), y and yy (g, o), count; float64
    """

    zz: np.ndarray
    yz: np.ndarray
    z: np.ndarray
    y: np.ndarray
    yy: np.ndarray
    count: float

    def best_bias(self, matrix: np.ndarray) -> np.ndarray:
        """The bias with which the outputs' means are those of y."""
        return (self.y - np.einsum("gon,gn->go", matrix, self.z)) / self.count

    def lost(self, line: Line) -> np.ndarray:
        """(g, o) sums of squared differences between y and the line's outputs."""
        matrix, bias = line.matrix, line.bias
        made = np.einsum("gon,gn->go", matrix, self.z)
        squares = np.einsum("gon,gon->go", np.matmul(matrix, self.zz), matrix)
        found = self.yy - 2 * np.einsum("gon,gon->go", matrix, self.yz) + squares
        found += bias * (2 * (made - self.y) + self.count * bias)
        return np.maximum(found, 0.0)

    @property
    def spread(self) -> np.ndarray:
        """(g, o) sums of the squared distances of y from its mean."""
        return np.maximum(self.yy - self.y**2 / self.count, 0.0)


def pair_sums(
    entry: LayerShapes,
    bottoms: Sequence[np.ndarray],
    tops: Sequence[np.ndarray],
    draw: Draw | None = None,
) -> tuple[np.ndarray, ...]:
    """What ``pairs_of`` makes ``Pairs`` of when it is added up over all batches, for the bottoms of
    a layer and the outputs it should have; products are made in float32."""
    found: list = []
    for seen in seen_blocks(entry, bottoms, tops, draw):
        part = (
            seen.squares(),
            seen.crosses(),
            seen.total(),
            seen.made.sum(2, dtype=np.float64),
            np.square(seen.made).sum(2, dtype=np.float64),
            np.float64(seen.width),
        )
        found = [a + b for a, b in zip(found, part)] if found else list(part)
    return tuple(found)


def pairs_of(entry: LayerShapes, sums: list[np.ndarray]) -> Pairs:
    """The pairs of added up ``pair_sums``, which are used up."""
    squares, *rest = sums
    sums.clear()
    return Pairs(gram_of(entry, squares), *rest)


def solved_lines(pairs: Pairs, start: Line, free_mean: bool, jobs: int | None = 1) -> list[Line]:
    """The least squares solution that is pulled towards ``start``, for each of ``RIDGES`` for which
    there is one.

    free_mean: whether the mean of the outputs is the bias's affair, or that of a BatchNorm
    jobs: solutions at a time, by default one for each processor
    """
    squares, crosses = pairs.zz / pairs.count, pairs.yz / pairs.count
    if free_mean:
        z, y = pairs.z / pairs.count, pairs.y / pairs.count
        for g, (square, cross) in enumerate(zip(squares, crosses)):
            square -= np.outer(z[g], z[g])
            cross -= np.outer(y[g], z[g])

    def line(ridge: float) -> Line | None:
        found = [_solved(*each, ridge) for each in zip(squares, crosses, start.matrix)]
        if any(each is None for each in found):
            return None
        matrix = np.stack(found)
        return Line(matrix, pairs.best_bias(matrix) if free_mean else start.bias)

    return [found for found in all_done(line, RIDGES, jobs) if found is not None]


def _solved(
    square: np.ndarray, cross: np.ndarray, start: np.ndarray, ridge: float
) -> np.ndarray | None:
    """X (o, n) with X (square + pull) = cross + pull start; None where there is none."""
    pull = ridge * max(float(np.trace(square)) / len(square), np.finfo(np.float32).tiny)
    system = square.copy()
    np.einsum("ii->i", system)[:] += pull
    # symmetric, so that the transpose is the same: LAPACK works in place, and lets threads be
    _, found, failed = posv(system.T, (cross + pull * start).T, overwrite_a=1, overwrite_b=1)
    return None if failed or not np.isfinite(found).all() else found.T


@dataclass(frozen=True, eq=False)
class Refitted:
    """What became of a layer: its line, and its output error before and after on other images.

    Errors are relative: the root of the mean squared difference over the variance of y.
    """

    line: Line
    before: float
    after: float
    changed: bool


def refit(
    fit: Pairs,
    held: Pairs,
    start: Line,
    has_bias: bool,
    normalised: bool,
    weights: np.ndarray | None = None,
) -> Refitted:
    """The best of ``start``, ``start`` with its bias moved, and its refits, judged on ``held``.

    has_bias: whether the layer has one; normalised: whether a BatchNorm behind it takes up the mean
    weights: (g o,), what an error of each output counts; None where all count alike
    """
    scale = np.ones(start.bias.shape) if weights is None else weights.reshape(start.bias.shape)
    tried = [start]
    if has_bias:
        tried.append(Line(start.matrix, fit.best_bias(start.matrix)))
    tried += solved_lines(fit, start, has_bias or normalised)
    errors = [_error(held, line, normalised and not has_bias, scale) for line in tried]
    best = int(np.argmin(errors))
    return Refitted(tried[best], errors[0], errors[best], best > 0)


def _error(pairs: Pairs, line: Line, ignore_mean: bool, scale: np.ndarray) -> float:
    if ignore_mean:
        line = Line(line.matrix, pairs.best_bias(line.matrix))
    whole = float((pairs.spread * scale).sum())
    return float(np.sqrt((pairs.lost(line) * scale).sum() / whole)) if whole > 0 else 0.0
