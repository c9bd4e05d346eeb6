"""Layers that ONNX cannot hold, as operators of a domain of the user's own.

Type, bottoms, parameter blobs and the parameters of the text go in; out comes one node whose
attributes are the parameters, for an app that brings the operator.
"""

from __future__ import annotations

import numpy as np

from ..errors import ExportError
from ..files.text import Message

_WIRING = frozenset(
    "name type bottom top param blobs blobs_lr weight_decay include exclude phase loss_weight "
    "propagate_down".split()
)


def write_custom(layer, g, domain: str) -> None:
    """One node of ``domain`` for ``layer``: bottoms and then blobs in, tops out.

    A top whose shape is not known is written without one.
    """
    if not layer.tops:
        raise ExportError(f"{layer.where()}: {layer.type} has no top, so there is nothing to write")
    inputs = [g.input(i) for i in range(len(layer.bottoms))]
    inputs += [g.const(blob, f"blob{i}") for i, blob in enumerate(g.blobs())]
    outputs = g.node(layer.type, inputs, attributes(layer.message), len(layer.tops), domain)
    for i, output in enumerate([outputs] if len(layer.tops) == 1 else outputs):
        g.output(i, output)


def attributes(message: Message) -> dict:
    """The parameters of a layer as attributes: ``order`` for permute_param { order: 0 }.

    Deeper messages give names like ``nms_param_top_k``; fillers, which training alone needs, are
    left out.  A name that two messages have is spelled out with its message's.
    """
    found: dict[str, object] = {}
    for name in message.names():
        if name in _WIRING:
            continue
        for value in message.all(name):
            if not isinstance(value, Message):
                found[name] = _value(message.all(name))
                continue
            for key, inner in _flat(value, ""):
                found[f"{name}_{key}" if key in found else key] = inner
    return found


def _flat(message: Message, prefix: str):
    """(Name, value) of everything in a message."""
    for name in message.names():
        if name.endswith("_filler"):
            continue
        values = message.all(name)
        scalars = [value for value in values if not isinstance(value, Message)]
        if scalars:
            yield prefix + name, _value(scalars)
        inner = [value for value in values if isinstance(value, Message)]
        for index, value in enumerate(inner):
            number = f"{index}_" if len(inner) > 1 else ""
            yield from _flat(value, f"{prefix}{name}_{number}")


def _value(scalars: list):
    """One value, or a list of them: numbers (booleans are 0 and 1) or strings."""
    values = [_plain(scalar) for scalar in scalars]
    if any(isinstance(value, str) for value in values):
        values = [str(value) for value in values]
    elif any(isinstance(value, float) for value in values):
        values = [float(value) for value in values]
    return values[0] if len(values) == 1 else values


def _plain(scalar) -> int | float | str:
    if scalar.kind == "string":
        return scalar.string()
    if scalar.raw in ("true", "false"):
        return int(scalar.raw == "true")
    return scalar.number() if scalar.kind == "number" else scalar.raw


def stored_arrays(weights, layer) -> list[np.ndarray]:
    """The blobs that a caffemodel has for a layer whose type says nothing about them."""
    if weights is None or layer.name not in weights:
        return []
    return [blob.array() for blob in weights.blobs(layer.name)]
