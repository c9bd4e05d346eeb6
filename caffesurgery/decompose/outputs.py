"""The output error of a layer under the second moments of what it puts out itself.

Patches of n numbers need a covariance C (n, n), which is too large for the first fully connected
layers of some nets.  That of the outputs, W C W^T, is small, and tells all that there is to know
where the first layer of a chain of two sees whole patches: of all kernels of rank R, U U^T W loses
least under C, U the leading eigenvectors of W C W^T.  So that chain is U after U^T W.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import blas, cholesky

from . import stability
from .compose import compose
from .evened import evened
from .geometry import Part
from .metric import FLOOR, Metric, Moments, freed, scales_of, seen_axes, shrinkage
from .outcome import Decomposition
from .truncated import leading_columns, matmul, squared_norm

_TINY = float(np.finfo(np.float32).tiny)


def sees_patches(parts: Sequence[Part]) -> bool:
    """Whether a chain is of two layers of which the first sees whole patches."""
    return len(parts) == 2 and len(seen_axes(parts)) == 1


@dataclass(frozen=True, eq=False)
class OutputMetric:
    """How far chains of two, whose first layer sees whole patches, are from the layer W.

    exact: (g, T / g, T / g) float32, the covariance of what W makes, as the images have it, each
        output times its scale
    regular: the same, drawn towards W W^T where images are few: for that the best chain is the
        truncated SVD of W, as for no images it should be
    scales: (T,) float64, the roots of what errors of the outputs count
    mean: (T,) float64, the mean of what W makes, without its bias; None where it is not free to
        change
    worth: what the net's outputs lose for each unit of the squared relative output error
    """

    exact: np.ndarray
    regular: np.ndarray
    scales: np.ndarray
    mean: np.ndarray | None
    worth: float = 1.0

    @classmethod
    def of(
        cls,
        kernel: np.ndarray,
        moments: Moments,
        centred: bool = True,
        weights: np.ndarray | None = None,
        bias: np.ndarray | float = 0.0,
    ) -> OutputMetric:
        """Of a kernel (T, ...) and the moments of what its layer puts out, with its bias.

        centred, weights: as in ``Metric``
        """
        group, size = moments.mean.shape
        scales = np.ones(len(kernel)) if weights is None else scales_of(weights)
        exact, regular = np.empty((2, group, size, size), np.float32)
        rows = kernel.reshape(group, size, -1)
        for g, scale in enumerate(scales.reshape(group, size)):
            both = np.multiply.outer(scale, scale)
            seen = both * (freed(moments, g) if centred else moments.gram[g])
            alone = both * matmul(rows[g], rows[g].T)
            exact[g], regular[g] = seen, _drawn(seen, alone, moments.samples)
        mean = moments.mean.reshape(-1) - bias if centred else None
        return cls(exact, regular, scales, mean)

    def root(self) -> np.ndarray:
        """What stands for the kernel W L, C = L L^T, under the covariance C of the patches: one of
        (T, T / g, 1, 1), float32, with its singular values, by which alone these chains are chosen.
        """
        roots = np.concatenate([self._root(g) for g in range(len(self.regular))])
        return roots.astype(np.float32)[:, :, None, None]

    def noise(self, random: np.random.Generator) -> np.ndarray:
        """A change (g, T / g, T / g), float32, of the outputs y around their mean: N y is as large
        in all of them, and in each as large for all that they vary by."""
        found = np.empty(self.regular.shape, np.float32)
        for g, scale in enumerate(self._scales()):
            rows = random.standard_normal(found[g].shape)
            over = blas.dtrsm(1.0, self._root(g), rows, side=1, lower=1)
            found[g] = over * scale / scale[:, None]
        return found

    def lost(self, change: np.ndarray) -> float:
        """Mean squared change of the outputs, summed over them, where N y (g, T / g, T / g) is
        added to y."""
        total = 0.0
        for one, covariance, scale in zip(change, self.exact, self._scales()):
            rows = (one * scale[:, None] / scale).astype(np.float32)
            total += float(np.vdot(matmul(rows, covariance), rows))
        return total

    @property
    def whole(self) -> float:
        """``lost`` where nothing is left of the outputs."""
        return float(np.einsum("gii->", self.exact, dtype=np.float64))

    def factors(self, kernel: np.ndarray, parts: Sequence[Part]) -> tuple[np.ndarray, ...]:
        """The best chain of these parts for the kernel (T, S / g, D, E); float32."""
        return self._chain(kernel, parts)[0]

    def decomposed(self, kernel: np.ndarray, parts: Sequence[Part]) -> Decomposition:
        """The same, with what it loses."""
        group, size = self.exact.shape[:2]
        factors, leading = self._chain(kernel, parts)
        kept, whole, shift = 0.0, self.whole, None
        for columns, covariance in zip(leading, self.exact):
            kept += float(np.vdot(matmul(covariance, columns), columns))
        if self.mean is not None:
            mean = (self.mean * self.scales).reshape(group, size, 1)
            kept_mean = [columns @ (columns.T @ each) for columns, each in zip(leading, mean)]
            shift = ((mean - kept_mean).reshape(-1) / self.scales).astype(np.float32)
        change = compose(factors, parts, group)
        change -= kernel
        energy = squared_norm(kernel) or 1.0
        return Decomposition(
            factors,
            float(np.sqrt(squared_norm(change) / energy)),
            sensitivity=stability.sensitivity(factors, parts, group),
            output_error=float(np.sqrt(max(0.0, whole - kept) / whole)) if whole > 0 else 0.0,
            shift=shift,
        )

    def _chain(
        self, kernel: np.ndarray, parts: Sequence[Part]
    ) -> tuple[tuple[np.ndarray, ...], list[np.ndarray]]:
        """Factors, and of each group the leading eigenvectors (T / g, R / g), float32."""
        group, size = self.regular.shape[:2]
        rank, rows, pairs, leading = parts[0].out // group, kernel.reshape(group, size, -1), [], []
        for g, scale in enumerate(self._scales()):
            columns = leading_columns(self.regular[g], rank, [g])
            first = np.ascontiguousarray((columns * scale[:, None]).T, np.float32)
            pairs.append((matmul(first, rows[g]), columns / scale[:, None]))
            leading.append(columns)
        joined = (np.concatenate(each) for each in zip(*pairs))
        shaped = [each.reshape(part.weight_shape) for each, part in zip(joined, parts)]
        return evened(shaped, parts), leading

    def _scales(self) -> np.ndarray:
        return self.scales.reshape(self.exact.shape[:2])

    def _root(self, g: int) -> np.ndarray:
        """L (T / g, T / g), float64, lower triangular."""
        covariance = self.regular[g].astype(np.float64)
        size = float(np.linalg.norm(covariance))
        if not size > 0:
            return np.eye(len(covariance))
        np.einsum("ii->i", covariance)[:] += FLOOR * size
        return cholesky(covariance.T, lower=True, overwrite_a=True, check_finite=False)


def suits(metric: Metric | OutputMetric, parts: Sequence[Part]) -> bool:
    """Whether a metric says what is best for a chain of these parts."""
    return not isinstance(metric, OutputMetric) or sees_patches(parts)


def _drawn(covariance: np.ndarray, alone: np.ndarray, samples: float) -> np.ndarray:
    """The covariance (T, T) of outputs drawn towards ``alone``, W W^T, of the same size.

    Its leading eigenvectors lose no more under the covariance itself than those of W W^T: of both
    sums together they keep the most, and of W W^T no more than its own.
    """
    mean = float(np.trace(covariance))
    if not mean > 0:
        return alone
    share, size = shrinkage(covariance, samples), mean / max(float(np.trace(alone)), _TINY)
    return (1 - share) * covariance + share * size * alone
