"""How far a smaller net's outputs are from the old one's, on images that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import local

import numpy as np

from ..errors import NetError
from ..forward import Runner
from ..forward.runner import fed
from ..forward.threads import blas_threads
from ..forward.weights import Blobs
from ..net.shapes import NetShapes
from .ordered import all_done
from .sample import Sample, Shaped

_LEAST = float(np.finfo(np.float32).tiny)
_LOSSES = ("SoftmaxWithLoss", "MultinomialLogisticLoss", "InfogainLoss", "HingeLoss", "Accuracy")
"""Layers that need labels: what they read is looked at instead of what they make."""


@dataclass(frozen=True)
class Watched:
    """A blob that is compared; ``kind``: how, 'probabilities', 'scores' or 'values'."""

    blob: str
    kind: str


def fed_shapes(shapes: NetShapes) -> dict[str, tuple[int, ...]]:
    """The blobs that a net is fed, with their shapes."""
    found = {}
    for entry in shapes.layers:
        if not entry.layer.bottoms and not entry.unknown:
            empty = [np.empty(0, np.float32)] * len(entry.tops)
            fed_names = {name for name, _ in fed(entry.layer, empty)}
            tops = zip(entry.layer.tops, entry.tops)
            found.update((name, tuple(shape)) for name, shape in tops if name in fed_names)
    return found


def watched(shapes: NetShapes) -> tuple[Watched, ...]:
    """The outputs of a net that say what it makes of an image, and need no label.

    NetError for a net without any.
    """
    found: dict[str, Watched] = {}
    for index, _ in shapes.graph.outputs():
        layer = shapes.layers[index].layer
        if not layer.bottoms:
            continue
        names = layer.bottoms[:1] if layer.type in _LOSSES else layer.tops
        kind = "values"
        if layer.type == "Softmax":
            kind = "probabilities"
        elif layer.type in ("SoftmaxWithLoss", "Accuracy"):
            kind = "scores"
        found.update((name, Watched(name, kind)) for name in names if name not in found)
    if not found:
        raise NetError(f"{shapes.net.doc.path}: no output depends on the images alone")
    return tuple(found.values())


def outputs(
    shaped: Shaped,
    blobs: Blobs,
    sample: Sample,
    blobs_kept: Sequence[Watched],
    jobs: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[dict[str, np.ndarray]]:
    """The watched blobs of every batch."""
    names, own = [one.blob for one in blobs_kept], local()

    def run(number: int) -> dict[str, np.ndarray]:
        runners = own.__dict__.setdefault("runners", {})
        size = sample.sizes[number]
        if size not in runners:
            runners[size] = Runner(shaped(size), blobs, keep=names)
        made = runners[size].run(sample.load(number))
        return {name: made[name] for name in names}

    found = []
    with blas_threads(1):
        for made in all_done(run, range(len(sample)), jobs):
            found.append(made)
            if progress:
                progress(len(found))
    return found


def divergence(old: Sequence[dict], new: Sequence[dict], kept: Sequence[Watched]) -> float:
    """How far apart the outputs of two nets are, 0 for equal ones; the mean over the blobs.

    Of probabilities and of scores (after a softmax) it is the mean Kullback-Leibler divergence of
    the new from the old, in nats; of other values the mean squared difference over the variance.
    """
    return float(np.mean([_of_blob(old, new, one) for one in kept]))


def _of_blob(old: Sequence[dict], new: Sequence[dict], one: Watched) -> float:
    pairs = [(np.asarray(a[one.blob], np.float64), b[one.blob]) for a, b in zip(old, new)]
    if not _has_classes(one, pairs[0][0]):
        return _relative(pairs)
    total, items = 0.0, 0
    for p, q in pairs:
        q = np.asarray(q, np.float64)
        if one.kind == "scores":
            p, q = _softmax(p), _softmax(q)
        terms = p * (np.log(np.maximum(p, _LEAST)) - np.log(np.maximum(q, _LEAST)))
        total, items = total + float(terms.sum()), items + p.size // p.shape[1]
    return total / items if np.isfinite(total) else np.inf


def disturbance(old: Sequence[dict], new: Sequence[dict], kept: Sequence[Watched]) -> float:
    """How far a small change of a net moves its outputs; quadratic in the change, and so finer than
    ``divergence`` where a net is sure of itself.  The mean over the blobs.

    Of probabilities and scores the squared change of the scores around their mean, summed over the
    classes; of other values the mean squared change over the variance.
    """
    sums = sum(moved(a, b, kept) for a, b in zip(old, new))
    return float(np.mean(sums / spread(old, kept)))


def moved(old: dict, new: dict, kept: Sequence[Watched]) -> np.ndarray:
    """Of one batch, for each blob the sum that ``disturbance`` is made from."""
    found = []
    for one in kept:
        a, b = (np.asarray(each[one.blob], np.float64) for each in (old, new))
        if _has_classes(one, a):
            if one.kind == "probabilities":
                a, b = (np.log(np.maximum(each, _LEAST)) for each in (a, b))
            change = b - a
            change -= change.mean(1, keepdims=True)
        else:
            change = b - a
        total = float(np.square(change).sum())
        found.append(total if np.isfinite(total) else np.inf)
    return np.array(found)


def spread(old: Sequence[dict], kept: Sequence[Watched]) -> np.ndarray:
    """For each blob what its ``moved`` is over: the items that have classes, or its variance."""
    found = []
    for one in kept:
        blobs = [np.asarray(each[one.blob], np.float64) for each in old]
        if _has_classes(one, blobs[0]):
            found.append(sum(blob.size // blob.shape[1] for blob in blobs))
        else:
            found.append(_variance(blobs))
    return np.array(found, np.float64)


def _has_classes(one: Watched, blob: np.ndarray) -> bool:
    return one.kind != "values" and blob.ndim > 1 and blob.shape[1] > 1


def _variance(blobs: Sequence[np.ndarray]) -> float:
    """The summed squared distances from the mean, never quite 0."""
    mean = sum(blob.sum() for blob in blobs) / sum(blob.size for blob in blobs)
    return max(float(sum(np.square(blob - mean).sum() for blob in blobs)), _LEAST)


def _relative(pairs) -> float:
    lost = float(sum(np.square(a - b).sum() for a, b in pairs))
    return lost / _variance([a for a, _ in pairs]) if np.isfinite(lost) else np.inf


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
