"""Half precision: a float32 model in, one that stores and computes in float16 where that is safe.

Operators whose values leave the range of float16, or which add many of them up (LRN, softmax,
exponentials, normalisations, loops), stay in float32 between two casts, and so does every node with
a constant that float16 cannot hold.  Inputs and outputs stay float32 unless asked otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from .graph import Body, Node, reads
from .model import Model, Value
from .names import unique

SAFE_IN_FLOAT32 = frozenset(
    """LRN Softmax LogSoftmax Exp Log Softplus Pow Sqrt Reciprocal Sum
    ReduceSum ReduceMean ReduceSumSquare ReduceL1 ReduceL2 ReduceProd ReduceLogSumExp CumSum
    LpNormalization MeanVarianceNormalization InstanceNormalization BatchNormalization
    LayerNormalization GlobalLpPool LpPool Einsum ArgMax ArgMin Scan Loop If
    NonMaxSuppression TopK RoiAlign MaxRoiPool GridSample MaxUnpool Range Cast""".split()
)
"""Operators that stay in float32 (a Cast makes float32, which is cast on where it is needed)."""

_FLOAT, _FLOAT16 = 1, 10
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
_ALWAYS_FLOAT32 = {"Resize": (1, 2)}
"""Inputs that ONNX wants in float32 whatever the data is: region and scales of a Resize."""


def to_half(model: Model, *, halve_ends: bool = False) -> Model:
    """``model`` in half precision; ``halve_ends`` makes inputs and outputs float16 too.

    Weights are rounded to the nearest float16 (relative error up to 2**-11).
    """
    work = _Halving(model, model.kinds())
    inputs = tuple(work.start(value, halve_ends) for value in model.inputs)
    for node in model.nodes:
        work.convert(node)
    outputs = tuple(work.end(value, halve_ends) for value in model.outputs)
    read = {name for node in work.nodes for name in reads(node)}
    values = (
        replace(value, kind="float16") if value.name in work.halves else value
        for value in model.values
    )
    return replace(
        model,
        inputs=inputs,
        outputs=outputs,
        values=tuple(values),
        nodes=tuple(work.nodes),
        initializers={name: array for name, array in work.constants.items() if name in read},
        metadata={**model.metadata, "precision": "float16"},
    )


@dataclass
class _Halving:
    """The nodes written so far; ``halves`` are the tensors that are float16 under their name."""

    model: Model
    kinds: Mapping[str, str]
    nodes: list[Node] = field(default_factory=list)
    halves: set[str] = field(default_factory=set)
    casts: dict[tuple[str, int], str] = field(default_factory=dict)

    def __post_init__(self):
        self.constants = dict(self.model.initializers)
        self._taken = {*self.constants, *(value.name for value in self.model.inputs)}
        for node in self.model.nodes:
            self._taken.update((node.name, *reads(node), *node.outputs))

    def start(self, value: Value, halve: bool) -> Value:
        """An input of the graph."""
        if not halve or value.kind != "float32":
            return value
        self.halves.add(value.name)
        return replace(value, kind="float16")

    def convert(self, node: Node) -> None:
        """Append ``node`` in the precision that suits it."""
        floats = [name for name in (*node.inputs, *node.outputs) if self._is_float(name)]
        if not floats or self._stays(node):
            inputs = [self._as(name, _FLOAT) for name in node.inputs]
            self.nodes.append(_changed(node, inputs, node.outputs))
            return
        kept = _ALWAYS_FLOAT32.get(node.op, ())
        inputs = [
            self._as(name, _FLOAT if place in kept else _FLOAT16)
            for place, name in enumerate(node.inputs)
        ]
        self.halves.update(name for name in node.outputs if self._is_float(name))
        self.nodes.append(_changed(node, inputs, node.outputs))

    def end(self, value: Value, halve: bool) -> Value:
        """An output of the graph: cast under its own name, where its precision is another."""
        if value.kind != "float32" or (value.name in self.halves) == halve:
            return replace(value, kind="float16") if value.name in self.halves else value
        inner = unique(f"{value.name}/inner", self._taken)
        renamed = {value.name: inner}
        self.nodes = [
            _changed(
                node,
                [renamed.get(name, name) for name in node.inputs],
                [renamed.get(name, name) for name in node.outputs],
            )
            for node in self.nodes
        ]
        self._cast(inner, value.name, _FLOAT16 if halve else _FLOAT)
        return replace(value, kind="float16" if halve else "float32")

    def _is_float(self, name: str) -> bool:
        return self.kinds.get(name) == "float32"

    def _stays(self, node: Node) -> bool:
        """Whether a node has to stay in float32."""
        if node.op in SAFE_IN_FLOAT32 or any(isinstance(a, Body) for a in node.attrs.values()):
            return True
        return not all(
            _fits(self.model.initializers[name])
            for name in node.inputs
            if name in self.model.initializers and self._is_float(name)
        )

    def _as(self, name: str, wanted: int) -> str:
        """``name``, or a copy of it, in the precision that is wanted."""
        if not self._is_float(name) or (name in self.halves) == (wanted == _FLOAT16):
            return name
        if (name, wanted) not in self.casts:
            suffix = "half" if wanted == _FLOAT16 else "float"
            copy = unique(f"{name}/{suffix}", self._taken)
            self.casts[name, wanted] = copy
            if name in self.model.initializers:
                self.constants[copy] = self.model.initializers[name].astype(np.float16)
            else:
                self._cast(name, copy, wanted)
        return self.casts[name, wanted]

    def _cast(self, source: str, target: str, to: int) -> None:
        name = unique(f"{target}:Cast", self._taken)
        self.nodes.append(Node("Cast", name, (source,), (target,), {"to": to}))


def _changed(node: Node, inputs, outputs) -> Node:
    return replace(node, inputs=tuple(inputs), outputs=tuple(outputs))


def _fits(array: np.ndarray) -> bool:
    """Whether float16 holds the numbers: none too large, and not all so small that they vanish."""
    if not array.size:
        return True
    largest = max(float(array.max()), -float(array.min()))
    return largest <= _LARGEST and (largest == 0 or largest >= _SMALLEST)
