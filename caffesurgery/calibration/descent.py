"""All layers of a smaller net turned downhill together, on what it makes at the checkpoints.

Reverse-mode differentiation layer by layer (``slopes``) and Adam (Kingma and Ba 2015), whose rate
for each blob is relative to the size of its values; the rate falls as half a cosine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..forward.alone import run_layer
from ..forward.weights import Blobs
from ..net.graph import Port
from ..net.shapes import NetShapes
from .slopes import Pass, derivative_of

RATE = 4e-3
"""By how much of its size a blob moves at most in a step."""
_WARM = 10
_DECAYS = 0.9, 0.999
_TINY = 1e-8
_LEAST = 1e-3  # of what a rate is a part: blobs of zeros move too

Arrays = dict[int, list[np.ndarray]]
"""By layer, an array for each of its blobs."""


class Way:
    """The way through a net up to some ports and back again.

    shapes: of the net; learning: the layers whose blobs are to change; ports: where slopes come in
    Slopes end at layers that have no derivative here: what is before them learns from the ports
    before them alone.
    """

    def __init__(self, shapes: NetShapes, learning: frozenset[int], ports: Sequence[Port]):
        self._shapes, self._learning = shapes, learning
        graph = shapes.graph
        self._forward = sorted(graph.leading_to(ports))
        self._moving: set[int] = set()
        for index in self._forward:
            if index in learning or any(s in self._moving for s, _ in graph.sources[index]):
                self._moving.add(index)

    def moves(self, port: Port) -> bool:
        """Whether what is learned changes a blob."""
        return port[0] in self._moving

    def there(self, blobs: Blobs, inputs: Mapping[str, np.ndarray]) -> dict[Port, np.ndarray]:
        """All that the layers make of a batch."""
        made: dict[Port, np.ndarray] = {}
        for index in self._forward:
            bottoms = [made[port] for port in self._shapes.graph.sources[index]]
            entry = self._shapes.layers[index]
            tops = run_layer(entry, blobs.get(index, ()), bottoms, None if bottoms else inputs)
            made.update(((index, top), array) for top, array in enumerate(tops))
        return made

    def back(
        self, blobs: Blobs, made: dict[Port, np.ndarray], slopes: Mapping[Port, np.ndarray]
    ) -> Arrays:
        """What is minimised, derived by the learning layers' blobs.

        made: what ``there`` found; slopes: the derivatives by what lies at some ports
        """
        graph, open_, found = self._shapes.graph, dict(slopes), {}
        for index in reversed(self._forward):
            slope = open_.pop((index, 0), None)
            if slope is None or index not in self._moving:
                continue
            sources = graph.sources[index]
            entry = self._shapes.layers[index]
            back = Pass(
                entry, blobs.get(index, ()), [made[port] for port in sources], made[index, 0],
                slope, any(s in self._moving for s, _ in sources), index in self._learning,
            )  # fmt: skip
            derive = derivative_of(entry)
            if derive is None:
                continue
            before, own = derive(back)
            if index in self._learning:
                found[index] = list(own)
            for port, part in zip(sources, before):
                if self.moves(port):
                    open_[port] = open_[port] + part if port in open_ else part
        return found


class Adam:
    """Steps downhill for blobs by layer; ``steps``: how many there will be."""

    def __init__(self, blobs: Mapping[int, Sequence[np.ndarray]], steps: int):
        self._steps, self._done = steps, 0
        self._moments = {
            index: [np.zeros((2, *np.shape(blob))) for blob in own] for index, own in blobs.items()
        }
        self._rates = {
            index: [RATE * max(float(np.sqrt(np.mean(np.square(blob)))), _LEAST) for blob in own]
            for index, own in blobs.items()
        }

    def step(self, blobs: Arrays, slopes: Arrays, size: float = 1.0) -> None:
        """Put other arrays into ``blobs``, by steps of ``size`` of what they may be at most."""
        done = self._done / self._steps
        share = size * min((self._done + 1) / _WARM, (1 + np.cos(np.pi * done)) / 2)
        self._done += 1
        first, second = (1 - decay**self._done for decay in _DECAYS)
        for index, own in slopes.items():
            changed = []
            for blob, slope, moments, rate in zip(
                blobs[index], own, self._moments[index], self._rates[index]
            ):
                for moment, decay, power in zip(moments, _DECAYS, (1, 2)):
                    moment *= decay
                    moment += (1 - decay) * np.asarray(slope, np.float64) ** power
                move = moments[0] / first / (np.sqrt(moments[1] / second) + _TINY)
                changed.append(np.asarray(blob - share * rate * move, np.float32))
            blobs[index] = changed
