"""The way back: a chain of small kernels composed to the one dense kernel that does the same.

Needs no knowledge of the scheme, only the parts' groups and kernel sizes, so it serves to
restore a decomposed net and to check that every scheme's chain means what its equations say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import DecomposeError


def compose(factors: Sequence[np.ndarray], parts: Sequence, group: int = 1) -> np.ndarray:
    """Dense kernel (T, S / group, D, E), float32, of a chain of parts (first to last).

    factors: one array for each part, of its ``weight_shape``; group: groups of the dense layer,
    which divide the groups of every part.  At most one part may be larger than 1 on each spatial
    axis: only then is the chain's stride and dilation that of one convolution.  DecomposeError
    for chains that do not fit together.
    """
    _check(factors, parts, group)
    blocks = []
    for g in range(group):
        dense = None
        for factor, part in zip(factors, parts):
            factor = np.asarray(factor, np.float32)
            out = part.out // group
            factor = factor[g * out : (g + 1) * out]
            dense = factor if dense is None else _after(dense, factor, part.group // group)
        blocks.append(dense)
    return np.concatenate(blocks) if group > 1 else blocks[0]


def _after(dense: np.ndarray, factor: np.ndarray, group: int) -> np.ndarray:
    """Kernel of ``dense`` (P, S, D, E) followed by ``factor`` (O, P / group, A, B)."""
    P, S, D, E = dense.shape
    O, inner, A, B = factor.shape  # noqa: E741
    left = factor.reshape(group, O // group, inner, A * B).transpose(0, 1, 3, 2)
    left = left.reshape(group, O // group * A * B, inner)
    product = np.matmul(left, dense.reshape(group, inner, S * D * E))
    product = product.reshape(O, A, B, S, D, E).transpose(0, 3, 1, 4, 2, 5)
    return product.reshape(O, S, A * D, B * E)


def _check(factors: Sequence[np.ndarray], parts: Sequence, group: int) -> None:
    if len(factors) != len(parts) or not parts:
        raise DecomposeError(f"{len(factors)} factors for a chain of {len(parts)} layers")
    for factor, part in zip(factors, parts):
        if np.shape(factor) != part.weight_shape:
            raise DecomposeError(
                f"factor {part.suffix} has shape {np.shape(factor)}, expected {part.weight_shape}"
            )
    for part, following in zip(parts, parts[1:]):
        if part.out != following.inp:
            raise DecomposeError(
                f"{part.suffix} gives {part.out} channels, {following.suffix} takes {following.inp}"
            )
    if parts[0].group != group or any(part.group % group for part in parts):
        raise DecomposeError(
            f"groups {[part.group for part in parts]} of the chain do not split into the "
            f"{group} groups of the dense layer"
        )
    if sum(part.kh > 1 for part in parts) > 1 or sum(part.kw > 1 for part in parts) > 1:
        raise DecomposeError(
            "two layers of the chain are larger than 1 on one spatial axis: "
            "their strides and dilations do not compose to one kernel"
        )
