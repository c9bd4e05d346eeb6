"""Layers whose patches are too large for a covariance: chains found by what their outputs vary by.

Of all kernels of rank R, U U^T W loses least under the covariance C of the patches, U the leading
eigenvectors of W C W^T: the covariance of the layer's outputs, which is small.  So where the first
layer of a chain of two sees whole patches, that chain is U after U^T W.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..decompose.evened import evened
from ..decompose.metric import ROUNDED, scales_of, seen_axes, shrinkage
from ..decompose.truncated import leading_columns, matmul
from .chains import Chain, Ends

_TINY = float(np.finfo(np.float32).tiny)
_LARGEST = 8192
"""Outputs of a layer, at most: their covariance and that of its weights are 1 GiB of float64."""


def is_wide(chain: Chain) -> bool:
    """Whether a chain can be found so."""
    outputs = len(chain.kernel) // chain.group
    return len(chain.parts) == 2 and len(seen_axes(chain.parts)) == 1 and outputs <= _LARGEST


def output_sums(tops: Sequence[np.ndarray], axis: int, groups: int) -> tuple[np.ndarray, ...]:
    """What is to be added up of a layer's outputs y: y y^T (g, T / g, T / g), y (g, T / g), and how
    many there are; products are made in float32."""
    rows = [
        np.moveaxis(top, axis, 0).reshape(groups, top.shape[axis] // groups, -1) for top in tops
    ]
    seen = np.concatenate(rows, axis=2)
    squares = np.matmul(seen, seen.transpose(0, 2, 1))
    return squares, seen.sum(2, dtype=np.float64), np.float64(seen.shape[2])


def leading_chain(
    chain: Chain, sums: Sequence[np.ndarray], images: int, ends: Ends
) -> tuple[np.ndarray, ...]:
    """Both factors, float32, of the chain's shapes and ranks.

    sums: ``output_sums`` of what the dense layer makes of ``images`` images in the new net

    Few images say little of many outputs: their covariance is drawn towards W W^T, for which the
    chain is the truncated SVD of W, as ``decompose.metric`` draws those of patches towards I.
    """
    squares, total, count = sums
    scales = np.ones(len(chain.kernel)) if ends.weights is None else scales_of(ends.weights)
    rank, factors = chain.parts[0].out // chain.group, []
    blocks = (np.split(each, chain.group) for each in (chain.kernel, scales))
    for g, (block, scale) in enumerate(zip(*blocks)):
        rows = block.reshape(len(block), -1) * scale[:, None].astype(np.float32)
        alone = matmul(rows, np.ascontiguousarray(rows.T)).astype(np.float64)
        seen = squares[g] / count * np.outer(scale, scale)
        mean = total[g] / count * scale * ends.free_mean
        drawn = _drawn(seen, mean, alone, float(images * count) ** 0.5)
        leading = leading_columns(drawn.astype(np.float32), rank, [g])
        last = leading / scale[:, None].astype(np.float32)
        factors.append((matmul(np.ascontiguousarray(leading.T), rows), last))
    joined = (np.concatenate(each) for each in zip(*factors))
    shaped = [each.reshape(part.weight_shape) for each, part in zip(joined, chain.parts)]
    return evened(shaped, chain.parts)


def _drawn(seen: np.ndarray, mean: np.ndarray, alone: np.ndarray, samples: float) -> np.ndarray:
    """(T, T): the covariance of outputs of this mean y y^T and mean, drawn towards ``alone``."""
    covariance = seen - np.outer(mean, mean)
    if np.trace(covariance) <= ROUNDED * np.trace(seen):
        return alone
    share, size = shrinkage(covariance, samples), np.trace(covariance) / max(np.trace(alone), _TINY)
    return (1 - share) * covariance + share * size * alone
