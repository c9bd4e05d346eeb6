"""What a forward pass of a net does, worked out once: one step for each layer, in their order.

A BatchNorm and the Scale that alone reads it become one step, which is one kernel in torch and the
same function; a ReLU in place overwrites its bottom where that one is not needed for a gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...errors import TrainError
from ...net.graph import Port
from ...net.layers import lookup
from ...net.layers.data import Parameter, Source
from ...net.net import Layer
from ...net.shapes import NetShapes
from .layers import Build, Context, Forward, maker_of

_KEEP_NO_TOP = {
    "Convolution",
    "Deconvolution",
    "InnerProduct",
    "BatchNorm",
    "Scale",
    "Bias",
    "Eltwise",
    "Concat",
}
"""Types whose gradient does not need what they made, so that it may be overwritten."""


@dataclass(frozen=True)
class Step:
    """One layer's work: what it reads (and of what the gradient stops there), the owners of its
    blobs with the shapes that it wants them in, what it makes, and what nobody reads behind it."""

    layer: Layer
    forward: Forward
    reads: tuple[Port, ...]
    stops: tuple[int, ...]
    blobs: tuple[tuple[Port, tuple[int, ...]], ...]
    makes: tuple[Port, ...]
    done: tuple[Port, ...]


def is_fed(layer: Layer) -> bool:
    """Whether a layer's tops come from outside of the net."""
    entry = lookup(layer.type)
    return isinstance(entry, Source) and not isinstance(entry, Parameter)


def steps_of(shapes: NetShapes, phase: str, context: Context, kept: Iterable[Port]) -> list[Step]:
    """The steps of all layers but those that are fed; ``kept`` are values to hold to the end."""
    scales = dict(_scaled(shapes, set(kept)))
    last = _last_readers(shapes, set(kept))
    steps = []
    for index, entry in enumerate(shapes.layers):
        layer = entry.layer
        if is_fed(layer) or index in scales.values():
            continue
        if entry.unknown:
            maker_of(layer)
            raise TrainError(f"{layer.where()}: cannot be trained: {entry.unknown}")
        behind = scales.get(index, index)
        build = Build(entry, layer.phase or phase, context, _alone(shapes, index, scales))
        passes = layer.propagate_down or (True,) * len(layer.bottoms)
        steps.append(
            Step(
                layer,
                maker_of(layer)(build),
                shapes.graph.sources[index],
                tuple(i for i, passed in enumerate(passes) if not passed),
                tuple(_blobs(shapes, index))
                + tuple(_blobs(shapes, behind) if behind > index else ()),
                tuple((behind, top) for top in range(max(1, len(entry.layer.tops)))),
                tuple(
                    p for p, reader in last.items() if reader in (index, behind) and p != (index, 0)
                ),
            )
        )
    return steps


def _blobs(shapes: NetShapes, index: int) -> Iterator[tuple[Port, tuple[int, ...]]]:
    entry = shapes.layers[index]
    return zip(entry.owners, entry.params or ())


def _scaled(shapes: NetShapes, kept: set[Port]) -> Iterator[tuple[int, int]]:
    """(BatchNorm, Scale) by layer index, where the Scale alone reads the BatchNorm's top."""
    for index, entry in enumerate(shapes.layers):
        readers = shapes.graph.consumers(index, 0)
        if entry.layer.type != "BatchNorm" or len(readers) != 1 or (index, 0) in kept:
            continue
        behind = shapes.layers[readers[0][0]]
        layer, params = behind.layer, behind.layer.params("scale_param")
        fits = layer.type == "Scale" and len(layer.bottoms) == 1 and not layer.propagate_down
        if (
            fits
            and behind.params[0] == entry.params[0]
            and params["axis"] in (1, 1 - len(behind.bottoms[0]))
        ):
            yield index, readers[0][0]


def _last_readers(shapes: NetShapes, kept: set[Port]) -> dict[Port, int]:
    last: dict[Port, int] = {}
    for index, ports in enumerate(shapes.graph.sources):
        last.update(dict.fromkeys(ports, index))
    return {port: index for port, index in last.items() if port not in kept}


def _alone(shapes: NetShapes, index: int, scales: Mapping[int, int]) -> bool:
    layer = shapes.layers[index].layer
    if layer.tops[:1] != layer.bottoms[:1] or layer.propagate_down:
        return False
    maker, _ = shapes.graph.sources[index][0]
    return shapes.layers[maker].layer.type in _KEEP_NO_TOP


def needed(steps: Sequence[Step], weights: Mapping[Port, float]) -> list[Step]:
    """The steps that the loss or a running statistic depends on."""
    wanted, found = set(weights), []
    for step in reversed(steps):
        if step.layer.type == "BatchNorm" or wanted.intersection(step.makes):
            wanted.update(step.reads)
            found.append(step)
    return found[::-1]


def loss_weights(shapes: NetShapes) -> dict[Port, float]:
    """The tops that make the loss, with their weights; by default 1 for a loss' first top."""
    found = {}
    for index, entry in enumerate(shapes.layers):
        given = entry.layer.loss_weights
        if not given and getattr(lookup(entry.layer.type), "auto_tops", False):
            given = (1.0,)
        found.update({(index, top): weight for top, weight in enumerate(given) if weight})
    return found
