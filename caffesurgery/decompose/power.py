"""The tensor power method on one kernel: greedy rank-1 deflation (paper 000, Algorithm 1).

The kernel is laid out as (D E, T, S), so that both contractions of a sweep are one gemv over
contiguous memory and the deflation is one ger in place; all of them through SciPy's BLAS.
On small kernels most of the time would go into calling BLAS from Python on some hundred bytes, so
that a component is found by the C extension ``caffesurgery._power``, which makes the same calls;
where it was not built, or with ``CAFFESURGERY_PURE=1`` in the environment, by what stands here.

Where SciPy's BLAS is set to use several threads, the extension makes the products itself, in as
many threads for large kernels and in one for small: threads that BLAS starts in each product gain
little here.  A thread has a range of the outputs, whose part of the kernel stays in its core's
caches.  Results are then those of BLAS within rounding, and the same for the same number.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
from scipy.linalg import blas, eigh, lapack

from ..compiled import extension
from ..workers.threads import scipy_threads
from .truncated import squared_norm

_power = extension("_power")
backend = "Python" if _power is None else "C"

_GAIN = 5e-3  # a component is found when a sweep raises its squared norm by less
_SMALL, _LESS = 1 << 16, 1e-3  # kernels of so few numbers, and their gain: they cost little
_POLISH = 2  # alternations between two vectors for each pass over the kernel
_STARTS = 4  # leading eigenvectors of the residual's spatial Gram matrix to start from
_SWEEPS = 50
_FRESH = 32  # components between two computations of the Gram matrix from the residual
_NOISE = 1e-13  # squared norms below this share of the kernel's are float32 rounding
_TINY = 1e-35  # norms whose inverse is not a float32
_WORTH = 1 << 16  # numbers of the kernel for each thread: for less it waits as long as it works
_MOST, _APART = 64, 16  # as in C: threads, and what their vectors' lengths are multiples of


class Deflation:
    """Components of a kernel (T, S, D, E), taken off one by one: norms d and unit vectors.

    The vectors are those of the modes (S, D E, T) for 3 ways, (S, D, E, T) for 4.  Keeps one
    float32 copy of the kernel, the residual.  Ends when that is rounding noise.
    """

    def __init__(self, block: np.ndarray, ways: int):
        self._rest = (_Merged if ways == 3 else _Separate)(block)

    def __iter__(self) -> Iterator[tuple[float, tuple[np.ndarray, ...]]]:
        rest, total = self._rest, None
        for r in count():
            if r % _FRESH == 0:
                small = rest.gram().astype(np.float64)
                total = total or float(np.trace(small))
            weight = rest.component(_leading(small))
            if weight**2 <= _NOISE * total:
                return
            yield weight, rest.vectors()
            # G = X X' of X - d c p': minus c h' + h c' with h = d X p - d^2 c / 2.
            shape = rest.shape.astype(np.float64)
            half = weight * rest.image - weight**2 / 2 * shape
            blas.dsyr2(-1.0, shape, half, a=small, overwrite_a=1)

    @property
    def lost(self) -> float:
        """The squared norm of what is left; each component adds a rounding error to that."""
        return squared_norm(self._rest.cube)


def _threads(outputs: int, size: int) -> int:
    """Threads of the C extension for a kernel of such a size; 0 where BLAS is to do the work."""
    threads = 1 if _power is None else scipy_threads()
    return 0 if threads == 1 else max(1, min(outputs, size // _WORTH, _MOST, threads))


def _leading(small: np.ndarray) -> np.ndarray:
    """Some eigenvectors of the largest eigenvalues of a matrix (K, K), upper triangle: (n, K)."""
    _, vectors, failed = lapack.dsyevd(small, lower=0)  # eigh's checks take as long as the work
    if failed:
        vectors = eigh(small, lower=False)[1]
    return vectors.T[-_STARTS:].astype(np.float32, order="C")


class _Merged:
    """What is left of a kernel, and the component that is sought in it: its vectors, in ``work``.

    ``by_pair`` (T S, K) and ``by_input`` (S, K T) are views of the residual in Fortran order,
    K = D E.  ``pairs`` and ``plane`` take them contracted with inputs and with the spatial pattern;
    ``seen`` (T, K) and ``matrix`` (S, T) are views of these.  ``image`` (K,) takes the residual
    contracted with inputs and outputs; ``shape`` (K,), of norm 1, is the spatial pattern.
    """

    separate = False

    def __init__(self, block: np.ndarray):
        T, S, D, E = self.sizes = block.shape
        K = D * E
        self.cube = np.array(block.transpose(2, 3, 0, 1), np.float32, order="C")
        self.by_pair = self.cube.reshape(K, T * S).T
        self.by_input = self.cube.reshape(K * T, S).T
        self.threads = _threads(T, block.size)
        # Each thread of the C extension has vectors of its own, from the inputs on; behind them it
        # keeps those of the best start, and has two places for what it shows the others.
        own = (S + 2 * K + D + E) + (S + T + K + D + E) + 2 * max(S, K)
        own = (own + 2 * _APART - 1) // _APART * _APART
        parts = np.cumsum([K * T, T * S, T, S, K, K, D, E])
        self.work = np.zeros(parts[2] + max(1, self.threads) * own, np.float32)
        (
            self.pairs, self.plane, self.outputs, self.inputs, self.image, self.shape,
            self.vertical, self.horizontal, _,
        ) = np.split(self.work, parts)  # fmt: skip
        self.seen, self.matrix = self.pairs.reshape(K, T).T, self.plane.reshape(T, S).T

    def gram(self) -> np.ndarray:
        """The residual's spatial Gram matrix (K, K), its upper triangle; in Fortran order.

        BLAS would let its threads wait for more, each on a processor, for some hundredths of a
        second.
        """
        if not self.threads:
            return blas.ssyrk(1.0, self.by_pair, trans=1)
        small = np.zeros((self.shape.size, self.shape.size), np.float32)
        _power.gram(self.cube, self.work, small, self.sizes, self.threads)
        return small.T

    def component(self, starts: np.ndarray) -> float:
        """Finds a best rank-1 approximation by alternations, and takes it off; returns its norm d.

        starts: (n, K) spatial patterns to begin with.  ``image`` is then what the residual was,
        contracted with the unit vectors of inputs and outputs; its best approximation of its kind
        is d shape.
        """
        gain = _LESS if self.by_pair.size <= _SMALL else _GAIN
        if _power is None:
            weight = self._component(starts, gain)
            self._deflate(weight)
            return weight
        limits = _POLISH, _SWEEPS, gain, _TINY
        return _power.component(
            self.cube, self.work, starts, self.sizes, self.separate, *limits, self.threads
        )

    def _component(self, starts: np.ndarray, gain: float) -> float:
        """Finds it in Python."""
        seen, inputs, outputs, image, shape = (
            self.seen, self.inputs, self.outputs, self.image, self.shape,
        )  # fmt: skip
        self._start(starts)
        before = 0.0
        for _ in range(_SWEEPS):
            _times(self.by_input, inputs, self.pairs, 1)
            for _ in range(_POLISH):
                _times(seen, outputs, image, 1)
                self._pattern()
                _times(seen, shape, outputs)
            _unit(outputs)
            _times(seen, outputs, image, 1)
            weight = self._pattern()
            if weight**2 - before <= gain * weight**2:
                break
            before = weight**2
            _times(self.by_pair, shape, self.plane)
            self._pair()
        return weight

    def _deflate(self, weight: float) -> None:
        """Takes it off in Python."""
        self.plane.fill(0)
        blas.sger(1.0, self.inputs, self.outputs, 1, 1, self.matrix, 1, 1, 1)
        blas.sger(-weight, self.plane, self.shape, 1, 1, self.by_pair, 1, 1, 1)

    def vectors(self) -> tuple[np.ndarray, ...]:
        """Copies of the component's unit vectors, in the order of the modes."""
        return tuple(vector.copy() for vector in (self.inputs, *self._spatial(), self.outputs))

    def _start(self, starts: np.ndarray) -> None:
        """Vectors from the most promising of the spatial patterns."""
        best = -1.0
        for start in starts:
            np.copyto(self.image, start)
            self._anew()
            _times(self.by_pair, self.shape, self.plane)
            rows = self.matrix.T
            np.copyto(self.inputs, rows[np.einsum("ts,ts->t", rows, rows).argmax()])
            weight = self._pair()
            if not weight <= best:
                best, found = weight, self.vectors()
        for vector, value in zip((self.inputs, *self._spatial(), self.outputs), found):
            np.copyto(vector, value)

    def _pair(self) -> float:
        """Singular vectors of ``matrix`` by some alternations, from ``inputs``; its norm there."""
        for _ in range(_POLISH):
            _times(self.matrix, self.inputs, self.outputs, 1)
            _times(self.matrix, self.outputs, self.inputs)
            norm = _unit(self.inputs)
        return norm / max(_unit(self.outputs), _TINY)

    def _anew(self) -> None:
        """The spatial pattern of ``image``, with nothing near it known."""
        self._pattern()

    def _pattern(self) -> float:
        """The spatial pattern best for ``image``; returns the norm there."""
        np.copyto(self.shape, self.image)
        return _unit(self.shape)

    def _spatial(self) -> tuple[np.ndarray, ...]:
        return (self.shape,)


class _Separate(_Merged):
    """The same with one vector for each spatial axis, whose product the pattern is."""

    separate = True

    def __init__(self, block: np.ndarray):
        super().__init__(block)
        D, E = block.shape[2:]
        self.columns, self.product = (v.reshape(D, E).T for v in (self.image, self.shape))

    def _anew(self):
        rows = self.columns.T
        np.copyto(self.horizontal, rows[np.einsum("de,de->d", rows, rows).argmax()])
        for _ in range(_POLISH):
            self._pattern()

    def _pattern(self):
        """One alternation from the vectors that are there."""
        _times(self.columns, self.horizontal, self.vertical, 1)
        _unit(self.vertical)
        _times(self.columns, self.vertical, self.horizontal)
        norm = _unit(self.horizontal)
        self.shape.fill(0)
        blas.sger(1.0, self.horizontal, self.vertical, 1, 1, self.product, 1, 1, 1)
        return norm

    def _spatial(self):
        return self.vertical, self.horizontal


def _times(matrix: np.ndarray, vector: np.ndarray, out: np.ndarray, turned: int = 0) -> None:
    """out = matrix vector, or matrix' vector where ``turned``; a matrix in Fortran order.

    By position: with names the call takes three times as long.
    """
    blas.sgemv(1.0, matrix, vector, 0.0, out, 0, 1, 0, 1, turned, 1)


def _unit(vector: np.ndarray) -> float:
    """Divides a contiguous float32 vector by its norm, in place; returns the norm."""
    norm = blas.snrm2(vector)
    if norm > _TINY:
        blas.sscal(1 / norm, vector)
    return norm
