"""Shapes, parameter blobs and MACs of every layer of a net in one phase.

A ``Net`` goes in, with shapes for what its text leaves open (the images of a database); out comes
what Caffe would set up, or the NetError that says why it would not.  Types that BVLC Caffe does not
have are carried: the shapes behind them are unknown, and only asking for those is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from ..errors import NetError, suggest
from .graph import Connections, connections
from .layers import LayerType, MaybeShape, Shape, lookup
from .layers.base import check_arity, check_shape, refuse, show
from .net import Layer, Net
from .sources import source_shapes


@dataclass(frozen=True)
class LayerShapes:
    """One layer: shapes of its bottoms, tops and parameter blobs, and its MACs for the batch.

    Unknown shapes are None; ``params`` and ``macs`` are None where they depend on one, and
    ``unknown`` then says which layer is to blame.  ``owners`` gives for each parameter blob the
    (layer index, blob index) that owns it: its own place unless ``param { name }`` shares it.
    """

    layer: Layer
    bottoms: tuple[MaybeShape, ...]
    tops: tuple[MaybeShape, ...]
    params: tuple[Shape, ...] | None
    macs: int | None
    owners: tuple[tuple[int, int], ...] = ()
    unknown: str = ""

    @property
    def parameters(self) -> int:
        """Number of learned numbers in its blobs, shared ones included; 0 where unknown."""
        return sum(prod(shape) for shape in self.params or ())


@dataclass(frozen=True)
class NetShapes:
    """What a net amounts to: its layers in order and the last shape of each blob by name.

    ``notes`` tells what was assumed, ``graph`` who reads what.
    """

    net: Net
    layers: tuple[LayerShapes, ...]
    blobs: dict[str, Shape]
    graph: Connections
    notes: list[str] = field(default_factory=list)

    @property
    def macs(self) -> int:
        """Multiply-adds of one forward pass over the batch, of all layers that are known."""
        return sum(entry.macs or 0 for entry in self.layers)

    @property
    def images(self) -> int:
        """Images in one forward pass: the first dimension of the net's first input, at least 1."""
        for entry in self.layers:
            if not entry.bottoms and entry.tops and entry.tops[0]:
                return max(entry.tops[0][0], 1)
        return 1

    @property
    def parameters(self) -> int:
        """Number of learned numbers of the net; shared blobs count once."""
        return sum(
            prod(shape)
            for index, entry in enumerate(self.layers)
            for number, shape in enumerate(entry.params or ())
            if entry.owners[number] == (index, number)
        )

    def layer(self, name: str) -> LayerShapes:
        """The first layer of this name, with all its shapes; NetError where it is not there or
        they are not known."""
        for entry in self.layers:
            if entry.layer.name == name:
                if entry.unknown:
                    raise NetError(
                        f"{entry.layer.where()}: its shapes are unknown: {entry.unknown}"
                    )
                return entry
        names = [entry.layer.name for entry in self.layers]
        raise NetError(f"no layer '{name}' in this phase; {suggest(name, names)}")

    def shape(self, blob: str) -> Shape:
        """The last shape of a blob; NetError where the net lacks it or it is not known."""
        if blob in self.blobs:
            return self.blobs[blob]
        for entry in self.layers:
            if blob in entry.layer.tops:
                raise NetError(
                    f"{entry.layer.where()}: the shape of '{blob}' is unknown: {entry.unknown}"
                )
        raise NetError(f"no blob '{blob}' in this phase; {suggest(blob, self.blobs)}")


def infer(
    net: Net,
    phase: str | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    stages: Sequence[str] = (),
    level: int | None = None,
) -> NetShapes:
    """Shapes of all layers that take part in a phase (by default the net's own, else TEST).

    ``inputs`` gives shapes by top name for data layers, for Input layers (overriding theirs) and
    for tops of unknown layer types; the batch may be left out where the layer states it.  ``batch``
    replaces the leading dimension of the first input and of all others that share it.
    """
    graph = connections(net.phase(phase, stages, level), net.layers)
    notes: list[str] = []
    given = dict(inputs or {})
    made = source_shapes(net, graph.layers, given, batch, notes)
    walk = _Walk(graph, given, made)
    for index in range(len(graph.layers)):
        walk.step(index)
    blobs = {
        name: shape for entry in walk.entries for name, shape in zip(entry.layer.tops, entry.tops)
    }
    known = {name: shape for name, shape in blobs.items() if shape is not None}
    return NetShapes(net, tuple(walk.entries), known, graph, notes)


class _Walk:
    """The state of one pass through the layers, in their order."""

    def __init__(self, graph: Connections, given: dict, made: dict[int, list[MaybeShape]]):
        self.graph = graph
        self.given = given
        self.made = made
        self.entries: list[LayerShapes] = []
        self.named: dict[str, tuple[int, int]] = {}

    def step(self, index: int) -> None:
        """Append the shapes of the next layer."""
        layer = self.graph.layers[index]
        entry = lookup(layer.type)
        sources = self.graph.sources[index]
        bottoms = [self.entries[maker].tops[top] for maker, top in sources]
        _check_layer(layer, entry)
        lost = [self.entries[maker].unknown for (maker, _), b in zip(sources, bottoms) if b is None]
        if entry is None:
            reason = f"layer '{layer.name}' has the unknown type '{layer.type}'"
            self._carry(layer, bottoms, f"{reason} ({layer.where()})")
        elif lost:
            self._carry(layer, bottoms, lost[0])
        else:
            self._measure(index, layer, entry, bottoms)

    def _carry(self, layer: Layer, bottoms: list[MaybeShape], reason: str) -> None:
        """A layer whose tops cannot be computed; the caller may have given them."""
        tops = tuple(self.given.get(top) for top in layer.tops)
        self.entries.append(LayerShapes(layer, tuple(bottoms), tops, None, None, unknown=reason))

    def _measure(self, index: int, layer: Layer, entry: LayerType, bottoms: list) -> None:
        tops = self.made.get(index) or entry.tops(layer, bottoms)
        if layer.tops and None in tops:
            reason = f"layer '{layer.name}' is of type {layer.type}, whose code alone knows them"
            self._carry(layer, bottoms, f"{reason} ({layer.where()})")
            return
        for name, shape in zip(layer.tops, tops):
            check_shape(layer, shape, f"top '{name}'")
        params = entry.blobs(layer, bottoms)
        for number, shape in enumerate(params):
            check_shape(layer, shape, f"parameter blob {number}")
            if not prod(shape):
                raise refuse(layer, f"parameter blob {number} would be empty: {show(shape)}")
        tops = tops[: len(layer.tops)]
        owners = self._owners(index, layer, params)
        macs = entry.macs(layer, bottoms, tops)
        self.entries.append(
            LayerShapes(layer, tuple(bottoms), tuple(tops), tuple(params), macs, owners)
        )

    def _owners(self, index: int, layer: Layer, params: list[Shape]) -> tuple:
        """Who owns each parameter blob; blobs of one name are one, if their shapes agree."""
        if len(layer.specs) > len(params):
            raise refuse(
                layer, f"has {len(layer.specs)} param statements for {len(params)} parameter blobs"
            )
        owners = []
        for number, shape in enumerate(params):
            spec = layer.specs[number] if number < len(layer.specs) else None
            owner = (index, number)
            if spec is not None and spec.name:
                owner = self.named.setdefault(spec.name, owner)
            if owner != (index, number):
                self._check_shared(layer, number, shape, owner)
            owners.append(owner)
        return tuple(owners)

    def _check_shared(self, layer: Layer, number: int, shape: Shape, owner: tuple) -> None:
        """What Net::AppendParam asks of a blob that shares another's name."""
        spec = layer.specs[number]
        entry = self.entries[owner[0]] if owner[0] < len(self.entries) else None
        if entry is None:
            raise refuse(layer, f"shares param '{spec.name}' with itself")
        shared, first = entry.params[owner[1]], entry.layer.specs[owner[1]]
        loose = spec.share_mode == "PERMISSIVE"
        if prod(shape) != prod(shared) if loose else shape != shared:
            raise refuse(
                layer,
                f"shares param '{spec.name}' of layer '{entry.layer.name}' "
                f"(line {entry.layer.line}), which is {show(shared)}, but needs {show(shape)}",
            )
        for name in ("lr_mult", "decay_mult"):
            both = name in spec.given and name in first.given
            if both and getattr(spec, name) != getattr(first, name):
                raise refuse(
                    layer,
                    f"shares param '{spec.name}' with layer '{entry.layer.name}' but gives it "
                    f"another {name}",
                )


def _check_layer(layer: Layer, entry: LayerType | None) -> None:
    """The checks that need no shapes."""
    if entry is not None:
        check_arity(entry, layer)
    if layer.propagate_down and len(layer.propagate_down) != len(layer.bottoms):
        raise refuse(
            layer,
            f"has {len(layer.propagate_down)} propagate_down for {len(layer.bottoms)} bottoms; "
            "expected none, or one for each",
        )
