"""Softmax, Accuracy and the losses with Caffe's normalisation and gradients.

Where several processes share a batch, a loss or accuracy is each process' share of the whole: their
sum is what one process with the whole batch gets.
"""

from __future__ import annotations

from functools import partial
from math import log, prod
from pathlib import Path

import torch
import torch.nn.functional as F

from ....files.caffemodel import read_mean
from ....net.layers.base import axis_of
from .base import Build, Forward, elementwise, trains

_MOST = -log(torch.finfo(torch.float32).tiny)  # Caffe takes probabilities as FLT_MIN at least
_LEAST = 1e-20  # kLOG_THRESHOLD


@trains("Softmax")
def softmax(build: Build) -> Forward:
    """exp(x) over its sum along an axis."""
    axis = axis_of(build.layer, build.bottom, build.params("softmax_param")["axis"])
    return elementwise(partial(torch.softmax, dim=axis))


class _Norm:
    """What a loss is divided by (LossLayer::GetNormalizer), over all processes."""

    def __init__(self, build: Build, default: str, outer: int, inner: int):
        params, self.context = build.params("loss_param"), build.context
        self.ignored = params["ignore_label"] if params.has("ignore_label") else None
        self.mode = params["normalization"] if params.has("normalization") else default
        if not params.has("normalization") and params.has("normalize"):
            self.mode = "VALID" if params["normalize"] else "BATCH_SIZE"
        if self.mode == "VALID" and self.ignored is None:
            self.mode = "FULL"
        counts = {"FULL": outer * inner, "BATCH_SIZE": outer, "NONE": 1 / self.context.of}
        self.fixed = max(1, counts.get(self.mode, 0) * self.context.of)

    def __call__(self, counted: torch.Tensor | None) -> torch.Tensor | float:
        """The divisor; ``counted`` says which places count (None: all)."""
        if self.mode != "VALID" or counted is None:
            return self.fixed
        return self.context.total(counted.sum(dtype=torch.float32)).clamp(min=1)

    def counted(self, labels: torch.Tensor) -> torch.Tensor | None:
        """The places whose label is not the one to ignore; None where all count."""
        return None if self.ignored is None else labels != self.ignored


def _axes(build: Build, axis: int) -> tuple[int, int, int, int]:
    """Class axis, places before it, classes, places behind it."""
    axis, shape = axis_of(build.layer, build.bottom, axis), build.bottom
    return axis, prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])


def _full(x: torch.Tensor) -> torch.Tensor:
    """Half precision as float32: losses are sums."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _bounded(x: torch.Tensor, least: float | None = None, most: float | None = None):
    """The numbers within bounds; beyond them Caffe's gradient is not 0 but that of the identity."""
    plain = x.detach()
    return plain.clamp(least, most) + (x - plain)


@trains("SoftmaxWithLoss")
def softmax_loss(build: Build) -> Forward:
    """Mean of -log of the label's softmax; a second top gives the softmax, without gradient."""
    axis, outer, classes, inner = _axes(build, build.params("softmax_param")["axis"])
    norm, shape = _Norm(build, "VALID", outer, inner), (outer, classes, inner)[: 2 + (inner > 1)]
    skip = -100 if norm.ignored is None else norm.ignored

    def forward(bottoms, blobs):
        scores = _full(bottoms[0]).reshape(shape)
        labels = bottoms[1].reshape(shape[:1] + shape[2:]).long()
        terms = F.cross_entropy(scores, labels, reduction="none", ignore_index=skip)
        loss = _bounded(terms, most=_MOST).sum() / norm(norm.counted(labels))
        if len(build.layer.tops) < 2:
            return loss
        return loss, torch.softmax(bottoms[0].detach(), axis)

    return forward


@trains("InfogainLoss")
def infogain_loss(build: Build) -> Forward:
    """-log of the softmax of all classes, weighted by the label's row of a matrix."""
    params = build.params("infogain_loss_param")
    axis, outer, classes, inner = _axes(build, params["axis"])
    norm, stored = _Norm(build, "VALID", outer, inner), None
    if len(build.layer.bottoms) < 3:
        stored = torch.tensor(_matrix(build, params["source"]).reshape(classes, classes))

    def forward(bottoms, blobs):
        scores = _full(bottoms[0]).reshape(outer, classes, inner)
        labels = bottoms[1].reshape(outer, inner).long()
        counted = norm.counted(labels)
        matrix = bottoms[2].reshape(classes, classes) if stored is None else stored.to(scores)
        known = labels if counted is None else labels * counted
        rows = matrix[known].movedim(-1, 1)
        if counted is not None:
            rows = rows * counted[:, None]
        terms = _bounded(F.log_softmax(scores, 1), least=log(_LEAST))
        loss = -(rows * terms).sum() / norm(counted)
        if len(build.layer.tops) < 2:
            return loss
        return loss, torch.softmax(bottoms[0].detach(), axis)

    return forward


def _matrix(build: Build, source: str):
    """The infogain matrix of a file, found from the working folder or beside the prototxt."""
    near = Path(build.layer.doc.path or ".").parent / source
    return read_mean(source if Path(source).exists() or not near.exists() else near)


@trains("MultinomialLogisticLoss")
def logistic_loss(build: Build) -> Forward:
    """Mean of -log of the label's probability, taken as 1e-20 at least."""
    items = len_of(build)

    def forward(bottoms, blobs):
        rows = _full(bottoms[0]).reshape(len(bottoms[0]), -1)
        picked = rows.gather(1, bottoms[1].reshape(-1, 1).long())
        return -torch.log(_bounded(picked, least=_LEAST)).sum() / items

    return forward


def len_of(build: Build) -> int:
    """Items of the whole batch, over all processes."""
    return build.bottom[0] * build.context.of


@trains("EuclideanLoss")
def euclidean_loss(build: Build) -> Forward:
    """Half the squared distance over the number of items."""
    items = len_of(build)

    def forward(bottoms, blobs):
        first, second = (_full(bottom).reshape(-1) for bottom in bottoms)
        return (first - second).square().sum() / items / 2

    return forward


@trains("SigmoidCrossEntropyLoss")
def sigmoid_loss(build: Build) -> Forward:
    """Cross entropy of sigmoids with targets of 0 to 1, over the number of items by default."""
    norm = _Norm(build, "BATCH_SIZE", build.bottom[0], prod(build.bottom[1:]))

    def forward(bottoms, blobs):
        scores, targets = (_full(bottom).reshape(-1) for bottom in bottoms)
        counted = norm.counted(targets.long())
        terms = F.binary_cross_entropy_with_logits(scores, targets, reduction="none")
        if counted is not None:
            terms = terms * counted
        return terms.sum() / norm(counted)

    return forward


@trains("HingeLoss")
def hinge_loss(build: Build) -> Forward:
    """One-versus-all hinge loss, L1 or L2, over the number of items."""
    items, squared = len_of(build), build.params("hinge_loss_param")["norm"] == "L2"

    def forward(bottoms, blobs):
        rows = _full(bottoms[0]).reshape(len(bottoms[0]), -1)
        sign = torch.ones_like(rows).scatter_(1, bottoms[1].reshape(-1, 1).long(), -1)
        margins = torch.relu(rows * sign + 1)
        return (margins.square() if squared else margins).sum() / items

    return forward


@trains("ContrastiveLoss")
def contrastive_loss(build: Build) -> Forward:
    """Half the squared distance of like pairs, half the squared shortfall of the others.

    Caffe adds 1e-4 to the distance that the gradient is divided by, which is kept.
    """
    params, items = build.params("contrastive_loss_param"), len_of(build)
    margin, legacy = params["margin"], params["legacy_version"]

    def forward(bottoms, blobs):
        first, second, alike = (_full(bottom).reshape(len(bottom), -1) for bottom in bottoms)
        squares = (first - second).square().sum(1)
        if legacy:
            short = torch.relu(margin - squares)
        else:
            short = _Shortfall.apply(squares, margin)
        return torch.where(alike[:, 0].long() != 0, squares, short).sum() / items / 2

    return forward


class _Shortfall(torch.autograd.Function):
    """max(margin - sqrt(squares), 0) ** 2 with Caffe's gradient, which is finite at distance 0."""

    @staticmethod
    def forward(context, squares, margin):
        away = squares.sqrt()
        short = torch.relu(margin - away)
        context.save_for_backward(short, away)
        return short.square()

    @staticmethod
    def backward(context, gradient):
        short, away = context.saved_tensors
        return -gradient * short / (away + 1e-4), None


@trains("Accuracy")
def accuracy(build: Build) -> Forward:
    """Share of the places whose label is among the top_k; a second top gives it by class."""
    params, context = build.params("accuracy_param"), build.context
    _, outer, classes, inner = _axes(build, params["axis"])
    ignored = params["ignore_label"] if params.has("ignore_label") else None

    @torch.no_grad()
    def forward(bottoms, blobs):
        rows = _full(bottoms[0]).reshape(outer, classes, inner).movedim(1, 2).flatten(0, 1)
        labels = bottoms[1].reshape(-1).long()
        counted = torch.ones_like(labels) if ignored is None else (labels != ignored).long()
        labels = labels * counted
        right = (_ranks(rows, labels) < params["top_k"]) * counted
        total = context.total(counted.sum(dtype=torch.float32)).clamp(min=1)
        share = right.sum() / total
        if len(build.layer.tops) < 2:
            return share
        hits, counts = rows.new_zeros(classes), rows.new_zeros(classes)
        hits.index_add_(0, labels, right.to(rows))
        counts.index_add_(0, labels, counted.to(rows))
        return share, hits / context.total(counts).clamp(min=1)

    return forward


def _ranks(rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How many classes come before the label; of equal scores, the later class does."""
    own = rows.gather(1, labels[:, None])
    later = torch.arange(rows.shape[1], device=rows.device) > labels[:, None]
    return ((rows > own) | ((rows == own) & later)).sum(1)
