"""Scores of a classifier, added up batch by batch: accuracy, loss, and agreement with another net.

Accuracies are counted as Caffe's Accuracy layer counts them, the loss as SoftmaxWithLoss does.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from ..errors import VerifyError
from .tally import label_ranks

METRICS = ("top1", "top5", "loss", "agreement")
_TOP = 5
_LEAST = float(np.finfo(np.float32).tiny)
"""SoftmaxWithLoss takes the logarithm of no smaller probability."""


@dataclass(frozen=True)
class Metrics:
    """What a net makes of ``images`` items.

    ``top1`` and ``top5`` are accuracies as shares, ``loss`` the mean of -log p of the label's class
    p; they need labels, and ``top5`` more than five classes.  ``agreement`` is the share of items
    whose largest class is that of the net that this one came from.  ``not_finite`` counts items
    with NaN or infinite scores: they are wrong and agree with nothing.
    """

    images: int
    top1: float | None = None
    top5: float | None = None
    loss: float | None = None
    agreement: float | None = None
    not_finite: int = 0

    def as_dict(self) -> dict:
        """Plain values for JSON."""
        return asdict(self)

    def score(self, metric: str) -> float:
        """One number from 0 to 1, higher is better: the metric itself, and exp(-loss) for the loss.

        Raises VerifyError where the metric was not measured.
        """
        value = getattr(self, metric)
        if value is None:
            need = "more than five classes" if metric == "top5" else "labels"
            raise VerifyError(f"metric {metric}: it needs {need}, and there are none; {_OTHERS}")
        return math.exp(-value) if metric == "loss" else value


_OTHERS = "give --labels, or measure --metric agreement, which needs none"


class Scorer:
    """Takes batches of scores (``add``) and gives their Metrics (``result``)."""

    def __init__(self, probabilities: bool):
        """``probabilities``: the scores come from a Softmax; otherwise the loss applies one."""
        self._probabilities = probabilities
        self._items = self._right = self._right5 = self._same = self._not_finite = 0
        self._loss = 0.0
        self._classes = 0
        self._labelled = self._compared = False
        self._predicted: list[np.ndarray] = []

    def add(
        self, scores: np.ndarray, labels: np.ndarray | None, reference: np.ndarray | None
    ) -> None:
        """Count a batch: scores N x C, the N labels, and the classes that the old net found."""
        finite = np.isfinite(scores).all(axis=1)
        predicted = np.where(finite, scores.argmax(1), -1)
        self._predicted.append(predicted)
        self._items += len(scores)
        self._classes = scores.shape[1]
        self._not_finite += int(np.count_nonzero(~finite))
        if reference is not None:
            self._compared = True
            self._same += int(np.count_nonzero(finite & (predicted == reference)))
        if labels is not None:
            self._labelled = True
            ranks = label_ranks(scores, labels)
            self._right += int(np.count_nonzero(finite & (ranks < 1)))
            self._right5 += int(np.count_nonzero(finite & (ranks < _TOP)))
            self._loss += float(self._losses(scores, labels, finite).sum())

    def _losses(self, scores: np.ndarray, labels: np.ndarray, finite: np.ndarray) -> np.ndarray:
        """-log p of each item's label, in float64."""
        scores = np.where(finite[:, None], scores, 0).astype(np.float64)
        own = scores[np.arange(len(labels)), labels]
        if self._probabilities:
            chance = own
        else:
            shifted = scores - scores.max(1, keepdims=True)
            chance = np.exp(own - scores.max(1)) / np.exp(shifted).sum(1)
        return -np.log(np.maximum(np.where(finite, chance, 0), _LEAST))

    def result(self) -> Metrics:
        """Everything that was added."""
        return Metrics(
            images=self._items,
            top1=self._right / self._items if self._labelled else None,
            top5=self._right5 / self._items if self._labelled and self._classes > _TOP else None,
            loss=self._loss / self._items if self._labelled else None,
            agreement=self._same / self._items if self._compared else None,
            not_finite=self._not_finite,
        )

    def predicted(self) -> np.ndarray:
        """The largest class of each item; -1 where a score is not finite."""
        return np.concatenate(self._predicted)
