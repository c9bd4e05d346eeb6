"""DummyData: blobs made by fillers, anew for every batch unless they are constant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from ..net.layers import lookup
from ..net.net import Layer
from ..net.params import Params
from .feed import Batch, Batches
from .fillers import fill


@dataclass(frozen=True)
class DummyFeed(Batches):
    """What a DummyData layer gives: ``shapes`` by top with the batch in front, and the fillers."""

    tops: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    fillers: tuple[Params, ...]
    where: str = ""
    size = None

    @property
    def batch(self) -> int:
        """Items of the first top; others may have more or fewer."""
        return self.shapes[self.tops[0]][0]

    def read(self, number: int, seed: int = 0, rank: int = 0, of: int = 1) -> Batch:
        """Batch ``number`` (from 0), or the items rank, rank + of, ... of it."""
        made = {}
        for index, (top, filler) in enumerate(zip(self.tops, self.fillers)):
            rng = np.random.default_rng([seed, number, index])
            made[top] = fill(filler, self.shapes[top], rng)[rank::of]
        return made


def open_dummy(layer: Layer) -> DummyFeed:
    """The feed of a DummyData layer; DataError for its shapes, NetError for its fillers."""
    shapes = dict(zip(layer.tops, lookup(layer.type).tops(layer, [])))
    for top, shape in shapes.items():
        if not shape or min(shape) < 1:
            raise DataError(
                f"{layer.where()}: '{top}' has the shape {shape}; expected dimensions of 1 or more"
            )
    params = layer.params("dummy_data_param")
    given = params["data_filler"] or (
        Params(None, "FillerParameter", lambda offset: layer.where()),
    )
    fillers = given if len(given) == len(layer.tops) else given * len(layer.tops)
    feed = DummyFeed(layer.tops, shapes, fillers, layer.where())
    feed.read(0)  # refuses fillers that cannot be
    return feed
