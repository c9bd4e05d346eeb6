"""Softmax, Accuracy and the losses, as the TEST phase computes them."""

from __future__ import annotations

from functools import partial

import numpy as np

from ..net.layers.base import axis_of
from .kernel import Compute, Job, computes, nothing

_TINY = np.finfo(np.float32).tiny


@computes("Softmax", in_place=True)
def softmax(job: Job) -> Compute:
    """exp(x - max) over its sum along an axis."""
    axis = axis_of(job.layer, job.bottom.shape, job.layer.params("softmax_param")["axis"])
    return partial(softmax_of, job.bottom, job.top, axis)


def softmax_of(x: np.ndarray, y: np.ndarray, axis: int) -> None:
    """The softmax of x into y, which may be x."""
    np.subtract(x, x.max(axis, keepdims=True), y)
    np.exp(y, y)
    np.divide(y, y.sum(axis, keepdims=True), y)


def _by_class(scores: np.ndarray, labels: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores as (places, classes) and the label of each place as an integer."""
    rows = np.moveaxis(scores, axis, -1)
    return rows.reshape(-1, scores.shape[axis]), labels.reshape(-1).astype(np.intp)


def _check_labels(job: Job, labels: np.ndarray, classes: int) -> None:
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise job.refuse(f"met the label {wrong[0]}, expected 0 to {classes - 1}")


def _counted(params, labels: np.ndarray) -> np.ndarray:
    """Which places count: all but those with the label to ignore."""
    if params.has("ignore_label"):
        return labels != params["ignore_label"]
    return np.ones(labels.shape, bool)


@computes("SoftmaxWithLoss")
def softmax_loss(job: Job) -> Compute:
    """Mean of -log of the label's softmax; a second top gives the softmax."""
    axis = axis_of(job.layer, job.bottom.shape, job.layer.params("softmax_param")["axis"])
    params = job.layer.params("loss_param")
    share = job.tops[1] if len(job.tops) > 1 else job.scratch(job.bottom.shape)
    outer = int(np.prod(job.bottom.shape[:axis], dtype=int))

    def run():
        softmax_of(job.bottom, share, axis)
        rows, labels = _by_class(share, job.bottoms[1], axis)
        counted = _counted(params, labels)
        rows, labels = rows[counted], labels[counted]
        _check_labels(job, labels, rows.shape[1])
        picked = np.maximum(rows[np.arange(len(labels)), labels], _TINY)
        _give(job, -np.log(picked).sum() / _norm(params, counted, outer))

    return run


def _norm(params, counted: np.ndarray, outer: int) -> int:
    """What a loss is divided by (LossLayer::GetNormalizer)."""
    mode = params["normalization"]
    if not params.has("normalization") and params.has("normalize"):
        mode = "VALID" if params["normalize"] else "BATCH_SIZE"
    counts = {"FULL": counted.size, "VALID": int(counted.sum()), "BATCH_SIZE": outer, "NONE": 1}
    return max(1, counts[mode])


def _give(job: Job, loss) -> None:
    if job.tops:
        job.top[...] = loss


@computes("MultinomialLogisticLoss")
def logistic_loss(job: Job) -> Compute:
    """Mean of -log of the label's probability, which is taken as 1e-20 at least."""
    rows = job.bottom.reshape(len(job.bottom), -1)

    def run():
        labels = job.bottoms[1].reshape(-1).astype(np.intp)
        _check_labels(job, labels, rows.shape[1])
        picked = np.maximum(rows[np.arange(len(rows)), labels], np.float32(1e-20))
        _give(job, -np.log(picked).sum() / len(rows))

    return run


@computes("EuclideanLoss")
def euclidean_loss(job: Job) -> Compute:
    """Half the squared distance over the number of items."""

    def run():
        away = job.bottom.reshape(-1) - job.bottoms[1].reshape(-1)
        _give(job, away @ away / len(job.bottom) / 2)

    return run


@computes("SigmoidCrossEntropyLoss")
def sigmoid_loss(job: Job) -> Compute:
    """Cross entropy of sigmoids with targets of 0 to 1, over the number of items by default."""
    params, x = job.layer.params("loss_param"), job.bottom.reshape(-1)

    def run():
        target = job.bottoms[1].reshape(-1)
        counted = _counted(params, target.astype(np.intp))
        gains = x * (target - (x >= 0)) - np.log1p(np.exp(x - 2 * x * (x >= 0)))
        _give(job, -gains[counted].sum() / _batch_norm(params, counted, len(job.bottom)))

    return run


def _batch_norm(params, counted: np.ndarray, items: int) -> int:
    """As ``_norm``, for a layer whose default is the number of items."""
    named = params.has("normalization") or params.has("normalize")
    return _norm(params, counted, items) if named else max(1, items)


@computes("HingeLoss")
def hinge_loss(job: Job) -> Compute:
    """One-versus-all hinge loss, L1 or L2, over the number of items."""
    rows = job.bottom.reshape(len(job.bottom), -1)
    squared = job.layer.params("hinge_loss_param")["norm"] == "L2"

    def run():
        labels = job.bottoms[1].reshape(-1).astype(np.intp)
        _check_labels(job, labels, rows.shape[1])
        margins = rows.copy()
        margins[np.arange(len(rows)), labels] *= -1
        np.maximum(margins + 1, 0, out=margins)
        _give(job, (np.square(margins) if squared else margins).sum() / len(rows))

    return run


@computes("ContrastiveLoss")
def contrastive_loss(job: Job) -> Compute:
    """Half the squared distance of like pairs, half the squared shortfall of the others."""
    params = job.layer.params("contrastive_loss_param")
    first, second, alike = (bottom.reshape(len(bottom), -1) for bottom in job.bottoms)
    margin = np.float32(params["margin"])

    def run():
        squares = np.square(first - second).sum(1)
        if params["legacy_version"]:
            short = np.maximum(margin - squares, 0)
        else:
            short = np.square(np.maximum(margin - np.sqrt(squares), 0))
        loss = np.where(alike[:, 0].astype(np.intp) != 0, squares, short).sum()
        _give(job, loss / len(first) / 2)

    return run


@computes("Accuracy")
def accuracy(job: Job) -> Compute:
    """Share of the places whose label is among the top_k; a second top gives it by class."""
    params = job.layer.params("accuracy_param")
    axis = axis_of(job.layer, job.bottom.shape, params["axis"])
    if not job.tops:
        return nothing

    def run():
        rows, labels = _by_class(job.bottom, job.bottoms[1], axis)
        counted = _counted(params, labels)
        rows, labels = rows[counted], labels[counted]
        _check_labels(job, labels, rows.shape[1])
        right = label_ranks(rows, labels) < params["top_k"]
        job.top[...] = right.mean() if len(labels) else 0
        if len(job.tops) > 1:
            classes = rows.shape[1]
            totals = np.bincount(labels, minlength=classes)
            hits = np.bincount(labels, right, classes)
            job.tops[1][...] = hits / np.maximum(totals, 1)

    return run


def label_ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes (of N x C) come before the label; of equal scores, the later class does.

    Caffe's Accuracy sorts (score, class) pairs, the largest first.
    """
    own = scores[np.arange(len(labels)), labels][:, None]
    later = np.arange(scores.shape[1]) > labels[:, None]
    return np.count_nonzero((scores > own) | ((scores == own) & later), axis=1)
