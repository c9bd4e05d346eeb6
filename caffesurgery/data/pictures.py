"""Pictures with labels, from wherever they come, as the items of a data layer."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .order import draws, permutation
from .transform import Transformer


class Pictures(Protocol):
    """A fixed row of pictures; ``size`` is how many, ``labelled`` whether all have labels."""

    size: int
    labelled: bool

    def take(self, places: np.ndarray) -> Iterator[tuple[np.ndarray, int | None]]:
        """The pictures at these places (0 to size - 1): C x H x W, and the label of each.

        Blue comes before red, as in Caffe.  Called by several threads at a time; raises DataError.
        """

    def name(self, place: int) -> str:
        """Where a picture comes from, for errors."""

    def labels(self, places: np.ndarray) -> np.ndarray:
        """The labels at these places (int64); nothing is decoded."""


@dataclass(frozen=True)
class PictureSource:
    """Pictures after a layer's transformation, with labels for a second top (``feed.Source``).

    ``shuffle`` puts them in another order every round; ``skip`` bounds how many are left out once,
    at the start.
    """

    pictures: Pictures
    transformer: Transformer
    labelled: bool = True
    shuffle: bool = False
    skip: int = 0

    @property
    def size(self) -> int:
        """Pictures before they begin again."""
        return self.pictures.size

    @functools.cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of the first picture when it is prepared, and of a label."""
        ((first, _),) = self.pictures.take(np.zeros(1, np.int64))
        made = self.transformer.shape(first.shape, lambda: self.pictures.name(0))
        return (made, ()) if self.labelled else (made,)

    def read(self, items: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
        """The pictures of these numbers, and their labels."""
        places = self._places(items, seed)
        images, labels = zip(*self.pictures.take(places))
        made = self.transformer(
            images, items, seed, lambda index: self.pictures.name(int(places[index]))
        )
        return (made, np.array(labels, np.float32)) if self.labelled else (made,)

    def labels(self, items: np.ndarray) -> np.ndarray:
        """The labels of these numbers, with seed 0; nothing is decoded."""
        return self.pictures.labels(self._places(items, 0))

    def _places(self, items: np.ndarray, seed: int) -> np.ndarray:
        if self.skip:
            first = draws(np.zeros(1, np.int64), seed, 1)[0, 0]
            items = items + int(first % np.uint64(self.skip))
        rounds, places = np.divmod(items, self.size)
        if not self.shuffle:
            return places
        out = np.empty_like(places)
        for number in np.unique(rounds):
            mine = rounds == number
            out[mine] = permutation(self.size, seed, int(number))[places[mine]]
        return out
