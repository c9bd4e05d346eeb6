"""Decompositions that lose least of a layer's outputs, whatever the scheme.

A kernel is decomposed as it is and as the metric sees it, the last factor of each is solved anew by
least squares, and the best is polished under the exact covariance.  What has the least output error
is taken, so that none is above the plain decomposition, and its factors are made alike in size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from scipy.linalg import solve

from . import stability
from .compose import compose
from .evened import evened
from .geometry import Part
from .metric import Metric, seen_axes
from .outcome import Aim, Decomposition
from .polish import STEPS, polished
from .truncated import matmul

EXACT = 1e-5
"""Errors that float32 alone makes: there is nothing to calibrate."""

_RIDGE = 1e-9  # over the mean squared input of the last factor; only what no input tells is held

Factors = Sequence[np.ndarray]


def calibrated(
    kernel: np.ndarray,
    group: int,
    parts: Sequence[Part],
    metric: Metric,
    decompose: Callable[[np.ndarray], Decomposition],
    aim: Aim = Aim(),  # noqa: B008  frozen
    wanted: np.ndarray | None = None,
    threads: int = 1,
    optimal: bool = False,
) -> Decomposition:
    """The best decomposition of ``kernel`` (T, S / group, D, E) under ``metric``.

    decompose: a scheme with all but the kernel; parts: its chain; aim: the effort, and a bound that
    is kept if the plain decomposition keeps to it.  ``error`` of what comes out is that of the
    weights, ``output_error`` and ``shift`` are what the metric says.

    wanted: the kernel whose outputs are wanted, where that is not ``kernel``: the inputs that the
    metric knows may come from layers that are decomposed already, and another kernel make of them
    what the original made of its own.  Then these outputs are what the error is of.
    threads: what the large products may use
    optimal: whether what ``decompose`` finds is the best of these chains for any kernel
    """
    metric.check(kernel, group)
    metric = metric.fresh()
    wanted = kernel if wanted is None else wanted
    plain = decompose(kernel)
    whole = metric.lost(wanted)
    judge = partial(_judged, kernel=kernel, wanted=wanted, parts=parts, metric=metric, whole=whole)
    found = [judge(plain, plain.factors)]
    if found[0].output_error < EXACT or not whole > 0:
        return found[0]
    white = decompose(metric.whiten(wanted, parts))
    factors = metric.unwhiten(white.factors, kernel.shape, parts)
    found.append(judge(white, factors))
    whole_patches = len(seen_axes(parts)) == 1  # for which whitening is exact
    if not (optimal and whole_patches):
        for start, ends in ((plain, plain.factors), (white, factors)):
            found.append(judge(start, refitted(wanted, ends, parts, metric)))
    best = _best(found, aim)
    if not whole_patches:
        ends = polished(wanted, best.factors, parts, metric, STEPS[aim.effort], threads)
        best = _best([best, judge(best, ends)], aim)
    return best if best.factors is plain.factors else judge(best, evened(best.factors, parts))


def _best(found: Sequence[Decomposition], aim: Aim) -> Decomposition:
    """The one with the least output error within the bound; the first where none is."""
    bound = np.inf if aim.max_norm is None else aim.max_norm
    within = [one for one in found if one.norm_ratio is None or one.norm_ratio <= bound]
    return min(within or found[:1], key=lambda one: one.output_error)


def refitted(
    kernel: np.ndarray, factors: Factors, parts: Sequence[Part], metric: Metric
) -> tuple[np.ndarray, ...]:
    """The factors with the last one solved anew: least squares under the regular covariance.

    With B the rows that the factors before it make, the outputs are F B x and those wanted W x, so
    F = W C B^T (B C B^T)^-1.  What no input tells apart stays as it was.
    """
    group, last = metric.group, np.asarray(factors[-1], np.float64)
    before = compose(factors[:-1], parts[:-1], group)
    blocks = []
    for covariance, block, start, rows in zip(
        metric.regular, *(np.split(np.asarray(each), group) for each in (kernel, last, before))
    ):
        basis = spread(rows, start.shape[2:])
        start = start.reshape(len(start), -1)
        wanted = block.reshape(len(block), -1) - matmul(start, basis)
        seen = matmul(basis, covariance)
        system = matmul(seen, np.ascontiguousarray(basis.T))
        diagonal = np.einsum("ii->i", system)
        diagonal += max(_RIDGE * diagonal.mean(), np.finfo(np.float64).tiny)
        blocks.append(start + solve(system, matmul(seen, wanted.T), assume_a="pos").T)
    solved = np.concatenate(blocks).reshape(last.shape).astype(np.float32)
    return (*factors[:-1], solved)


def spread(rows: np.ndarray, window: Sequence[int]) -> np.ndarray:
    """The basis (R A B, S D E), float64, that a last factor (T, R, A, B) combines to a kernel.

    rows: (R, S, D / A, E / B), what the factors before it compose to.
    """
    R, S, D, E = rows.shape
    A, B = window
    found = np.zeros((R, A, B, S, A, D, B, E))
    for a in range(A):
        for b in range(B):
            found[:, a, b, :, a, :, b, :] = rows
    return found.reshape(R * A * B, S * A * D * B * E)


def _judged(
    start: Decomposition,
    factors: Factors,
    kernel: np.ndarray,
    wanted: np.ndarray,
    parts: Sequence[Part],
    metric: Metric,
    whole: float,
) -> Decomposition:
    """What is to be said of factors that came from ``start``; ``whole``: what losing all costs."""
    group, other = metric.group, compose(factors, parts, metric.group)
    told = {
        "output_error": metric.distance(wanted, other, whole),
        "shift": metric.shift(wanted, other) if metric.centred else None,
    }
    if factors is start.factors:
        return replace(start, **told)
    size = float(np.linalg.norm(kernel.astype(np.float64)))
    error = float(np.linalg.norm(kernel.astype(np.float64) - other)) / size if size else 0.0
    told.update(error=error, curve=None, factors=tuple(factors))
    if start.norm_ratio is not None:
        norms = stability.component_norms(factors, parts, group)
        ratio = float(norms.sum()) / size
        told.update(norm_ratio=ratio, warning=stability.warning(ratio, len(norms), None))
    return replace(start, sensitivity=stability.sensitivity(factors, parts, group), **told)
