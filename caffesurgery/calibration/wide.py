"""Layers whose patches are too large for a covariance, known by what they put out instead."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..decompose.metric import Moments
from ..decompose.outputs import OutputMetric, sees_patches
from .chains import Chain, Ends

_LARGEST = 8192
"""Outputs of a group, at most: their covariance and that of its weights are 512 MiB of float32."""


def is_told(outputs: int) -> bool:
    """Whether a covariance of so many outputs is not too large either."""
    return outputs <= _LARGEST


def is_wide(chain: Chain) -> bool:
    """Whether a chain can be found by what its layer puts out."""
    return sees_patches(chain.parts) and is_told(len(chain.kernel) // chain.group)


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
    """
    squares, total, count = sums
    moments = Moments(total / count, squares / count, int(count), images, of_outputs=True)
    metric = OutputMetric.of(chain.kernel, moments, ends.free_mean, ends.weights)
    return metric.factors(chain.kernel, chain.parts)
