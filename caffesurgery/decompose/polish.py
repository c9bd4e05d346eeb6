"""All factors of a chain together, turned downhill on the exact output error.

Whitening knows the covariance of the inputs as a Kronecker product only; here it is the whole one.
In: factors that are good already; out: better ones, after so many steps of L-BFGS on all groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .geometry import Part
from .metric import LARGE, Metric
from .truncated import matmul

STEPS = {"normal": 40, "high": 120}
"""Steps of L-BFGS by effort; 40 gain most of what hundreds do, and take about as long as the
decomposition itself."""

_ROWS = 128  # of such a product are made at a time by each thread, however many there are


def polished(
    kernel: np.ndarray,
    factors: Sequence[np.ndarray],
    parts: Sequence[Part],
    metric: Metric,
    steps: int = STEPS["normal"],
    threads: int = 1,
) -> tuple[np.ndarray, ...]:
    """Factors, float32, whose chain makes of the inputs what is nearer to what ``kernel`` makes.

    kernel: (T, S / group, D, E); factors: of the parts' ``weight_shape``.  The covariance is the
    regular one, the weights of the outputs count.  The outcome does not depend on ``threads``.
    """
    scale = 1.0 if metric.weights is None else metric.scales[:, None, None, None]
    group, wanted = metric.group, np.asarray(kernel, np.float64) * scale
    start = [np.asarray(factor, np.float64) for factor in factors]
    start[-1] = start[-1] * scale
    inner = [part.group // group for part in parts]
    with ThreadPoolExecutor(threads) as pool:
        pieces = [
            _downhill(wanted_block, blocks, inner, _times(covariance, pool), steps)
            for wanted_block, covariance, *blocks in zip(
                np.split(wanted, group), metric.regular, *(np.split(each, group) for each in start)
            )
        ]
    found = [np.concatenate(each) for each in zip(*pieces)]
    found[-1] = found[-1] / scale
    return tuple(np.ascontiguousarray(factor, np.float32) for factor in found)


def _times(covariance: np.ndarray, pool: ThreadPoolExecutor) -> Callable[[np.ndarray], np.ndarray]:
    """rows -> rows C, float64.  For large patches, whose products take nearly all of the time, in
    float32 and by NumPy, which lets threads work side by side."""
    if len(covariance) <= LARGE:
        return lambda rows: matmul(rows, covariance)
    single = covariance.astype(np.float32)

    def times(rows: np.ndarray) -> np.ndarray:
        rows = rows.astype(np.float32)
        found = np.empty(rows.shape, np.float32)
        pieces = [slice(start, start + _ROWS) for start in range(0, len(rows), _ROWS)]
        list(pool.map(lambda piece: np.matmul(rows[piece], single, out=found[piece]), pieces))
        return found.astype(np.float64)

    return times


def _downhill(
    wanted: np.ndarray,
    factors: Sequence[np.ndarray],
    groups: Sequence[int],
    times: Callable[[np.ndarray], np.ndarray],
    steps: int,
) -> list[np.ndarray]:
    """The factors of one group of the layer, float64; ``groups`` are those of each part in it, and
    ``times`` multiplies with the covariance."""
    from scipy.optimize import minimize

    shapes = [factor.shape for factor in factors]
    places = np.cumsum([0, *(factor.size for factor in factors)])
    rows = wanted.reshape(len(wanted), -1)
    whole = float(np.sum(times(rows) * rows)) or 1.0

    def split(flat: np.ndarray) -> list[np.ndarray]:
        ends = zip(places, places[1:], shapes)
        return [flat[begin:end].reshape(shape) for begin, end, shape in ends]

    def lost(flat: np.ndarray) -> tuple[float, np.ndarray]:
        now = split(flat)
        made = _composed(now, groups)
        change = made[-1].reshape(rows.shape) - rows
        slope = times(change)
        gradient = _gradients(now, made, groups, (2 / whole) * slope.reshape(wanted.shape))
        return float(np.sum(slope * change)) / whole, np.concatenate([g.ravel() for g in gradient])

    start = np.concatenate([factor.ravel() for factor in factors])
    options = {"maxiter": steps, "maxcor": 20, "ftol": 0, "gtol": 0}
    return split(minimize(lost, start, jac=True, method="L-BFGS-B", options=options).x)


def _composed(factors: Sequence[np.ndarray], groups: Sequence[int]) -> list[np.ndarray]:
    """The kernels (P, S, D, E) that the first one, two, ... factors compose to."""
    made = [factors[0]]
    for factor, group in zip(factors[1:], groups[1:]):
        P, S, D, E = made[-1].shape
        O, _, A, B = factor.shape  # noqa: E741
        product = np.matmul(_taps(factor, group), made[-1].reshape(group, P // group, S * D * E))
        product = product.reshape(O, A, B, S, D, E).transpose(0, 3, 1, 4, 2, 5)
        made.append(np.ascontiguousarray(product).reshape(O, S, A * D, B * E))
    return made


def _gradients(
    factors: Sequence[np.ndarray],
    made: Sequence[np.ndarray],
    groups: Sequence[int],
    slope: np.ndarray,
) -> list[np.ndarray]:
    """The derivative for each factor; ``slope`` is that for the kernel of the whole chain."""
    found = []
    for factor, before, group in reversed(list(zip(factors[1:], made, groups[1:]))):
        P, S, D, E = before.shape
        O, inner, A, B = factor.shape  # noqa: E741
        product = slope.reshape(O, S, A, D, B, E).transpose(0, 2, 4, 1, 3, 5)
        product = product.reshape(group, O // group * A * B, S * D * E)
        before = before.reshape(group, P // group, S * D * E)
        turned = np.matmul(product, before.transpose(0, 2, 1))
        found.append(turned.reshape(O, A, B, inner).transpose(0, 3, 1, 2))
        slope = np.matmul(_taps(factor, group).transpose(0, 2, 1), product).reshape(P, S, D, E)
    return [slope, *reversed(found)]


def _taps(factor: np.ndarray, group: int) -> np.ndarray:
    """A factor (O, P / group, A, B) as matrices (group, O / group A B, P / group)."""
    O, inner, A, B = factor.shape  # noqa: E741
    return factor.transpose(0, 2, 3, 1).reshape(group, O // group * A * B, inner)
