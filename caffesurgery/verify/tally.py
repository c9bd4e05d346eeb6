"""Differences of one blob of two nets, added up batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import VerifyError
from ..forward.loss import label_ranks

_TOP = 5


@dataclass(frozen=True)
class BlobDifference:
    """How far a blob of the second net is from that of the first, over all items.

    ``max_abs`` is the largest difference, ``relative`` that over the largest absolute value of the
    first net's blob, ``frobenius`` the norm of the difference over the norm of the first net's
    blob.  ``agreement`` is the share of items (or places) with the same largest class; ``top1``
    and ``top5`` are the accuracies of both nets where labels were given, and ``not_finite`` counts
    NaN and infinite values of both.
    """

    name: str
    shape: tuple[int, ...]
    max_abs: float
    relative: float
    frobenius: float
    agreement: float | None
    top1: tuple[float, float] | None
    top5: tuple[float, float] | None
    not_finite: tuple[int, int]


class Tally:
    """Takes batches of one blob (``add``) and gives their BlobDifference (``result``)."""

    def __init__(self, name: str):
        self.name = name
        self._items = 0
        self._shape: tuple[int, ...] = ()
        self._largest = self._max_abs = 0.0
        self._difference = self._norm = 0.0
        self._same = self._places = 0
        self._right = np.zeros((2, 2), np.int64)  # nets, (top 1, top 5)
        self._labelled = 0
        self._classes = 0
        self._not_finite = np.zeros(2, np.int64)

    def add(self, first: np.ndarray, second: np.ndarray, labels: np.ndarray | None) -> None:
        """Count one batch of both nets' blob, items along the first axis."""
        if first.shape != second.shape:
            raise VerifyError(
                f"blob '{self.name}' has shape {first.shape} in the first net and {second.shape} "
                "in the second; expected the same to compare"
            )
        self._shape = first.shape
        self._items += first.shape[0] if first.ndim else 1
        self._not_finite += [np.count_nonzero(~np.isfinite(blob)) for blob in (first, second)]
        if not first.size:
            return
        with np.errstate(invalid="ignore"):  # inf - inf, which counts as equal below
            difference = np.subtract(second, first, dtype=np.float64)
        difference[(first == second) | (np.isnan(first) & np.isnan(second))] = 0
        self._max_abs = float(np.maximum(self._max_abs, np.abs(difference).max()))
        self._largest = float(np.maximum(self._largest, np.abs(first).max()))
        self._difference += float(np.square(difference).sum())
        self._norm += float(np.square(first, dtype=np.float64).sum())
        if first.ndim >= 2 and first.shape[1] > 1:
            self._classes = first.shape[1]
            same = first.argmax(1) == second.argmax(1)
            self._same += int(np.count_nonzero(same))
            self._places += same.size
            self._score(first, second, labels)

    def _score(self, first: np.ndarray, second: np.ndarray, labels: np.ndarray | None) -> None:
        """Count right answers, if this is a classifier's output and the labels are its classes."""
        fits = labels is not None and first.size == len(labels) * self._classes
        if not fits or labels.min() < 0 or labels.max() >= self._classes:
            return
        self._labelled += len(labels)
        for i, blob in enumerate((first, second)):
            ranks = label_ranks(blob.reshape(len(labels), -1), labels)
            self._right[i] += [np.count_nonzero(ranks < 1), np.count_nonzero(ranks < _TOP)]

    def result(self) -> BlobDifference:
        """Everything that was added."""
        top1 = top5 = None
        if self._labelled and self._labelled == self._items:
            (one, five), (other, other5) = (self._right / self._labelled).tolist()
            top1 = (one, other)
            top5 = (five, other5) if self._classes > _TOP else None
        return BlobDifference(
            name=self.name,
            shape=(self._items, *self._shape[1:]) if self._shape else (),
            max_abs=self._max_abs,
            relative=_ratio(self._max_abs, self._largest),
            frobenius=_ratio(self._difference**0.5, self._norm**0.5),
            agreement=self._same / self._places if self._places else None,
            top1=top1,
            top5=top5,
            not_finite=(int(self._not_finite[0]), int(self._not_finite[1])),
        )


def _ratio(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole else float("inf")
