"""Goes through a net and its smaller form side by side, layer by layer, all images at each layer.

So what is fitted in one layer is seen by all that come after it, and every layer is computed once.
A layer of the new net that still sees what the old one saw is not computed twice.  Only activations
that some layer is still to read are kept (``Store``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import NetError
from ..forward.alone import run_layer
from ..forward.threads import blas_threads
from ..forward.weights import Blobs
from ..net.shapes import LayerShapes, NetShapes
from .ordered import Turns, in_turn
from .sample import Sample, Shaped, steps
from .store import Store

Step = tuple[int, int]
"""(Sample, batch)."""
Key = tuple[str, int, int]
"""('old' or 'new', layer index, top index): one version of a blob."""


@dataclass(frozen=True)
class Unit:
    """A layer of the old net by index, and the layers of the new one that stand for it."""

    old: int
    new: tuple[int, ...]
    replaced: bool


def pair_units(
    old: NetShapes, new: NetShapes, chains: Mapping[str, Sequence[str]]
) -> tuple[Unit, ...]:
    """All layers of ``old`` in order, with their counterparts; ``chains`` are the new names of
    those that were replaced.  NetError where the nets do not match."""
    units, position = [], 0
    names = [entry.layer.name for entry in new.layers]
    for index, entry in enumerate(old.layers):
        replaced = entry.layer.name in chains
        expected = list(chains.get(entry.layer.name, (entry.layer.name,)))
        met = names[position : position + len(expected)]
        if met != expected:
            raise NetError(
                f"{entry.layer.where()}: expected {', '.join(expected)} in its place in the new "
                f"net, met {', '.join(met) or 'nothing'}"
            )
        place = tuple(range(position, position + len(expected)))
        units.append(Unit(index, place, replaced))
        position += len(expected)
    return tuple(units)


class Walk:
    """Both nets on the way through their layers.

    ``new_blobs`` are the parameters of the new net, which whoever fits them replaces on the way.
    """

    def __init__(
        self,
        old: Shaped,
        new: Shaped,
        old_blobs: Blobs,
        new_blobs: dict[int, list[np.ndarray]],
        chains: Mapping[str, Sequence[str]],
        samples: Sequence[Sample],
        store: Store,
        jobs: int | None = None,
    ):
        self.samples, self.old_blobs, self.new_blobs = samples, old_blobs, new_blobs
        self._nets = {"old": old, "new": new}
        self._store, self.jobs = store, jobs
        first = samples[0].sizes[0]
        self.old, self.new = old(first), new(first)
        self.units = pair_units(self.old, self.new, chains)
        self._same: dict[Key, Key] = {}
        self._dead: dict[int, list[Key]] = {}
        self._reads: list[Counter] = [self._reading(unit) for unit in self.units]
        self._plan_ends()

    def differs(self, unit: Unit) -> bool:
        """Whether the new net does not just repeat what the old one does here."""
        return unit.replaced or any(key[0] == "new" for key in self._keys("new", unit.new[0]))

    def _reading(self, unit: Unit) -> Counter:
        """How often this unit reads each key; notes which of its tops are the old ones."""
        reads = Counter(self._keys("old", unit.old))
        if self.differs(unit):
            for index in unit.new:
                reads.update(self._keys("new", index))
        else:
            tops = range(len(self.new.layers[unit.new[0]].layer.tops))
            self._same.update((("new", unit.new[0], t), ("old", unit.old, t)) for t in tops)
        return reads

    def _plan_ends(self) -> None:
        """Which keys nobody reads after each unit."""
        last = {key: at for at, reads in enumerate(self._reads) for key in reads}
        for at, unit in enumerate(self.units):
            made = [("old", unit.old, t) for t in range(len(self.old.layers[unit.old].tops))]
            if self.differs(unit):
                for index in unit.new:
                    made += [("new", index, t) for t in range(len(self.new.layers[index].tops))]
            for key in made:
                self._dead.setdefault(last.get(key, at), []).append(key)

    def _keys(self, net: str, index: int) -> list[Key]:
        """What a layer reads."""
        graph = (self.old if net == "old" else self.new).graph
        keys = [(net, *port) for port in graph.sources[index]]
        return [self._same.get(key, key) for key in keys]

    # -- what is done with one batch

    def entry(self, net: str, index: int, step: Step) -> LayerShapes:
        """A layer with its shapes for the batch of a step."""
        sample, batch = step
        return self._nets[net](self.samples[sample].sizes[batch]).layers[index]

    def moved(self, index: int, bottom: int) -> bool:
        """Whether a layer of the new net reads there what it has made otherwise than the old."""
        return self._keys("new", index)[bottom][0] == "new"

    def bottom(self, net: str, index: int, step: Step, number: int) -> np.ndarray:
        """One of what a layer reads, not to be written to; its maker must have run."""
        return self._store.get((step, self._keys(net, index)[number]))

    def bottoms(self, net: str, index: int, step: Step) -> list[np.ndarray]:
        """All that a layer reads, not to be written to."""
        return [self._store.get((step, key)) for key in self._keys(net, index)]

    def tops(self, net: str, index: int, step: Step) -> list[np.ndarray]:
        """What a layer has made; they may be changed in place, and ``replace_tops`` says so."""
        entry = self.entry(net, index, step)
        return [self._store.get((step, (net, index, t))) for t in range(len(entry.tops))]

    def compute(self, unit: Unit, net: str, index: int, step: Step) -> list[np.ndarray]:
        """Run one layer and keep its tops."""
        sample, batch = step
        entry, keys = self.entry(net, index, step), self._keys(net, index)
        reads, ends = self._reads[unit.old], self._dead.get(unit.old, ())
        reuse = bool(keys) and reads[keys[0]] == 1 and keys[0] in ends
        blobs = (self.old_blobs if net == "old" else self.new_blobs).get(index, ())
        inputs = None if keys else self.samples[sample].load(batch)
        tops = run_layer(entry, blobs, self.bottoms(net, index, step), inputs, reuse)
        for number, top in enumerate(tops):
            self._store.put((step, (net, index, number)), top)
        return tops

    def replace_tops(self, index: int, step: Step, tops: Sequence[np.ndarray]) -> None:
        """Other values for what a layer of the new net has made."""
        for number, top in enumerate(tops):
            self._store.drop((step, ("new", index, number)))
            self._store.put((step, ("new", index, number)), top)

    def finish(self, unit: Unit, step: Step) -> None:
        """Forget what no layer after this unit reads."""
        for key in self._dead.get(unit.old, ()):
            self._store.drop((step, key))

    # -- all batches

    def each(self, work: Callable[[Step], tuple]) -> list[list[np.ndarray]]:
        """``work(step)`` for every batch, several at a time; for each sample the sums of what they
        return, added up in order in float64."""
        totals: list[list[np.ndarray]] = [[] for _ in self.samples]
        order = steps(self.samples)

        def one(number: int, turns: Turns) -> None:
            step = order[number]
            found, total = work(step), totals[step[0]]
            with turns.take(number, 0):
                if total:
                    for sums, part in zip(total, found):
                        sums += part
                else:
                    total.extend(np.array(part, np.float64) for part in found)

        with blas_threads(1):
            in_turn(one, len(order), self.jobs)
        return totals

    def __iter__(self) -> Iterator[Unit]:
        return iter(self.units)
