"""Builds the ONNX graph of a net, layer by layer, in names of tensors and without importing onnx.

A layer type is made exportable by one method, ``onnx(self, layer, g)``, on its class in
``net/layers``.  ``g`` is a :class:`LayerGraph`, which knows that one layer:

- ``g.input(i)`` is the tensor of bottom i; ``g.weight(i)`` the i-th parameter blob as a NumPy array
  of the shape that Caffe expects, ``g.has_weight(i)`` whether there is one;
- ``g.const(array, hint)`` makes an initializer (equal ones are shared) and ``g.ints(values)`` an
  int64 one; ``g.node(op, inputs, attrs)`` appends a node and returns the name of its output;
- ``g.output(i, tensor)`` says which tensor is top i.  A layer that computes nothing (Dropout)
  hands an input on: ``g.output(0, g.input(0))``;
- ``g.bottom_shapes`` and ``g.top_shapes`` are Caffe's shapes at the batch of the net,
  ``g.bottom_dims`` and ``g.top_dims`` the same with every axis that grows with the batch replaced
  by ``BATCH`` (or None where it is a multiple of it), and where sizes are left open by ``HEIGHT``,
  ``WIDTH`` or None.  Shapes written into the graph must come from the dims;
  ``g.reshape(tensor, dims)`` takes them as they are, ``g.size(dims)`` multiplies them;
- ``g.reduce(op, tensor, axes)`` hides what changed between opsets, ``g.scan`` writes a loop over
  the first axis, ``g.as_float`` and ``g.as_int`` cast (blobs are float32, all of them);
- ``g.unsupported(reason)`` refuses the layer by name, type and line.

Blob names become tensor names: the last writer of a blob carries its name, and earlier versions of
a blob that is changed in place are called ``blob__layer``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np

from ..errors import ExportError
from .names import unique

BATCH = "batch"
"""The symbol of the axis that follows the batch."""

HEIGHT, WIDTH = "height", "width"
"""The symbols of the sizes of the first image, where they are left open."""

Dims = tuple  # of int, a symbol, or None for an axis that is open in another way

_FLOAT, _INT64 = 1, 7
"""TensorProto.DataType, as Cast takes it."""

_SHARED_BY_CONTENT = 1 << 16
"""Initializers up to this many bytes are compared by content, larger ones by address."""


class Unsupported(ExportError):
    """A layer whose type can be written, but not with these parameters."""


@dataclass(frozen=True)
class Node:
    """One ONNX node; an attribute may be an int, float, str, a sequence of those, or a Body.
    ``domain`` is "" for ONNX's own operators."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    domain: str = ""


@dataclass(frozen=True)
class Body:
    """The subgraph of a Scan: ``inputs`` and ``outputs`` are (tensor, dims), float32 all."""

    name: str
    inputs: tuple[tuple[str, Dims], ...]
    outputs: tuple[tuple[str, Dims], ...]
    nodes: tuple[Node, ...]


def reads(node: Node) -> Iterator[str]:
    """Tensors that a node reads, those of its loop body included."""
    yield from node.inputs
    for value in node.attrs.values():
        for inner in getattr(value, "nodes", ()):
            yield from reads(inner)


@dataclass
class Graph:
    """What has been written so far, and the tensor that each blob stands for at this point."""

    opset: int
    reserved: Iterable[str]
    nodes: list[Node] = field(default_factory=list)
    inputs: dict[str, Dims] = field(default_factory=dict)
    initializers: dict[str, np.ndarray] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)
    dims: dict[str, Dims] = field(default_factory=dict)
    versions: list[tuple[str, str, str]] = field(default_factory=list)

    def __post_init__(self):
        self._taken = set(self.reserved)
        self._constants: dict[tuple, str] = {}

    def unique(self, hint: str) -> str:
        """A name that nothing has yet; see ``names.unique``."""
        return unique(hint, self._taken)

    def add_input(self, blob: str, dims: Dims) -> None:
        """Declare ``blob`` an input of the graph."""
        self.inputs[blob] = self.dims[blob] = dims
        self.tensors[blob] = blob

    def add_constant(self, array: np.ndarray, hint: str) -> str:
        """The name of an initializer with this content; ``array`` must not change afterwards."""
        array = np.asarray(array)
        if array.nbytes <= _SHARED_BY_CONTENT:
            key = (array.dtype.str, array.shape, array.tobytes())
        else:
            at = array.__array_interface__["data"][0]
            key = (array.dtype.str, array.shape, array.strides, at)
        if key not in self._constants:
            name = self.unique(hint)
            self._constants[key] = name
            self.initializers[name] = array
        return self._constants[key]

    def bind(self, blob: str, tensor: str, dims: Dims, layer: str) -> None:
        """From here on ``blob`` is ``tensor``, written by ``layer``."""
        self.tensors[blob] = tensor
        self.dims.setdefault(tensor, dims)
        self.versions.append((blob, tensor, layer))

    def finish(self, outputs: Sequence[str]) -> dict[str, str]:
        """Give blobs their names and return output blob -> the tensor that carries it.

        A blob that is an input, a constant, or the same tensor as another output gets an Identity.
        """
        fixed = {*self.inputs, *self.initializers}
        names: dict[str, str] = {}
        carriers = {}
        for blob in outputs:
            tensor = self.tensors[blob]
            if tensor in fixed or tensor in names:
                name = self.unique(blob) if blob in self.inputs else blob
                self.nodes.append(Node("Identity", self.unique(name), (tensor,), (name,), {}))
                self.dims[name] = self.dims[tensor]
            else:
                name = names[tensor] = self._name(blob)
            carriers[blob] = name
        for blob, tensor in self.tensors.items():
            if tensor not in fixed and tensor not in names:
                names[tensor] = self._name(blob)
        for blob, tensor, layer in self.versions:
            if tensor not in fixed and tensor not in names:
                names[tensor] = self.unique(f"{blob}__{layer}")
        self.nodes = [_renamed(node, names) for node in self.nodes]
        self.dims = {names.get(tensor, tensor): dims for tensor, dims in self.dims.items()}
        return carriers

    def _name(self, blob: str) -> str:
        return self.unique(blob) if blob in self.inputs else blob


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    return replace(
        node,
        inputs=tuple(names.get(name, name) for name in node.inputs),
        outputs=tuple(names.get(name, name) for name in node.outputs),
    )


class LayerGraph:
    """The graph as one layer sees it: ``g`` in ``LayerType.onnx(layer, g)``."""

    def __init__(self, graph: Graph, layer, shapes, dims, weights: Sequence[np.ndarray]):
        """``shapes`` and ``dims`` are pairs (of the bottoms, of the tops)."""
        self.layer = layer
        self.opset = graph.opset
        self.bottom_shapes, self.top_shapes = shapes
        self.bottom_dims, self.top_dims = dims
        self._graph = graph
        self._weights = weights
        self._inputs = [graph.tensors[blob] for blob in layer.bottoms]
        known = tuple(graph.dims.get(t, d) for t, d in zip(self._inputs, self.bottom_dims))
        if any(a and a[0] is None and b[0] is not None for a, b in zip(known, self.bottom_dims)):
            # the data decide how many items there are, here and behind
            self.bottom_dims = known
            self.top_dims = tuple((None, *dims[1:]) for dims in self.top_dims)

    # what the layer is given

    def input(self, i: int = 0) -> str:
        """The tensor of bottom ``i``."""
        return self._inputs[i]

    def has_weight(self, i: int) -> bool:
        """Whether the layer has an i-th parameter blob."""
        return i < len(self._weights)

    def weight(self, i: int) -> np.ndarray:
        """Parameter blob ``i``: float32, of the shape that Caffe expects."""
        return np.asarray(self._weights[i], dtype=np.float32)

    def blobs(self) -> list[np.ndarray]:
        """All parameter blobs."""
        return [self.weight(i) for i in range(len(self._weights))]

    # what it writes

    def const(self, array, hint: str = "const") -> str:
        """An initializer named ``layer.hint``; floats become float32."""
        array = np.asarray(array)
        if array.dtype.kind == "f":
            array = np.asarray(array, np.float32)
        return self._graph.add_constant(array, f"{self.layer.name}.{hint}")

    def ints(self, values: Iterable[int], hint: str = "const") -> str:
        """An int64 initializer, as shapes, axes and starts are given."""
        return self.const(np.array(list(values), np.int64), hint)

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        attrs: Mapping | None = None,
        n_outputs: int = 1,
        domain: str = "",
    ):
        """Append a node; returns its output's name, or a list of them for ``n_outputs`` > 1."""
        layer = self.layer.name
        outputs = tuple(self._graph.unique(f"{layer}/{op}") for _ in range(n_outputs))
        name = self._graph.unique(f"{layer}:{op}")
        self._graph.nodes.append(Node(op, name, tuple(inputs), outputs, dict(attrs or {}), domain))
        return outputs[0] if n_outputs == 1 else list(outputs)

    def output(self, i: int, tensor: str, dims: Dims | None = None) -> None:
        """Top ``i`` is ``tensor``; ``dims`` where the data decide an axis, which is None then."""
        dims = self.top_dims[i] if dims is None else dims
        self._graph.bind(self.layer.tops[i], tensor, dims, self.layer.name)

    def reshape(self, tensor: str, dims: Dims) -> str:
        """``tensor`` as ``dims``, of which at most one is symbolic (BATCH or None)."""
        known = self._graph.dims.get(tensor)
        if known == tuple(dims) and None not in known:
            return tensor
        target = [axis if isinstance(axis, int) else -1 for axis in dims]
        for index, (before, axis) in enumerate(zip(known or (), dims)):
            if isinstance(axis, str) and before == axis:
                target[index] = 0
        if target.count(-1) > 1:
            self.unsupported("two axes of its shape are open; export a fixed batch, or fixed sizes")
        name = self.node("Reshape", [tensor, self.ints(target, "shape")])
        self._graph.dims[name] = tuple(dims)
        return name

    def reduce(self, op: str, tensor: str, axes: Sequence[int], keepdims: bool = True) -> str:
        """``op`` over ``axes``, which are an input since opset 13 (ReduceSum) or 18 (others)."""
        keep = {"keepdims": int(keepdims)}
        if self.opset >= (13 if op == "ReduceSum" else 18):
            return self.node(op, [tensor, self.ints(axes, "axes")], keep)
        return self.node(op, [tensor], {"axes": list(axes), **keep})

    def split(self, tensor: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Parts of ``tensor``; their sizes are an input since opset 13."""
        if self.opset >= 13:
            inputs, attrs = [tensor, self.ints(sizes, "sizes")], {"axis": axis}
        else:
            inputs, attrs = [tensor], {"axis": axis, "split": list(sizes)}
        return self.node("Split", inputs, attrs, n_outputs=len(sizes))

    def resize(self, tensor: str, scales: Sequence[float], attrs: Mapping) -> str:
        """``tensor`` (N x C x height x width) with both sizes scaled, results rounded down."""
        region = "" if self.opset >= 13 else self.const(np.zeros(0, np.float32), "region")
        factors = self.const(np.array([1, 1, *scales], np.float32), "scales")
        return self.node("Resize", [tensor, region, factors], attrs)

    def resize_to(self, tensor: str, sizes: str, attrs: Mapping) -> str:
        """``tensor`` (N x C x height x width) with the height and width in the tensor ``sizes``."""
        region = "" if self.opset >= 13 else self.const(np.zeros(0, np.float32), "region")
        scales = "" if self.opset >= 13 else self.const(np.zeros(0, np.float32), "scales")
        whole = self.node("Concat", [self.sizes(tensor, 0, 2), sizes], {"axis": 0})
        return self.node("Resize", [tensor, region, scales, whole], attrs)

    def sizes(self, tensor: str, start: int, end: int) -> str:
        """The dimensions start..end (excluded) of ``tensor``, as an int64 tensor."""
        cut = [self.ints([value], "cut") for value in (start, end)]
        return self.node("Slice", [self.node("Shape", [tensor]), *cut])

    def full(self, like: str, dims: Dims, value: float) -> str:
        """A tensor with ``value`` everywhere, of the shape ``dims``, which ``like`` has too."""
        if all(isinstance(axis, int) for axis in dims):
            return self.const(np.full(dims, value), "full")
        return self.node("Expand", [self.const(value, "fill"), self.node("Shape", [like])])

    def scan(
        self,
        states: Sequence[tuple[str, Dims]],
        slices: Sequence[tuple[str, Dims]],
        step: Callable[[list[str], list[str]], tuple[list[str], list[tuple[str, Dims]]]],
    ) -> tuple[list[str], list[str]]:
        """Run ``step`` along the first axis of ``slices``: (final states, stacked outputs).

        ``states`` are (initial tensor, dims), ``slices`` (tensor, dims of one slice).  ``step``
        takes the tensors of both, appends nodes, and returns the next states and what to stack.
        Its nodes may read those tensors and constants, but nothing else from outside.
        """
        unique = self._graph.unique
        given = [(unique(f"{self.layer.name}/state"), dims) for _, dims in states]
        given += [(unique(f"{self.layer.name}/slice"), dims) for _, dims in slices]
        outer, self._graph.nodes = self._graph.nodes, []
        try:
            names = [name for name, _ in given]
            following, stacked = step(names[: len(states)], names[len(states) :])
            body_nodes = tuple(self._graph.nodes)
        finally:
            self._graph.nodes = outer
        made = [(name, dims) for name, (_, dims) in zip(following, states)] + stacked
        body = Body(unique(f"{self.layer.name}/body"), tuple(given), tuple(made), body_nodes)
        outputs = self.node(
            "Scan",
            [tensor for tensor, _ in (*states, *slices)],
            {"body": body, "num_scan_inputs": len(slices)},
            n_outputs=len(made),
        )
        outputs = [outputs] if isinstance(outputs, str) else outputs
        return outputs[: len(states)], outputs[len(states) :]

    def as_float(self, tensor: str) -> str:
        """``tensor`` as float32."""
        return self.node("Cast", [tensor], {"to": _FLOAT})

    def as_int(self, tensor: str) -> str:
        """``tensor`` as int64, rounded towards zero."""
        return self.node("Cast", [tensor], {"to": _INT64})

    @staticmethod
    def size(dims: Dims) -> int | str | None:
        """Number of elements; symbolic where an axis is (BATCH only where that stands alone)."""
        symbols = [axis for axis in dims if not isinstance(axis, int)]
        number = math.prod(axis for axis in dims if isinstance(axis, int))
        if not symbols:
            return number
        return BATCH if symbols == [BATCH] and number == 1 else None

    def unsupported(self, reason: str) -> NoReturn:
        """Refuse this layer."""
        raise Unsupported(
            f"{self.layer.where()}: {self.layer.type} cannot be written as ONNX here: {reason}"
        )

    def mark(self) -> int:
        """The place in the graph from which on ``rewind`` drops nodes."""
        return len(self._graph.nodes)

    def rewind(self, mark: int) -> None:
        """Drop the nodes written since ``mark``; no top may be bound yet."""
        del self._graph.nodes[mark:]
