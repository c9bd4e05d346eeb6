"""A chain of small layers solved for what it sees in the smaller net and what the old layer made.

With x a patch of the layer's input in the new net, and y what the old layer made of the same place
of the same image, the dense kernel W* and bias that bring x closest to y by least squares take up
what was lost before (Zhang et al. 2016, section 3.3, without the nonlinearity).  The chain is W*,
decomposed under the covariance of x: of all errors only those that no kernel could mend count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..decompose import Decomposition, Part, compose
from ..decompose.metric import Metric, Moments
from .refit import Line, Pairs, solved_lines

Decompose = Callable[[Metric, np.ndarray], Decomposition]
"""From what a layer's inputs are like, and the kernel (T, S / group, D, E) whose outputs are
wanted, to its factors."""


@dataclass(frozen=True, eq=False)
class Chain:
    """What takes the place of a layer.

    layers: the names of the new layers, first to last
    parts, group: their geometry
    kernel: the old layer's own (T, S / group, D, E); decompose: makes the chain for other inputs
    """

    layers: tuple[str, ...]
    parts: tuple[Part, ...]
    group: int
    kernel: np.ndarray
    decompose: Decompose


@dataclass(frozen=True, eq=False)
class Ends:
    """What comes of a layer's outputs.

    bias: whether the layer has one; normalised: whether a BatchNorm alone reads them
    weights: (T,), what an error of each counts; None where all count alike
    """

    bias: bool
    normalised: bool
    weights: np.ndarray | None = None

    @property
    def free_mean(self) -> bool:
        """Whether the mean of the outputs costs the kernel nothing."""
        return self.bias or self.normalised

    @property
    def mean_is_taken_up(self) -> bool:
        """Whether only the BatchNorm can put the mean right."""
        return self.normalised and not self.bias


@dataclass(frozen=True, eq=False)
class Solved:
    """Factors and bias of a chain, and the relative output error on images that nothing was fitted
    to: of the factors as they came, and of these."""

    factors: Sequence[np.ndarray]
    bias: np.ndarray
    before: float
    after: float
    changed: bool


def solve_chain(
    chain: Chain,
    fit: Pairs,
    held: Pairs,
    images: int,
    factors: Sequence[np.ndarray],
    biases: tuple[np.ndarray, np.ndarray],
    ends: Ends,
    jobs: int | None = 1,
) -> Solved:
    """The best of the factors as they are and of those of W*, with their biases.

    fit, held: sums over patches in the new net and outputs of the old layer; images: of ``fit``
    biases: the old layer's, and that of the chain as it came, each (T,), zeros without one
    jobs: dense kernels that are solved for at a time
    """
    groups, outputs, size = fit.yz.shape
    scale = np.ones(groups * outputs) if ends.weights is None else ends.weights
    scale = scale.reshape(groups, outputs)

    def rows(kernel: np.ndarray) -> np.ndarray:
        return np.asarray(kernel, np.float64).reshape(groups, outputs, size)

    def lost(matrix: np.ndarray, bias: np.ndarray) -> float:
        if ends.mean_is_taken_up:
            bias = held.best_bias(matrix)
        return float((held.lost(Line(matrix, bias.reshape(groups, outputs))) * scale).sum())

    def tried(factors: Sequence[np.ndarray], bias: np.ndarray) -> tuple:
        return tuple(factors), bias, lost(rows(compose(factors, chain.parts, chain.group)), bias)

    def with_mean(factors: Sequence[np.ndarray]) -> tuple:
        made = rows(compose(factors, chain.parts, chain.group))
        return tried(factors, fit.best_bias(made).reshape(-1) if ends.bias else biases[0])

    start = Line(rows(chain.kernel), biases[0].reshape(groups, outputs))
    lines = [start, *solved_lines(fit, start, ends.free_mean, jobs)]
    dense = min(lines, key=lambda line: lost(line.matrix, line.bias))
    metric = Metric(_moments(fit, images), ends.free_mean, ends.weights)
    kernel = dense.matrix.reshape(chain.kernel.shape).astype(np.float32)
    options = [tried(factors, biases[1]), with_mean(factors)]
    options.append(with_mean(chain.decompose(metric, kernel).factors))
    best = min(options, key=lambda each: each[2])
    whole = float((held.spread * scale).sum())
    before, after = (
        float(np.sqrt(each[2] / whole)) if whole > 0 else 0.0 for each in (options[0], best)
    )
    return Solved(best[0], best[1], before, after, best is not options[0])


def _moments(pairs: Pairs, images: int) -> Moments:
    return Moments(pairs.z / pairs.count, pairs.zz / pairs.count, int(pairs.count), images)
