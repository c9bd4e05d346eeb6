"""Every layer type that is known, and what becomes of it in ONNX."""

from __future__ import annotations

from ..net.layers import known_types, lookup
from ..net.layers.data import Source
from .assemble import is_evaluation


def layer_catalogue() -> dict:
    """``layers``: ``type``, ``origin`` (BVLC Caffe, or the fork), ``status`` and ``why`` of each.

    The status is "exported", "input" (the layer feeds the net), "left out" (it only scores) or
    "refused".
    """
    return {"layers": [_row(name) for name in known_types()]}


def _row(name: str) -> dict:
    entry = lookup(name)
    status, why = "refused", entry.not_exported
    if hasattr(entry, "onnx"):
        status, why = "exported", entry.not_exported
    elif isinstance(entry, Source):
        status, why = "input", "its tops become inputs of the model"
    elif is_evaluation(name):
        status, why = "left out", "it scores a net, which inference does not need"
    return {"type": name, "origin": entry.origin or "BVLC Caffe", "status": status, "why": why}
