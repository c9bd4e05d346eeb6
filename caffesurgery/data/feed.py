"""Data layers as values: batch after batch of what Caffe would feed its net.

Every batch is a pure function of its number and a seed, so that a run can go on where it stopped,
several processes can share every batch, and threads can make batches ahead of time.  What Caffe
draws at random (crops, mirrors, order) comes from (seed, number of the item) alone; it is drawn as
Caffe does, but with other numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import DataError
from .prefetch import default_threads, in_order

_LARGE = 1 << 13

Batch = dict[str, np.ndarray]
"""Top -> float32 array, batch in front."""


class Source(Protocol):
    """Items by number, counted on and on: item ``size`` is the first one again.

    ``shapes`` are those of one item, for each top; ``size`` is None where nothing repeats.
    """

    size: int | None
    shapes: tuple[tuple[int, ...], ...]

    def read(self, items: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
        """The items of these numbers (int64), for each top: float32, as many as numbers in front.

        Called by several threads at a time.  Raises DataError for what cannot be read.
        """


class Batches:
    """What all feeds can do; each has ``tops``, ``shapes``, ``batch``, ``size`` as ``Feed`` has."""

    def read(self, number: int, seed: int = 0, rank: int = 0, of: int = 1) -> Batch:
        """Batch ``number`` (from 0), or the items rank, rank + of, ... of it."""
        raise NotImplementedError

    def check_slices(self, rank: int, of: int) -> None:
        """DataError where ``of`` processes cannot share a batch."""
        if not 0 <= rank < of:
            raise DataError(f"{self.where}: process {rank} of {of}; expected 0 to {of - 1}")
        if of > self.batch:
            raise DataError(
                f"{self.where}: a batch of {self.batch} cannot be shared by {of} processes; use "
                f"at most {self.batch}, or a larger batch_size"
            )

    def batches(
        self, start: int = 0, seed: int = 0, rank: int = 0, of: int = 1, threads: int | None = None
    ) -> Iterator[Batch]:
        """Batches without end, from number ``start`` on; made ahead by ``threads`` (0: by none).

        By default all processors make large items, and one thread small ones: those hold Python's
        lock for most of their time, and more threads would only fight for it.

        Of ``of`` processes, each gets its slice of every batch: items rank, rank + of, ..., as
        Caffe's solvers share out a database.  Close the iterator to end the threads.
        """
        self.check_slices(rank, of)
        if threads is None:
            item = sum(math.prod(shape) for shape in self.shapes.values()) // (self.batch or 1)
            threads = max(1, default_threads() // of) if item >= _LARGE else 1
        return in_order(lambda number: self.read(number, seed, rank, of), start, threads)


@dataclass(frozen=True)
class Feed(Batches):
    """What one data layer gives its net: ``batch`` items of ``source`` at a time, as ``tops``.

    ``where`` begins errors.  Batches follow each other without regard to the end of the data, as in
    Caffe: the last one of a round goes on with the first items of the next.
    """

    tops: tuple[str, ...]
    source: Source
    batch: int
    where: str = ""

    @property
    def size(self) -> int | None:
        """Items before the data begin again; None where they never do."""
        return self.source.size

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each top, batch in front."""
        return {top: (self.batch, *shape) for top, shape in zip(self.tops, self.source.shapes)}

    def read(self, number: int, seed: int = 0, rank: int = 0, of: int = 1) -> Batch:
        """Batch ``number`` (from 0), or the items rank, rank + of, ... of it."""
        items = np.arange(number * self.batch + rank, (number + 1) * self.batch, of)
        return dict(zip(self.tops, self.source.read(items, seed)))


@dataclass(frozen=True)
class Feeds(Batches):
    """All data layers of a net in one phase; a batch has the tops of all."""

    feeds: tuple[Batches, ...]

    @property
    def tops(self) -> tuple[str, ...]:
        """The tops of all layers."""
        return tuple(top for feed in self.feeds for top in feed.tops)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each top, batch in front."""
        return {top: shape for feed in self.feeds for top, shape in feed.shapes.items()}

    @property
    def size(self) -> int | None:
        """Items of the first layer that begins again, None where none does."""
        return next((feed.size for feed in self.feeds if feed.size is not None), None)

    @property
    def batch(self) -> int | None:
        """Batch size of the first layer; None for a net without data layers."""
        return self.feeds[0].batch if self.feeds else None

    def read(self, number: int, seed: int = 0, rank: int = 0, of: int = 1) -> Batch:
        """Batch ``number`` of every layer."""
        made: Batch = {}
        for feed in self.feeds:
            made.update(feed.read(number, seed, rank, of))
        return made

    def check_slices(self, rank: int, of: int) -> None:
        """DataError where ``of`` processes cannot share a batch of some layer."""
        for feed in self.feeds:
            feed.check_slices(rank, of)
