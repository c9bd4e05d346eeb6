"""How well a decomposition stands small changes of its weights, and when it is degenerate.

In: the factors of a chain, or the norms of CP components; out: numbers to report, and a sentence
where fine-tuning is likely to diverge (the instability of papers 000 and 002).  The sensitivity
is that of Phan et al. 2020, "Stable low-rank tensor decomposition for compression of CNN".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .compose import compose
from .truncated import matmul

CANCELLING = 5.0
"""Norms this many times larger, in sum, than R orthogonal components could have: degenerate."""


def sensitivity(factors: Sequence[np.ndarray], parts: Sequence, group: int) -> float:
    """E ||What' - What||^2 / v when every weight of the chain gets noise of small variance v.

    factors: arrays of the parts' ``weight_shape``; group: groups of the dense layer.  Summed over
    all parts and weights, that is the squared norm of the derivative of the composed kernel.
    """
    sizes = [float(np.linalg.norm(factor)) or 1.0 for factor in factors]
    total = 0.0
    for g in range(group):
        blocks, depthwise = [], []
        for factor, size, part in zip(factors, sizes, parts):
            rows = part.out // group
            blocks.append(factor[g * rows : (g + 1) * rows] / np.float32(size))
            depthwise.append(part.group > group)
        before = _squares(blocks, depthwise)
        flipped = [b if d else b.swapaxes(0, 1) for b, d in zip(blocks, depthwise)]
        after = _squares(flipped[::-1], depthwise[::-1])[::-1]
        for block, single, left, right, size in zip(blocks, depthwise, before, after, sizes):
            taps = block.shape[2] * block.shape[3]
            seen = np.ones(block.shape[1]) if left is None else left
            used = np.ones(block.shape[0]) if right is None else right
            reach = float(seen @ used) if single else float(seen.sum() * used.sum())
            total += taps * reach / size**2
    return total * float(np.prod(np.square(sizes)))


def component_norms(factors: Sequence[np.ndarray], parts: Sequence, group: int) -> np.ndarray:
    """(R,) norms of the components of a CP, wherever its depthwise layers stand in the chain."""
    single = [k for k, part in enumerate(parts) if part.group == part.inp == part.out > group]
    first, last = (single[0], single[-1] + 1) if single else (1, 1)
    before = compose(factors[:first], parts[:first], group)
    after = compose(factors[last:], parts[last:], group).reshape(group, -1, len(before) // group)
    norms = np.linalg.norm(before.reshape(len(before), -1).astype(np.float64), axis=1)
    norms *= np.linalg.norm(after.astype(np.float64), axis=1).ravel()
    for factor in factors[first:last]:
        norms *= np.linalg.norm(factor.reshape(len(factor), -1).astype(np.float64), axis=1)
    return norms


def _squares(blocks: Sequence[np.ndarray], depthwise: Sequence[bool]) -> list[np.ndarray | None]:
    """For each block the squared norms of what stands before its channels; None where all are 1.

    A layer that mixes channels needs their whole Gram matrix, others its diagonal alone.
    """
    found, gram = [None], None
    for k, (block, single) in enumerate(zip(blocks[:-1], depthwise)):
        only = all(depthwise[k + 1 : -1])
        gram = (_scaled if single else _mixed)(block, gram, only)
        found.append(gram if only else np.diag(gram))
    return found


def _scaled(block: np.ndarray, gram: np.ndarray | None, only: bool) -> np.ndarray:
    """The Gram matrix behind a depthwise layer, or only its diagonal."""
    patterns = block.reshape(len(block), -1)
    if only:
        own = np.einsum("ri,ri->r", patterns, patterns)
        return own if gram is None else own * (np.diag(gram) if gram.ndim == 2 else gram)
    own = matmul(patterns, patterns.T)
    return own if gram is None else own * gram


def _mixed(block: np.ndarray, gram: np.ndarray | None, only: bool) -> np.ndarray:
    """The same behind a layer that mixes channels."""
    taps = np.ascontiguousarray(block.transpose(2, 3, 0, 1)).reshape(-1, *block.shape[:2])
    seen = taps if gram is None else [matmul(tap, gram.astype(np.float32)) for tap in taps]
    if only:
        return sum(np.einsum("ts,ts->t", s, t) for s, t in zip(seen, taps))
    return sum(matmul(np.ascontiguousarray(s), t.T) for s, t in zip(seen, taps))


def warning(norm_ratio: float, rank: int, max_norm: float | None) -> str | None:
    """A sentence for a CP of ``rank`` components that cancel or exceed ``max_norm``; or None.

    norm_ratio: the sum of the components' norms over the norm of the kernel; at most the root of
    the rank for components that are orthogonal.
    """
    if max_norm is not None and norm_ratio > max_norm * (1 + 1e-6):
        return (
            f"the norms of its components sum to {norm_ratio:.3g} times that of the kernel, above "
            f"the bound of {max_norm:g}; only cp3, cp4 and tucker2-cp are "
            "held to a bound"
        )
    if norm_ratio > CANCELLING * np.sqrt(rank):
        return (
            f"degenerate: the norms of its {rank} components sum to {norm_ratio:.3g} times that "
            "of the kernel, so they cancel each other and fine-tuning may diverge; use cp3 or cp4, "
            "or bound the norms"
        )
    return None
