"""Cuts an ONNX model in two, in front of the first node whose weights differ from another model's.

In: a net's model, and that of the same net with other weights in some layers.  Out: the part that
both have in common and the rest, so that what they share is computed once.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .graph import reads
from .model import Model, Value


def first_difference(base: Model, other: Model) -> int:
    """Index of the first node that differs, or reads another constant; the number of nodes if none.

    Constants are compared by content, so the models may come from two runs of the exporter.
    """
    equal: dict[str, bool] = {}
    for index, (mine, theirs) in enumerate(zip(base.nodes, other.nodes)):
        if mine != theirs:
            return index
        for name in reads(mine):
            if name not in equal:
                pair = base.initializers.get(name), other.initializers.get(name)
                equal[name] = _same(*pair)
            if not equal[name]:
                return index
    return len(base.nodes)


def _same(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.shape == second.shape and (
        first.__array_interface__ == second.__array_interface__ or np.array_equal(first, second)
    )


def head(model: Model, index: int) -> Model | None:
    """The nodes in front of ``index``; its outputs are what the others read.

    None where there is nothing to cut off, or where a shape at the cut is not known.
    """
    front, back = model.nodes[:index], model.nodes[index:]
    values = _crossing(model, front, back)
    if not values or any(value is None for value in values):
        return None
    return replace(
        model,
        nodes=front,
        outputs=tuple(values),
        values=(),
        initializers=_used(model, front),
    )


def tail(model: Model, index: int) -> Model:
    """The nodes from ``index`` on; what they read of those in front of them are more inputs."""
    front, back = model.nodes[:index], model.nodes[index:]
    read = {name for node in back for name in reads(node)}
    inputs = tuple(value for value in model.inputs if value.name in read)
    return replace(
        model,
        nodes=back,
        inputs=(*inputs, *_crossing(model, front, back)),
        values=(),
        initializers=_used(model, back),
    )


def _crossing(model: Model, front, back) -> list[Value | None]:
    """Tensors that ``front`` makes and ``back`` reads, in the order of their nodes."""
    known = {value.name: value for value in (*model.values, *model.outputs)}
    read = {name for node in back for name in reads(node)}
    made = [name for node in front for name in node.outputs if name in read]
    return [known.get(name) for name in made]


def _used(model: Model, nodes) -> dict[str, np.ndarray]:
    read = {name for node in nodes for name in reads(node)}
    return {name: array for name, array in model.initializers.items() if name in read}
