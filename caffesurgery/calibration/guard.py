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
    if one.kind == "values" or any(a.ndim < 2 or a.shape[1] < 2 for a, _ in pairs):
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
    found = []
    for one in kept:
        pairs = [(np.asarray(a[one.blob], np.float64), b[one.blob]) for a, b in zip(old, new)]
        if one.kind == "values" or any(a.ndim < 2 or a.shape[1] < 2 for a, _ in pairs):
            found.append(_relative(pairs))
            continue
        if one.kind == "probabilities":
            pairs = [tuple(np.log(np.maximum(each, _LEAST)) for each in pair) for pair in pairs]
        changes = [b - a for a, b in pairs]
        moved = [change - change.mean(1, keepdims=True) for change in changes]
        items = sum(change.size // change.shape[1] for change in changes)
        found.append(float(sum(np.square(each).sum() for each in moved)) / items)
    return float(np.mean(found))


def _relative(pairs) -> float:
    count = sum(a.size for a, _ in pairs)
    mean = sum(a.sum() for a, _ in pairs) / count
    whole = sum(np.square(a - mean).sum() for a, _ in pairs)
    lost = float(sum(np.square(a - b).sum() for a, b in pairs))
    if not np.isfinite(lost):
        return np.inf
    return lost / max(float(whole), _LEAST)


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
