"""Fits a profile's linear terms to measured layers, and says how well a profile predicts.

Layers with their work and measured times go in; the fit is a least-squares one with no negative
time, each layer weighted so that small ones count too.  Out come the terms, and the errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .profile import Linear, Model, Profile
from .work import KINDS, Work

POWER = 0.75
"""A layer of t ms is weighted with t**-POWER: between equal relative and equal absolute errors."""

_NOT_SEEN_APART = {
    "thin": ("a", "b", "c"), "gemv": ("a", "b"), "lrn": ("call", "tap"),
    "im2col": ("call",), "col2im": ("call",), "bias": ("call",),
}  # fmt: skip
"""Features that a layer's time does not tell from others of the same kind."""


@dataclass(frozen=True)
class Sample:
    """A layer that was measured: what it does, and its milliseconds."""

    works: Sequence[Work]
    ms: float
    name: str = ""


def fit_linear(
    samples: Sequence[Sample], known: Mapping[str, Model] | None = None
) -> dict[str, Model]:
    """Linear terms for every kind of work in the samples but those in ``known``.

    The times of ``known`` terms are taken off the samples first; they are returned too.
    """
    from scipy.optimize import nnls

    known = dict(known or {})
    columns = _columns(samples, known)
    if not columns:
        return known
    rows = np.zeros((len(samples), len(columns)))
    times = np.array([max(sample.ms, 1e-5) for sample in samples])
    rest = times.copy()
    for row, sample in enumerate(samples):
        for one in sample.works:
            if one.kind in known:
                rest[row] -= known[one.kind].ms(one)
                continue
            for place, (kind, feature) in enumerate(columns):
                if kind == one.kind:
                    rows[row, place] += one.amount(feature) / 1e6
    weighted = rows / times[:, None] ** POWER
    scale = np.linalg.norm(weighted, axis=0)
    scale[scale == 0] = 1
    found, _ = nnls(weighted / scale, np.maximum(rest, 0) / times**POWER)
    terms: dict[str, dict[str, float]] = {}
    for (kind, feature), value in zip(columns, found / scale):
        terms.setdefault(kind, {})[feature] = float(value)
    return {**known, **{kind: Linear(ns) for kind, ns in terms.items()}}


def _columns(samples: Sequence[Sample], known: Mapping) -> list[tuple[str, str]]:
    kinds = dict.fromkeys(one.kind for sample in samples for one in sample.works)
    return [
        (kind, feature)
        for kind in kinds
        for feature in KINDS[kind].features
        if kind not in known and feature not in _NOT_SEEN_APART.get(kind, ())
    ]


def quality(predicted: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    """How well predictions meet measurements (ms).

    layers: how many; total_error: of the sum, relative; median_error and worst_error: of the
    layers that take a thousandth of the time or more, relative; order: Spearman's rank correlation
    """
    ours, real = np.asarray(predicted, float), np.asarray(measured, float)
    large = real >= real.sum() / 1000
    errors = np.abs(ours[large] / real[large] - 1)
    return {
        "layers": len(real),
        "total_error": round(float(ours.sum() / real.sum() - 1), 4),
        "median_error": round(float(np.median(errors)), 4),
        "worst_error": round(float(errors.max()), 4),
        "order": round(spearman(ours, real), 4),
    }


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation; equal values share their mean rank, and 1 for constant ones."""
    a, b = _ranks(first), _ranks(second)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm else 1.0


def _ranks(values: Sequence[float]) -> np.ndarray:
    found, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[places.reshape(-1)]


def fit_quality(profile: Profile, samples: Sequence[Sample]) -> dict[str, float]:
    """``quality`` of a profile on measured layers, those that it can predict."""
    pairs = [(profile.ms(sample.works), sample.ms) for sample in samples]
    known = [(ours, real) for ours, real in pairs if ours is not None]
    return quality(*zip(*known))
