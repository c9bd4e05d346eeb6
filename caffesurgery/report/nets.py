"""What a net costs, and the report of an inspection."""

from __future__ import annotations

from collections.abc import Iterable

from ..cost import Cost
from ..net.shapes import NetShapes

MACS_NOTE = "macs are multiply-adds for one image"


def per_image(shapes: NetShapes) -> int:
    """Images in one forward pass: the first dimension of the net's first input, at least 1."""
    for entry in shapes.layers:
        if not entry.bottoms and entry.tops and entry.tops[0]:
            return max(entry.tops[0][0], 1)
    return 1


def net_cost(shapes: NetShapes) -> Cost:
    """Parameters of the whole net, shared ones once, and its MACs for one image."""
    return Cost(shapes.parameters, sum(macs(e, shapes) or 0 for e in shapes.layers))


def macs(entry, shapes: NetShapes) -> int | None:
    """Multiply-adds of a layer for one image; None where they are not known."""
    return None if entry.macs is None else entry.macs // per_image(shapes)


def inspect_net(name: str, path: str, phase: str, shapes: NetShapes, notes: Iterable[str]) -> dict:
    """Report of a net's layers in one phase."""
    layers = [_layer_row(entry, shapes) for entry in shapes.layers]
    total = net_cost(shapes)
    inputs = {
        top: list(shape or ())
        for entry in shapes.layers
        if not entry.bottoms
        for top, shape in zip(entry.layer.tops, entry.tops)
    }
    return {
        "net": name,
        "file": path,
        "phase": phase,
        "batch": per_image(shapes),
        "inputs": inputs,
        "layers": layers,
        "totals": {"params": total.params, "macs": total.macs},
        "notes": [*notes, *_unknown(shapes)],
    }


def _unknown(shapes: NetShapes) -> list[str]:
    """What the totals leave out."""
    reasons = dict.fromkeys(entry.unknown for entry in shapes.layers if entry.unknown)
    return [f"{reason}; it, and what depends on its shape, is not counted" for reason in reasons]


def _layer_row(entry, shapes: NetShapes) -> dict:
    layer = entry.layer
    return {
        "name": layer.name,
        "type": layer.type,
        "line": layer.line,
        "bottoms": list(layer.bottoms),
        "tops": list(layer.tops),
        "shapes": [list(shape) if shape is not None else None for shape in entry.tops],
        "blobs": None if entry.params is None else [list(shape) for shape in entry.params],
        "params": entry.parameters,
        "macs": macs(entry, shapes),
    }
