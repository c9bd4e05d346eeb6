"""The output error of a layer under the second moments of its inputs: one metric for all schemes.

With x a patch of the input, as the kernel sees it, and C its covariance, a kernel that is off by
dW loses E ||dW x||^2 = tr(dW C dW^T).  Schemes minimise ||dW||^2, so they are given the kernel
W' = W L, C = L L^T, of which that is the output error, and their factors are mapped back by L^-1.
Every part of a chain may be mapped back on those input axes only that it sees itself, so C is
approximated by a Kronecker product with one term for each part that sees any (``Metric``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.linalg import blas, cholesky

from ..errors import DecomposeError
from .geometry import Part
from .truncated import matmul

Axes = tuple[int, ...]
"""Input axes of a kernel (T, S, D, E) without the outputs: 0 is S, 1 is D, 2 is E."""

LARGE = 2048
"""Numbers of a patch from which products with a covariance, which take nearly all of the time, are
made in float32: the Gram matrices that it is from are no more exact."""
FLOOR = 1e-6
"""The least eigenvalue of a covariance, over its norm, that a square root is taken of."""
ROUNDED = 1e-6
"""Variance over mean square below which inputs are constant: Gram matrices are float32."""


@dataclass(frozen=True, eq=False)
class Moments:
    """What images say of the patches that a layer sees, for each of its g groups.

    A patch has n = S / g * D * E numbers in the order of the kernel's axes (S, D, E), zero padding
    included, one patch for each output pixel.  Where ``of_outputs``, they are of what the layer
    puts out there instead, bias included: n = T / g (see ``outputs``).

    mean: (g, n) float64, the mean patch
    gram: (g, n, n) float64 or float32, the mean of x x^T, not centred
    count: patches; images: the images that they are from
    """

    mean: np.ndarray
    gram: np.ndarray
    count: int
    images: int
    of_outputs: bool = False

    def __post_init__(self):
        group, size = np.shape(self.mean)
        if np.shape(self.gram) != (group, size, size):
            raise DecomposeError(
                f"moments of {group} groups of {size} numbers: met a Gram matrix of shape "
                f"{np.shape(self.gram)}, expected ({group}, {size}, {size})"
            )
        if self.count < 1 or self.images < 1:
            raise DecomposeError(f"moments of {self.count} patches of {self.images} images: none")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.gram).all()):
            raise DecomposeError("moments with NaN or infinite values: the layer's inputs overflow")

    @property
    def samples(self) -> float:
        """As how many independent patches they count: the geometric mean of images and patches.

        Patches of one image are alike, but not the same.  On layers of a trained ResNet, with 5, 20
        and 100 images, errors on other images are then within a tenth of the least that any count
        gives; the images alone, as a count, shrink so much that few of them bring nothing.
        """
        return float(self.images * self.count) ** 0.5


@dataclass(frozen=True, eq=False)
class Metric:
    """How far apart two kernels of one layer are by what they make of its inputs.

    moments: of the layer's inputs
    centred: whether the mean of the outputs is free, as it is where a bias or the statistics of a
        BatchNorm take up what a kernel changes of it; the covariance is then that around the mean
    weights: (T,), what an error of each output counts; None where all count alike
    worth: what the net's outputs lose for each unit of the squared relative output error
    """

    moments: Moments
    centred: bool = True
    weights: np.ndarray | None = None
    worth: float = 1.0

    @property
    def group(self) -> int:
        """Groups of the layer."""
        return len(self.moments.mean)

    def fresh(self) -> Metric:
        """The same with nothing worked out, for one piece of work: the matrices that it works out
        are several times as large as what it keeps."""
        return replace(self)

    @cached_property
    def covariances(self) -> Sequence[np.ndarray]:
        """g times (n, n) float64: C of each group, exactly as the images have it."""
        if not self.centred:
            return np.asarray(self.moments.gram, np.float64)
        return [freed(self.moments, g) for g in range(self.group)]

    @cached_property
    def regular(self) -> Sequence[np.ndarray]:
        """g times (n, n): C shrunk towards a multiple of the identity, to be inverted."""
        return [shrunk(one, self.moments.samples) for one in self.covariances]

    @cached_property
    def scales(self) -> np.ndarray:
        """(T,): what every output is multiplied with; only its square root of ``weights``."""
        return scales_of(self.weights)

    def check(self, kernel: np.ndarray, group: int) -> None:
        """DecomposeError unless it is for a kernel (T, S / group, D, E) of so many groups."""
        size = int(np.prod(np.shape(kernel)[1:]))
        if self.moments.mean.shape != (group, size):
            raise DecomposeError(
                f"moments of {self.group} groups of {self.moments.mean.shape[1]} numbers: expected "
                f"{group} of {size}, as a kernel of shape {np.shape(kernel)} has them"
            )
        if self.weights is not None and np.shape(self.weights) != np.shape(kernel)[:1]:
            raise DecomposeError(
                f"{np.size(self.weights)} weights for {len(kernel)} outputs: expected one for each"
            )

    # -- the kernel that schemes are given, and the way back

    def whiten(self, kernel: np.ndarray, parts: Sequence[Part]) -> np.ndarray:
        """W' (T, S / group, D, E), float32, whose weights' error is W's output error.

        parts: the chain that is to replace W, at any rank.
        """
        found = np.asarray(kernel, np.float64)
        blocks = np.split(found, self.group)
        for g, block in enumerate(blocks):
            for axes, root in zip(seen_axes(parts), self._roots(g, kernel.shape[1:], parts)):
                blocks[g] = block = _times(block, axes, root)
        found = np.concatenate(blocks)
        if self.weights is not None:
            found = found * self.scales[:, None, None, None]
        return found.astype(np.float32)

    def unwhiten(
        self, factors: Sequence[np.ndarray], shape: Sequence[int], parts: Sequence[Part]
    ) -> tuple[np.ndarray, ...]:
        """The factors of W' as those of W, a kernel of ``shape``; float32."""
        found = [np.asarray(factor, np.float64) for factor in factors]
        seeing = [k for k, part in enumerate(parts) if k == 0 or part.kh * part.kw > 1]
        roots = [self._roots(g, shape[1:], parts) for g in range(self.group)]
        for term, k in enumerate(seeing):
            pieces = np.split(found[k], self.group)
            for g, piece in enumerate(pieces):
                root = roots[g][term]
                pieces[g] = _over(piece.reshape(-1, len(root)), root).reshape(piece.shape)
            found[k] = np.concatenate(pieces)
        if self.weights is not None:
            found[-1] = found[-1] / self.scales[:, None, None, None]
        return tuple(np.ascontiguousarray(factor, np.float32) for factor in found)

    def noise(self, outputs: int, random: np.random.Generator) -> np.ndarray:
        """A change (T, S / group * D * E) of a kernel, float64: as large in all its outputs, and in
        each of these as large for all that the images show of its inputs."""
        blocks = []
        for covariance in self.covariances:
            regular = shrunk(covariance, self.moments.samples).T
            root = cholesky(regular, lower=True, overwrite_a=True, check_finite=False)
            rows = random.standard_normal((outputs // self.group, len(root)))
            blocks.append(_over(rows, root))
        found = np.concatenate(blocks)
        return found if self.weights is None else found / self.scales[:, None]

    def _roots(self, g: int, sizes: Sequence[int], parts: Sequence[Part]) -> list[np.ndarray]:
        """L of each term of the Kronecker product, lower triangular; only the first has a size."""
        found = []
        for axes in seen_axes(parts):
            each = marginal(self.covariances[g], sizes, axes)
            if found:
                each = each / max(np.trace(each) / len(each), np.finfo(np.float64).tiny)
            # of a symmetric matrix the transpose, which LAPACK can overwrite without a copy
            each = shrunk(each, self.moments.samples).T
            found.append(cholesky(each, lower=True, overwrite_a=True, check_finite=False))
        return found

    # -- errors under the exact covariance

    def lost(self, difference: np.ndarray) -> float:
        """Mean squared change of the outputs, summed over them, for a change of the kernel."""
        total = 0.0
        for covariance, block in zip(self.covariances, self._rows(difference)):
            if len(covariance) > LARGE:
                block, covariance = block.astype(np.float32), covariance.astype(np.float32)
            total += float(np.einsum("ij,ij->", matmul(block, covariance), block, dtype=np.float64))
        return max(total, 0.0)

    def distance(self, kernel: np.ndarray, other: np.ndarray, whole: float | None = None) -> float:
        """Relative output error: the root of the mean squared change of the outputs over theirs.

        Exact on the images that the moments are of; 0 where the layer puts out nothing.  ``whole``
        is ``lost(kernel)`` where that is known already.
        """
        whole = self.lost(kernel) if whole is None else whole
        change = np.asarray(kernel, np.float64) - other
        return float(np.sqrt(self.lost(change) / whole)) if whole > 0 else 0.0

    def shift(self, kernel: np.ndarray, other: np.ndarray) -> np.ndarray:
        """(T,) float32, what the bias gains so that ``other`` keeps the mean of the outputs."""
        change = np.asarray(kernel, np.float64) - other
        blocks = np.split(change.reshape(len(change), -1), self.group)
        shifts = [block @ mean for block, mean in zip(blocks, self.moments.mean)]
        return np.concatenate(shifts).astype(np.float32)

    def _rows(self, kernel: np.ndarray) -> list[np.ndarray]:
        """The kernel of each group as a matrix (T / g, n), float64, with the outputs weighted."""
        rows = np.asarray(kernel, np.float64).reshape(len(kernel), -1)
        if self.weights is not None:
            rows = rows * np.sqrt(np.asarray(self.weights, np.float64))[:, None]
        return [np.ascontiguousarray(block) for block in np.split(rows, self.group)]


def freed(moments: Moments, g: int) -> np.ndarray:
    """The covariance (n, n) of one group, float64; 0 where all patches are alike."""
    mean, gram = moments.mean[g], moments.gram[g]
    found = np.multiply.outer(mean, mean)
    np.subtract(gram, found, out=found)
    if np.trace(found) <= ROUNDED * np.trace(gram):
        found[:] = 0
    return found


def scales_of(weights: np.ndarray) -> np.ndarray:
    """(T,) float64: the square roots of what outputs count, none of them 0."""
    weights = np.asarray(weights, np.float64)
    floor = FLOOR * max(float(weights.mean()), np.finfo(np.float32).tiny)
    return np.sqrt(np.maximum(weights, floor))


def seen_axes(parts: Sequence[Part]) -> list[Axes]:
    """Of each part that sees input axes, which: all channels the first, then who slides over them.

    ``cp3``: S, then D and E together; ``spatial``: S and D, then E; ``channel``: all at once.
    """
    found = []
    for k, part in enumerate(parts):
        axes = (0,) * (k == 0) + (1,) * (part.kh > 1) + (2,) * (part.kw > 1)
        if axes:
            found.append(axes)
    return found


def marginal(covariance: np.ndarray, sizes: Sequence[int], axes: Axes) -> np.ndarray:
    """The covariance (m, m) over some axes of patches of ``sizes``: its mean over all others."""
    one, other = "sde", "".join("SDE"[k] if k in axes else "sde"[k] for k in range(3))
    kept = "".join(one[k] for k in axes) + "".join(other[k] for k in axes)
    m = int(np.prod([sizes[axis] for axis in axes]))
    found = np.einsum(f"{one}{other}->{kept}", covariance.reshape(*sizes, *sizes))
    return found.reshape(m, m) / (len(covariance) // m)


def shrunk(covariance: np.ndarray, samples: float) -> np.ndarray:
    """(1 - p) C + p mu I, mu the mean eigenvalue of C (n, n), p its ``shrinkage``.

    Positive definite: at the least p mu is 1e-6 of the norm of C, above what rounding can make of
    an eigenvalue of zero.
    """
    n = len(covariance)
    mu = float(np.trace(covariance)) / n
    if not mu > 0:
        return np.eye(n)
    p = shrinkage(covariance, samples)
    found = (1 - p) * covariance
    np.einsum("ii->i", found)[:] += p * mu
    return found


def shrinkage(covariance: np.ndarray, samples: float) -> float:
    """p of oracle approximating shrinkage (Chen, Wiesel, Eldar, Hero 2010, equation 23).

    C is (n, n).  Made for few Gaussian samples: it falls with their number, to 1e-6 of |C| / mu; it
    is 1 for C = 0.
    """
    n = len(covariance)
    mu = float(np.trace(covariance)) / n
    if not mu > 0:
        return 1.0
    squares = float(np.einsum("ij,ij->", covariance, covariance)) / mu**2
    wanted = (1 - 2 / n) * squares + n * n
    p = wanted / max((samples + 1 - 2 / n) * (squares - n), 1e-300)
    return min(max(p, FLOOR * squares**0.5), 1.0)


def _times(block: np.ndarray, axes: Axes, root: np.ndarray) -> np.ndarray:
    """A kernel (T, S, D, E) whose input axes are multiplied by L."""
    places = [1 + axis for axis in axes]
    order = [axis for axis in range(4) if axis not in places] + places
    turned = block.transpose(order)
    rows = np.ascontiguousarray(turned.reshape(-1, len(root)))
    return matmul(rows, root).reshape(turned.shape).transpose(np.argsort(order))


def _over(rows: np.ndarray, root: np.ndarray) -> np.ndarray:
    """rows L^-1."""
    return blas.dtrsm(1.0, root, rows, side=1, lower=1)
