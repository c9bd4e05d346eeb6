"""The tensor power method on one kernel: greedy rank-1 deflation (paper 000, Algorithm 1).

The kernel is laid out as (D E, T, S), so that both contractions of a sweep are one gemv over
contiguous memory and the deflation is one ger in place; all of them through SciPy's BLAS.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.linalg import blas, eigh

_GAIN = 1e-3  # a component is found when a sweep raises its squared norm by less
_POLISH = 2  # alternations between two vectors for each pass over the kernel
_SWEEPS = 50
_FRESH = 32  # components between two computations of the Gram matrix from the residual
_NOISE = 1e-13  # squared norms below this share of the kernel's are float32 rounding


def components(block: np.ndarray, ways: int) -> Iterator[tuple[float, tuple[np.ndarray, ...]]]:
    """Components of a kernel (T, S, D, E), one by one: norm d and unit vectors.

    The vectors are those of the modes (S, D E, T) for 3 ways, (S, D, E, T) for 4.  Keeps one
    float32 copy of the kernel, the residual.  Ends when that is rounding noise.
    """
    T, S, D, E = block.shape
    K = D * E
    cube = np.array(block.transpose(2, 3, 0, 1), np.float32, order="C").reshape(K, T, S)
    flat = cube.reshape(K, T * S)
    spatial = _merged if ways == 3 else lambda g: _separate(g, D, E)
    total = None
    for r in range(T * S * K):
        if r % _FRESH == 0:
            small = np.array(blas.ssyrk(1.0, flat.T, trans=1), np.float64)
            total = total or np.trace(small)
        start = eigh(small, lower=False, subset_by_index=[K - 1, K - 1])[1][:, 0]
        weight, inputs, image, outputs, vectors, shape = _rank_one(cube, start, spatial)
        if weight**2 <= _NOISE * total:
            return
        yield weight, (inputs, *vectors, outputs)
        outer = np.multiply.outer(outputs, inputs).ravel()
        blas.sger(-weight, outer, shape, a=flat.T, overwrite_x=0, overwrite_y=0, overwrite_a=1)
        crossed = np.multiply.outer(weight * shape.astype(np.float64), image)
        small += weight**2 * np.multiply.outer(shape, shape) - crossed - crossed.T


def _rank_one(cube: np.ndarray, start: np.ndarray, spatial):
    """A best rank-1 approximation of ``cube`` (K, T, S) by alternating maximisation.

    Returns norm, input vector, the contraction of the cube with inputs and outputs, output
    vector, the spatial vectors and their product (K,).
    """
    K, T, S = cube.shape
    flat, tall = cube.reshape(K, T * S).T, cube.reshape(K * T, S).T
    outputs, before = None, 0.0
    _, vectors, shape = spatial(start.astype(np.float32))
    for _ in range(_SWEEPS):
        seen = blas.sgemv(1.0, flat, shape).reshape(T, S).T
        if outputs is None:
            inputs = seen[:, np.argmax(np.einsum("st,st->t", seen, seen))]
            for _ in range(_POLISH):
                outputs = _unit(blas.sgemv(1.0, seen, inputs, trans=1))
                inputs = blas.sgemv(1.0, seen, outputs)
        for _ in range(_POLISH):
            inputs = _unit(blas.sgemv(1.0, seen, outputs))
            outputs = _unit(blas.sgemv(1.0, seen, inputs, trans=1))
        seen = blas.sgemv(1.0, tall, inputs, trans=1).reshape(K, T).T
        for _ in range(_POLISH):
            weight, vectors, shape = spatial(blas.sgemv(1.0, seen, outputs, trans=1))
            outputs = _unit(blas.sgemv(1.0, seen, shape))
        image = blas.sgemv(1.0, seen, outputs, trans=1)
        weight, vectors, shape = spatial(image)
        if weight**2 - before <= _GAIN * weight**2:
            break
        before = weight**2
    return weight, inputs, image, outputs, vectors, shape


def _merged(image: np.ndarray):
    """Norm, vectors and their product for one spatial mode of size D E."""
    norm = float(blas.snrm2(image))
    shape = image / np.float32(norm or 1)
    return norm, (shape,), shape


def _separate(image: np.ndarray, D: int, E: int):
    """The same for two modes: the best rank-1 approximation of the D x E image."""
    left, values, right = np.linalg.svd(image.reshape(D, E))
    vertical, horizontal = left[:, 0], right[0]
    return float(values[0]), (vertical, horizontal), np.outer(vertical, horizontal).ravel()


def _unit(vector: np.ndarray) -> np.ndarray:
    norm = blas.snrm2(vector)
    return vector / np.float32(norm) if norm > 0 else vector
