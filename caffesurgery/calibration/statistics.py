"""What a smaller net does to means and variances, put right: in BatchNorm, or where there is none.

A BatchNorm's mean is moved by the difference that the same images show between both nets, and its
variance multiplied by the quotient, so that what the images differ in from those of the training
cancels out, and nothing changes where nothing was lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_TINY = 1e-12


def spread_sums(bottom: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """For each channel (axis 1) the sums of x - mean and of its square, and how many there are."""
    shape = (1, -1) + (1,) * (bottom.ndim - 2)
    away = bottom - np.asarray(mean, np.float32).reshape(shape)
    axes = tuple(axis for axis in range(bottom.ndim) if axis != 1)
    total = away.sum(axes, dtype=np.float64)
    np.multiply(away, away, out=away)
    return total, away.sum(axes, dtype=np.float64), bottom.size / bottom.shape[1]


def stored_mean(blobs: Sequence[np.ndarray]) -> np.ndarray:
    """The mean that a BatchNorm's three blobs stand for."""
    return np.asarray(blobs[0], np.float64) * _share(blobs)


def rates(blobs: Sequence[np.ndarray], eps: float) -> np.ndarray:
    """What a BatchNorm multiplies each channel with."""
    variance = np.asarray(blobs[1], np.float64) * _share(blobs)
    return 1 / np.sqrt(np.maximum(variance, 0) + eps)


def moved_statistics(
    blobs: Sequence[np.ndarray], old: Sequence[np.ndarray], new: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The three blobs of a BatchNorm (mean, variance, both times the factor, and the factor) as
    the new net needs them.

    old, new: what ``spread_sums`` found of both nets' inputs, about one mean
    """
    share = _share(blobs)
    factor = 1 / share if share else 1.0
    (old_mean, old_var), (new_mean, new_var) = _mean_variance(old), _mean_variance(new)
    mean = np.asarray(blobs[0], np.float64) * share + (new_mean - old_mean)
    ratio = np.where(old_var > _TINY, new_var / np.maximum(old_var, _TINY), 1.0)
    variance = np.asarray(blobs[1], np.float64) * share * ratio
    shape = np.shape(blobs[2])
    return [
        np.asarray(mean * factor, np.float32),
        np.asarray(variance * factor, np.float32),
        np.full(shape, factor, np.float32),
    ]


def _share(blobs: Sequence[np.ndarray]) -> float:
    """One over the factor, 0 where the factor is, as Caffe has it."""
    factor = float(np.ravel(blobs[2])[0])
    return 1 / factor if factor else 0.0


def _mean_variance(sums: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    total, squares, count = sums
    mean = total / count
    return mean, np.maximum(squares / count - mean**2, 0.0)


def agreement_sums(old: np.ndarray, new: np.ndarray, axis: int = 1) -> tuple[np.ndarray, ...]:
    """For each channel: sums of y, y', y y, y' y', y y' (5, T), and how many there are."""
    rows = [_channels(each, axis) for each in (old, new)]
    y, made = rows
    pairs = [y * y, made * made, y * made]
    sums = [each.sum((0, 2), dtype=np.float64) for each in (y, made, *pairs)]
    return np.stack(sums), np.float64(y.size / y.shape[1])


def _channels(array: np.ndarray, axis: int) -> np.ndarray:
    shape = array.shape
    return array.reshape(int(np.prod(shape[:axis], dtype=int)), shape[axis], -1)


def best_affine(sums: np.ndarray, count: float, has_bias: bool) -> tuple[np.ndarray, np.ndarray]:
    """(a, c), (T,) each: a y' + c is closest to y for each channel; c is 0 without a bias."""
    y, made, _, squares, both = sums / count
    if not has_bias:
        scale = np.where(squares > _TINY, both / np.maximum(squares, _TINY), 1.0)
        return scale, np.zeros_like(scale)
    variance, covariance = squares - made**2, both - y * made
    scale = np.where(variance > _TINY, covariance / np.maximum(variance, _TINY), 1.0)
    return scale, y - scale * made


def affine_lost(sums: np.ndarray, count: float, scale, shift) -> np.ndarray:
    """(T,) mean squared differences between y and ``scale`` y' + ``shift``."""
    y, made, yy, squares, both = sums / count
    found = yy + scale**2 * squares + shift**2
    found += 2 * (scale * shift * made - scale * both - shift * y)
    return np.maximum(found, 0.0)
