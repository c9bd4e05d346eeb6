"""The tensor power method on one kernel: greedy rank-1 deflation (paper 000, Algorithm 1).

The kernel is laid out as (D E, T, S), so that both contractions of a sweep are one gemv over
contiguous memory and the deflation is one ger in place; all of them through SciPy's BLAS.
On small kernels half of the time goes into vectors of some hundred bytes, so these are scaled in
place and contracted by BLAS calls without NumPy's operators, which cost several times as much.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count
from operator import itemgetter

import numpy as np
from scipy.linalg import blas, eigh, lapack

_GAIN = 5e-3  # a component is found when a sweep raises its squared norm by less
_POLISH = 2  # alternations between two vectors for each pass over the kernel
_STARTS = 4  # leading eigenvectors of the residual's spatial Gram matrix to start from
_SWEEPS = 50
_FRESH = 32  # components between two computations of the Gram matrix from the residual
_NOISE = 1e-13  # squared norms below this share of the kernel's are float32 rounding
_TINY = 1e-35  # norms whose inverse is not a float32


def components(block: np.ndarray, ways: int) -> Iterator[tuple[float, tuple[np.ndarray, ...]]]:
    """Components of a kernel (T, S, D, E), one by one: norm d and unit vectors.

    The vectors are those of the modes (S, D E, T) for 3 ways, (S, D, E, T) for 4.  Keeps one
    float32 copy of the kernel, the residual.  Ends when that is rounding noise.
    """
    T, S, D, E = block.shape
    K = D * E
    cube = np.array(block.transpose(2, 3, 0, 1), np.float32, order="C").reshape(K, T, S)
    flat = cube.reshape(K, T * S).T
    spatial = _merged if ways == 3 else partial(_separate, D=D, E=E)
    total = None
    for r in count():
        if r % _FRESH == 0:
            small = blas.ssyrk(1.0, flat, trans=1).astype(np.float64)
            total = total or float(np.trace(small))
        weight, inputs, outputs, vectors, shape, image = _rank_one(cube, _leading(small), spatial)
        if weight**2 <= _NOISE * total:
            return
        yield weight, (inputs, *vectors, outputs)
        pairs = np.multiply.outer(outputs, inputs).ravel()
        blas.sger(-weight, pairs, shape, a=flat, overwrite_a=1)
        # G = X X' of X - d c p': minus d (c g' + g c') plus d^2 c c', with g = X p.
        crossed = np.multiply.outer(weight * shape.astype(np.float64), image)
        small += weight**2 * np.multiply.outer(shape, shape) - crossed - crossed.T


def _leading(small: np.ndarray) -> np.ndarray:
    """Some eigenvectors of the largest eigenvalues of a matrix (K, K), upper triangle: (K, n)."""
    K = len(small)
    least = max(1, K - _STARTS + 1)  # LAPACK itself: eigh's own checks take as long as the work
    _, vectors, found, _, failed = lapack.dsyevr(small, range="I", lower=0, il=least, iu=K)
    if failed:
        vectors, found = eigh(small, lower=False)[1][:, least - 1 :], K - least + 1
    return vectors[:, :found].astype(np.float32)


def _rank_one(cube: np.ndarray, starts: np.ndarray, spatial):
    """A best rank-1 approximation of ``cube`` (K, T, S) by alternating maximisation.

    starts: (K, n) spatial patterns to begin with.  Returns the norm d, the unit vectors of
    inputs and outputs, the spatial vectors, their product c (K,), and the cube contracted with
    inputs and outputs (K,), whose best approximation of its kind is d c.
    """
    K, T, S = cube.shape
    by_input, by_pair = cube.reshape(K * T, S).T, cube.reshape(K, T * S).T
    inputs, outputs, vectors = _start(cube, starts, spatial)
    before = 0.0
    for _ in range(_SWEEPS):
        seen = blas.sgemv(1.0, by_input, inputs, trans=1).reshape(K, T).T
        for _ in range(_POLISH):
            _, vectors, shape = spatial(blas.sgemv(1.0, seen, outputs, trans=1), vectors)
            outputs = blas.sgemv(1.0, seen, shape)
        outputs = _unit(outputs)
        image = blas.sgemv(1.0, seen, outputs, trans=1)
        weight, vectors, shape = spatial(image.copy(), vectors)
        if weight**2 - before <= _GAIN * weight**2:
            break
        before = weight**2
        seen = blas.sgemv(1.0, by_pair, shape).reshape(T, S).T
        inputs, outputs = _pair(seen, inputs, _POLISH)
    return weight, inputs, outputs, vectors, shape, image


def _start(cube: np.ndarray, starts: np.ndarray, spatial):
    """Input, output and spatial vectors of the most promising of the spatial patterns."""
    K, T, S = cube.shape
    by_pair = cube.reshape(K, T * S).T
    best = -1.0, None
    for start in starts.T:
        _, vectors, shape = spatial(np.ascontiguousarray(start))
        seen = blas.sgemv(1.0, by_pair, shape).reshape(T, S)
        largest = seen[np.argmax(np.einsum("ts,ts->t", seen, seen))]
        inputs, outputs = _pair(seen.T, largest, _POLISH)
        weight = float(blas.snrm2(blas.sgemv(1.0, seen.T, outputs)))
        best = max(best, (weight, (inputs, outputs, vectors)), key=itemgetter(0))
    return best[1]


def _pair(seen: np.ndarray, inputs: np.ndarray, times: int) -> tuple[np.ndarray, np.ndarray]:
    """Singular vectors of ``seen`` (S, T) by as many alternations, from an input vector."""
    for _ in range(times):
        outputs = blas.sgemv(1.0, seen, inputs, trans=1)
        inputs = _unit(blas.sgemv(1.0, seen, outputs))
    return inputs, _unit(outputs)


def _merged(image: np.ndarray, near=None):
    """Norm, vectors and their product for one spatial mode of size D E; overwrites the image."""
    norm = blas.snrm2(image)
    shape = blas.sscal(1 / norm, image) if norm > _TINY else image
    return norm, (shape,), shape


def _separate(image: np.ndarray, near=None, *, D: int, E: int):
    """The same for two modes: a rank-1 approximation of the D x E image.

    The best one, or one alternation from vectors ``near`` it.
    """
    image = image.reshape(D, E)
    if near is None:
        horizontal = image[np.argmax(np.einsum("de,de->d", image, image))]
    else:
        horizontal = near[1]
    columns = image.T
    for _ in range(_POLISH if near is None else 1):
        vertical = _unit(blas.sgemv(1.0, columns, horizontal, trans=1))
        horizontal = blas.sgemv(1.0, columns, vertical)
    norm = blas.snrm2(horizontal)
    horizontal = _unit(horizontal)
    return norm, (vertical, horizontal), (vertical[:, None] * horizontal).ravel()


def _unit(vector: np.ndarray) -> np.ndarray:
    """A contiguous float32 vector over its norm, in place."""
    norm = blas.snrm2(vector)
    return blas.sscal(1 / norm, vector) if norm > _TINY else vector
