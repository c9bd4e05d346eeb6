"""The images that a net is calibrated on, in batches that can be asked for again and again.

Nothing is held here but where they come from, so that memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from ..net.shapes import NetShapes

Inputs = Mapping[str, np.ndarray]
"""Blob -> float32 array of a batch, the images along its first axis."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Images as a net takes them.

    sizes: images of each batch; load: the batch of an index, always the same for one index
    """

    sizes: tuple[int, ...]
    load: Callable[[int], Inputs]

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.sizes)

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(self.sizes)

    def first(self, images: int) -> Sample:
        """Its first batches, up to about so many images; at least one batch."""
        totals = np.cumsum(self.sizes)
        return Sample(
            self.sizes[: max(1, int(np.searchsorted(totals, images, "right")))], self.load
        )


def sample_of(arrays: Mapping[str, np.ndarray], batch: int) -> Sample:
    """The items of prepared arrays (blob -> N x ...) in batches of ``batch``, the rest at the end.

    The arrays may be views on a file.
    """
    (count,) = {len(array) for array in arrays.values()}
    sizes = tuple(min(batch, count - start) for start in range(0, count, batch))
    starts = (0, *accumulate(sizes))

    def load(index: int) -> Inputs:
        piece = slice(starts[index], starts[index + 1])
        return {name: np.asarray(array[piece], np.float32) for name, array in arrays.items()}

    return Sample(sizes, load)


def lazy_sample(
    places: np.ndarray, batch: int, load: Callable[[np.ndarray], Inputs], whole: bool = False
) -> Sample:
    """The items of these numbers in batches, read by ``load`` when they are asked for.

    whole: leave out what does not fill a batch, for nets that take no other number
    """
    count = len(places) // batch * batch if whole else len(places)
    sizes = tuple(min(batch, count - start) for start in range(0, count, batch))
    return Sample(sizes, lambda index: load(places[index * batch : index * batch + sizes[index]]))


class Shaped:
    """The shapes of one net for batches of any number of images, each inferred once."""

    def __init__(self, infer: Callable[[int], NetShapes]):
        self._infer = infer
        self._known: dict[int, NetShapes] = {}

    def __call__(self, images: int) -> NetShapes:
        """For a batch of so many images; NetError where the net takes none of that number."""
        if images not in self._known:
            self._known[images] = self._infer(images)
        return self._known[images]


def steps(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """(Sample, batch) of all batches, in order."""
    return [(s, k) for s, sample in enumerate(samples) for k in range(len(sample))]
