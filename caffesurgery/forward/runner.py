"""Runs a net layer by layer on arrays that are laid out once.

The shapes of a net and its parameter blobs go in; ``run`` takes the input blobs and gives the
output blobs.  As in Caffe, in-place layers write over their bottom and Split, Reshape and Flatten
share its memory; other tops get memory of their own, which is used again once nothing reads it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import NetError, WeightsError, suggest
from ..net.graph import Port
from ..net.layers import lookup
from ..net.layers.base import show
from ..net.layers.data import Parameter, Source
from ..net.net import Layer
from ..net.shapes import LayerShapes, NetShapes
from . import (  # noqa: F401
    activation,
    convolution,
    forks,
    inner,
    joining,
    loss,
    normalisation,
    pooling,
    recurrent,
    reshaping,
    resizing,
)
from .kernel import Compute, Job, Kernel, kernel_of
from .storage import Pool, Storage
from .threads import blas_threads
from .weights import Blobs

Watch = Callable[[int, float], None]
"""Called after each layer with its index and the seconds that it took."""


@dataclass(frozen=True)
class _Step:
    """One layer: what a run does, and the tops that are fed before it."""

    layer: Layer
    compute: Compute
    fed: tuple[tuple[str, np.ndarray], ...]


class Runner:
    """A net with its parameters, ready to run.

    ``blobs`` are those of ``forward.load`` or ``forward.seeded``; ``keep`` names blobs that shall
    come out besides the net's outputs; ``threads`` is what BLAS and im2col may use.

    ``inputs`` maps the blobs to be fed to their shapes, ``outputs`` names those that come out,
    ``memory`` is the size in bytes of all blobs and of what the layers need to compute them, and
    ``told_blas`` whether NumPy's BLAS can be told how many threads to use.

    Raises NetError, naming layer, type and line, for a layer that cannot be computed, and
    WeightsError for one without its parameters.
    """

    def __init__(
        self, shapes: NetShapes, blobs: Blobs, *, keep: Sequence[str] = (), threads: int = 1
    ):
        self.shapes = shapes
        self.threads = threads
        self._pool = Pool()
        self._kept = _kept_ports(shapes, keep)
        self._places: dict[Port, tuple[Storage, np.ndarray]] = {}
        self._steps = [self._prepare(index, blobs.get(index, ())) for index in _order(shapes)]
        self.inputs = {name: array.shape for step in self._steps for name, array in step.fed}
        self.outputs = tuple(self._kept)
        self.memory = 4 * self._pool.elements
        with blas_threads(threads) as self.told_blas:
            pass

    def run(
        self, inputs: Mapping[str, np.ndarray] | None = None, watch: Watch | None = None
    ) -> dict[str, np.ndarray]:
        """The output blobs (and those to keep) by name, as float32 arrays of the caller's own.

        ``inputs`` has an array for each of ``self.inputs``, of its shape; a run remembers nothing
        of the one before.  NetError names an input that is missing, unknown or of another shape.
        """
        given = self._checked(inputs or {})
        with blas_threads(self.threads), np.errstate(all="ignore"):
            for index, step in enumerate(self._steps):
                for name, array in step.fed:
                    if name in given:
                        np.copyto(array, given[name], "same_kind")
                started = time.perf_counter()
                step.compute()
                if watch is not None:
                    watch(index, time.perf_counter() - started)
        return {name: self._places[port][1].copy() for name, port in self._kept.items()}

    def bottoms(self, index: int) -> tuple[np.ndarray, ...]:
        """What layer ``index`` read, while ``watch`` is told of it: later layers write over it."""
        return tuple(self._places[port][1] for port in self.shapes.graph.sources[index])

    def tops(self, index: int) -> tuple[np.ndarray, ...]:
        """What it made, while ``watch`` is told of it."""
        tops = range(len(self.shapes.layers[index].tops))
        return tuple(self._places[index, top][1] for top in tops)

    def _checked(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {name: np.asarray(array) for name, array in inputs.items()}
        for name, array in given.items():
            if name not in self.inputs:
                raise NetError(f"the net has no input '{name}'; {suggest(name, self.inputs)}")
            if array.shape != self.inputs[name]:
                raise NetError(
                    f"input '{name}' is {show(array.shape)}, the net takes "
                    f"{show(self.inputs[name])}"
                )
            if not np.can_cast(array.dtype, np.float32, "same_kind"):
                raise NetError(f"input '{name}' is {array.dtype}, expected float32")
        for step in self._steps:
            missing = [name for name, _ in step.fed if name not in given]
            if missing:
                raise NetError(
                    f"{step.layer.where()}: no array is given for its top '{missing[0]}'; "
                    f"give one of shape {show(self.inputs[missing[0]])}"
                )
        return given

    def _prepare(self, index: int, blobs: Sequence[np.ndarray]) -> _Step:
        """Lay out the tops of a layer, bind its kernel to its arrays, and free what was read."""
        entry = self.shapes.layers[index]
        layer, kernel = entry.layer, kernel_of(entry.layer)
        _check_blobs(entry, blobs)
        bottoms = [self._places[port] for port in self.shapes.graph.sources[index]]
        tops = [self._place(entry, kernel, number, bottoms) for number in range(len(layer.tops))]
        for number, place in enumerate(tops):
            self._places[index, number] = place
            place[0].readers += len(self.shapes.graph.consumers(index, number))
            place[0].readers += (index, number) in self._kept.values()
        borrowed: list[Storage] = []

        def scratch(shape: tuple[int, ...]) -> np.ndarray:
            borrowed.append(self._pool.take(int(np.prod(shape, dtype=int))))
            return borrowed[-1].view(shape)

        compute = kernel.prepare(
            Job(
                layer,
                tuple(array for _, array in bottoms),
                tuple(array for _, array in tops),
                tuple(np.require(blob, np.float32, "CA") for blob in blobs),
                scratch,
                self.threads,
            )
        )
        self._release(bottoms, tops, borrowed)
        return _Step(layer, compute, fed(layer, [array for _, array in tops]))

    def _place(
        self, entry: LayerShapes, kernel: Kernel, number: int, bottoms: list
    ) -> tuple[Storage, np.ndarray]:
        """Memory for one top: that of bottom 0 where they share it, else memory of its own."""
        layer, shape = entry.layer, entry.tops[number]
        in_place = kernel.in_place and number == 0 and layer.tops[:1] == layer.bottoms[:1]
        if in_place or kernel.shares(layer):
            storage, array = bottoms[0]
            return storage, array if in_place and array.shape == shape else storage.view(shape)
        storage = self._pool.take(int(np.prod(shape, dtype=int)))
        return storage, storage.view(shape)

    def _release(self, bottoms: list, tops: list, borrowed: list[Storage]) -> None:
        for storage, _ in bottoms:
            storage.readers -= 1
        done = {id(storage): storage for storage, _ in (*bottoms, *tops)}
        for storage in (*done.values(), *borrowed):
            if storage.readers == 0:
                self._pool.give(storage)


def _order(shapes: NetShapes) -> range:
    """All layers; NetError for the first whose shapes depend on an unknown type."""
    for entry in shapes.layers:
        kernel_of(entry.layer)
        if entry.unknown:
            raise NetError(f"{entry.layer.where()}: cannot be computed: {entry.unknown}")
    return range(len(shapes.layers))


def _kept_ports(shapes: NetShapes, keep: Sequence[str]) -> dict[str, Port]:
    """Blob -> where its last version is made, for the net's outputs and for ``keep``."""
    layers = shapes.graph.layers
    last = {name: (i, top) for i, layer in enumerate(layers) for top, name in enumerate(layer.tops)}
    outputs = {layers[i].tops[top]: (i, top) for i, top in shapes.graph.outputs()}
    for name in keep:
        if name not in last:
            raise NetError(f"no blob '{name}' in this phase; {suggest(name, last)}")
    return {**outputs, **{name: last[name] for name in keep}}


def _check_blobs(entry: LayerShapes, blobs: Sequence[np.ndarray]) -> None:
    found = [tuple(np.shape(blob)) for blob in blobs]
    if found != [tuple(shape) for shape in entry.params or ()]:
        raise WeightsError(
            f"{entry.layer.where()}: its parameter blobs are {_list(found)}, "
            f"expected {_list(entry.params or ())}"
        )


def _list(shapes) -> str:
    return ", ".join(map(show, shapes)) or "none"


def fed(layer: Layer, tops: list[np.ndarray]) -> tuple[tuple[str, np.ndarray], ...]:
    """The tops that the caller feeds: those of sources, but for constants and learned blobs."""
    source = lookup(layer.type)
    if not isinstance(source, Source) or isinstance(source, Parameter):
        return ()
    constants = joining.filled(layer) if layer.type == "DummyData" else [None] * len(tops)
    return tuple((n, top) for n, top, c in zip(layer.tops, tops, constants) if c is None)
