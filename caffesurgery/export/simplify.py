"""Makes a graph smaller without changing what it computes.

Per-channel factors and terms (BatchNormalization, Mul and Add with constants) move into the
convolution, deconvolution or inner product before them, also through a Concat whose parts can all
take their share; what depends on constants alone is computed; equal nodes become one; and nodes
that nothing reads go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from .constants import fold_constants
from .graph import Graph, Node, reads

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm")


def simplify(graph: Graph, outputs: Iterable[str], fold: bool = True) -> None:
    """Simplify ``graph`` in place; the tensors ``outputs`` keep their names and values."""
    kept = set(outputs)
    fold_constants(graph)
    _join_reshapes(graph, kept)
    _merge_equal(graph, kept)
    if fold:
        _Folder(graph, kept).run()
    _drop_unread(graph, kept)


def _drop_unread(graph: Graph, kept: set[str]) -> None:
    """Drop nodes of which no output is read, from the end on."""
    read, nodes = set(kept), []
    for node in reversed(graph.nodes):
        if read.intersection(node.outputs):
            read.update(reads(node))
            nodes.append(node)
    graph.nodes = nodes[::-1]


def _join_reshapes(graph: Graph, kept: set[str]) -> None:
    """Let a Reshape of a Reshape read what the first one reads, or go where it undoes that one.

    Its target may copy an axis (0) only where the first one copies that axis too.
    """
    made: dict[str, tuple[str, np.ndarray]] = {}
    same: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        if same.keys() & set(node.inputs):
            node = replace(node, inputs=tuple(same.get(name, name) for name in node.inputs))
        target = graph.initializers.get(node.inputs[-1]) if node.op == "Reshape" else None
        if target is not None:
            source, before = made.get(node.inputs[0], ("", target))
            copied = np.flatnonzero(target == 0)
            if source and all(axis < len(before) and before[axis] == 0 for axis in copied):
                if node.outputs[0] not in kept and _is_shape(target, graph.dims.get(source)):
                    same[node.outputs[0]] = source
                    continue
                node = replace(node, inputs=(source, node.inputs[1]))
            made[node.outputs[0]] = node.inputs[0], target
        nodes.append(node)
    graph.nodes = nodes
    graph.tensors = {blob: same.get(name, name) for blob, name in graph.tensors.items()}


def _is_shape(target: np.ndarray, dims: tuple | None) -> bool:
    """Whether a Reshape to ``target`` leaves a tensor of ``dims`` as it is."""
    if dims is None or len(dims) != len(target):
        return False
    return all(axis in (0, -1) or axis == dim for axis, dim in zip(target.tolist(), dims))


def _merge_equal(graph: Graph, kept: set[str]) -> None:
    """Let what equal nodes make be read from the first of them."""
    first: dict[tuple, Node] = {}
    same: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        node = replace(node, inputs=tuple(same.get(name, name) for name in node.inputs))
        key = (
            node.op,
            node.domain,
            node.inputs,
            len(node.outputs),
            repr(sorted(node.attrs.items())),
        )
        twin = first.setdefault(key, node)
        if twin is node or kept.intersection(node.outputs) or _has_body(node):
            nodes.append(node)
        else:
            same.update(zip(node.outputs, twin.outputs))
    graph.nodes = nodes
    graph.tensors = {blob: same.get(name, name) for blob, name in graph.tensors.items()}


def _has_body(node: Node) -> bool:
    return any(hasattr(value, "nodes") for value in node.attrs.values())


@dataclass(frozen=True)
class _Affine:
    """factor * x + term for each channel (axis 1); float64 arrays of C numbers, or of one."""

    factor: np.ndarray
    term: np.ndarray

    def part(self, start: int, end: int) -> _Affine:
        """The channels start..end (excluded)."""
        halves = (a if a.size == 1 else a[start:end] for a in (self.factor, self.term))
        return _Affine(*halves)


class _Folder:
    """One pass over the nodes in their order, so that chains of factors fold one by one."""

    def __init__(self, graph: Graph, kept: set[str]):
        self.graph = graph
        self.kept = kept
        self.nodes = {i: node for i, node in enumerate(graph.nodes)}
        self.makers = {name: i for i, node in self.nodes.items() for name in node.outputs}
        self.readers: dict[str, int] = {}
        for node in graph.nodes:
            for name in reads(node):
                self.readers[name] = self.readers.get(name, 0) + 1
        self.dims = dict(graph.dims)

    def run(self) -> None:
        for index in list(self.nodes):
            node = self.nodes[index]
            affine = self._affine(node)
            if affine is None:
                continue
            tensor = next(name for name in node.inputs if name not in self.graph.initializers)
            self.dims.setdefault(node.outputs[0], self.dims.get(tensor))
            if self._can_take(tensor, affine):
                self._take(tensor, affine)
                self._hand_over(tensor, index)
        self.graph.nodes = list(self.nodes.values())

    def _hand_over(self, tensor: str, index: int) -> None:
        """The maker of ``tensor`` makes what node ``index`` made, which goes."""
        name = self.nodes.pop(index).outputs[0]
        maker = self.makers.pop(tensor)
        node = self.nodes[maker]
        outputs = tuple(name if out == tensor else out for out in node.outputs)
        self.nodes[maker] = replace(node, outputs=outputs)
        self.makers[name] = maker

    def _affine(self, node: Node) -> _Affine | None:
        """What a node does to each channel, or None where it is no such node."""
        constants = [self.graph.initializers.get(name) for name in node.inputs]
        if node.op == "BatchNormalization" and all(c is not None for c in constants[1:]):
            scale, bias, mean, variance = (c.astype(np.float64) for c in constants[1:])
            factor = scale / np.sqrt(variance + node.attrs["epsilon"])
            return _Affine(factor, bias - mean * factor)
        if node.op not in ("Mul", "Add") or sum(c is None for c in constants) != 1:
            return None
        tensor = node.inputs[0] if constants[0] is None else node.inputs[1]
        constant = constants[1] if constants[0] is None else constants[0]
        row = self._per_channel(constant, tensor)
        if row is None:
            return None
        one = np.ones(1)
        return _Affine(row, 0 * one) if node.op == "Mul" else _Affine(one, row)

    def _per_channel(self, constant: np.ndarray, tensor: str) -> np.ndarray | None:
        """A constant as one number for each channel of ``tensor``, if it is that."""
        if constant.dtype.kind != "f":
            return None
        if constant.size == 1:
            return constant.astype(np.float64).reshape(1)
        dims = self.dims.get(tensor)
        if dims is None or constant.ndim > len(dims):
            return None
        shape = (1,) * (len(dims) - constant.ndim) + constant.shape
        if len(shape) < 2 or constant.size != shape[1] or shape[1] != dims[1]:
            return None
        return constant.astype(np.float64).ravel()

    def _can_take(self, tensor: str, affine: _Affine) -> bool:
        """Whether the maker of ``tensor``, which nothing else reads, can compute this too."""
        if tensor in self.kept or self.readers.get(tensor) != 1 or tensor not in self.makers:
            return False
        node = self.nodes[self.makers[tensor]]
        if node.op in _WEIGHTED:
            terms = node.inputs[1:]
            return all(name in self.graph.initializers for name in terms) and (
                node.op != "Gemm" or len(terms) < 2 or self._array(terms[1]).ndim == 1
            )
        if node.op == "BatchNormalization":
            return all(name in self.graph.initializers for name in node.inputs[1:])
        if node.op == "Concat" and node.attrs["axis"] == 1:
            return all(
                self._channels(name) and self._can_take(name, affine) for name in node.inputs
            )
        return False

    def _channels(self, tensor: str) -> int:
        """Channels of a tensor, 0 where they are not known."""
        dims = self.dims.get(tensor) or ()
        return dims[1] if len(dims) > 1 and isinstance(dims[1], int) else 0

    def _take(self, tensor: str, affine: _Affine) -> None:
        """Let the maker of ``tensor`` compute ``affine`` of it."""
        index = self.makers[tensor]
        node = self.nodes[index]
        if node.op == "Concat":
            start = 0
            for name in node.inputs:
                end = start + self._channels(name)
                self._take(name, affine.part(start, end))
                start = end
            return
        if node.op == "BatchNormalization":
            scale, bias = (self._array(name).astype(np.float64) for name in node.inputs[1:3])
            new = [scale * affine.factor, bias * affine.factor + affine.term]
            names = [self._replace(name, array) for name, array in zip(node.inputs[1:3], new)]
            self.nodes[index] = replace(node, inputs=(node.inputs[0], *names, *node.inputs[3:]))
            return
        weight = self._array(node.inputs[1])
        wide, spread = _by_output(node, weight)
        outputs = wide.shape[0] * wide.shape[2] if wide.ndim == 4 else 0
        factor = np.broadcast_to(affine.factor, (outputs,))
        bias = self._array(node.inputs[2]).astype(np.float64) if len(node.inputs) > 2 else 0.0
        bias = np.broadcast_to(bias * affine.factor + affine.term, (outputs,))
        names = [node.inputs[0], node.inputs[1]]
        if (factor != 1).any():
            scaled = wide * factor.astype(np.float32).reshape(spread)
            names[1] = self._replace(node.inputs[1], scaled.reshape(weight.shape))
        old = node.inputs[2] if len(node.inputs) > 2 else node.inputs[1].replace("weight", "bias")
        names.append(self._replace(old, bias))
        self.nodes[index] = replace(node, inputs=tuple(names))

    def _array(self, name: str) -> np.ndarray:
        return self.graph.initializers[name]

    def _replace(self, name: str, array: np.ndarray) -> str:
        """The name of an initializer with new content, which takes ``name`` where it is free."""
        if self.readers.get(name, 0) != 1:
            if name in self.graph.initializers:
                self.readers[name] -= 1
            name = self.graph.unique(name)
            self.readers[name] = 1
        self.graph.initializers[name] = np.ascontiguousarray(array, np.float32)
        return name


def _by_output(node: Node, weight: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """A weight as groups x inputs x outputs x rest, and the shape of one number for each output.

    Caffe's and ONNX's kernels: outputs first for Conv, inputs first for ConvTranspose; a matrix by
    ``transB``.
    """
    groups = node.attrs.get("group", 1)
    if node.op == "ConvTranspose":
        wide = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        return wide, (groups, 1, weight.shape[1], 1)
    if node.op == "Gemm" and not node.attrs.get("transB"):
        return weight.reshape(1, weight.shape[0], weight.shape[1], 1), (1, 1, -1, 1)
    return weight.reshape(1, 1, weight.shape[0], -1), (1, 1, -1, 1)
