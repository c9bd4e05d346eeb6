"""Turns results into the documented reports, which are what ``--format json`` prints.

Every report is a dict with a list ``layers`` of flat dicts and a dict ``totals`` beside it;
``caffesurgery help json`` describes the keys, which do not change within a major version.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from . import __version__
from .cost import Cost
from .net.shapes import NetShapes

if TYPE_CHECKING:  # only for annotations: surgery brings SciPy
    from .surgery.plan import Plan

MACS_NOTE = "macs are multiply-adds for one image"


def per_image(shapes: NetShapes) -> int:
    """Images in one forward pass: the first dimension of the net's first input, at least 1."""
    for entry in shapes.layers:
        if not entry.bottoms and entry.tops and entry.tops[0]:
            return max(entry.tops[0][0], 1)
    return 1


def net_cost(shapes: NetShapes) -> Cost:
    """Parameters of the whole net, shared ones once, and its MACs for one image."""
    return Cost(shapes.parameters, sum(_macs(e, shapes) or 0 for e in shapes.layers))


def _macs(entry, shapes: NetShapes) -> int | None:
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
        "macs": _macs(entry, shapes),
    }


def plan_report(model, plan: Plan) -> dict:
    """Report of a plan for ``model``: each layer before and after, and the whole net."""
    types = {entry.layer.name: entry.layer.type for entry in model.shapes.layers}
    layers = [_planned_row(layer, types) for layer in plan.layers]
    return {
        "net": plan.net,
        "method": plan.method,
        "ranks": plan.rule,
        "seed": plan.seed,
        "layers": layers,
        "kept": [{"name": kept.name, "why": kept.why} for kept in plan.kept],
        "totals": _totals(net_cost(model.shapes), layers),
        "notes": [*model.net.warnings, *model.shapes.notes],
    }


def _planned_row(layer, types: Mapping[str, str]) -> dict:
    return {
        "name": layer.name,
        "type": types.get(layer.name, ""),
        "method": layer.scheme,
        "ranks": layer.rank_dict(),
        "params": layer.before.params,
        "macs": layer.before.macs,
        "new_params": layer.after.params,
        "new_macs": layer.after.macs,
        "why": layer.why,
    }


def _totals(whole: Cost, layers: Sequence[Mapping]) -> dict:
    """Parameters and MACs of the whole net before and after."""
    return {
        "params": whole.params,
        "macs": whole.macs,
        "new_params": whole.params - sum(row["params"] - row["new_params"] for row in layers),
        "new_macs": whole.macs - sum(row["macs"] - row["new_macs"] for row in layers),
    }


def operation_report(result, smaller) -> dict:
    """Report of what ``apply`` did: each layer with its error, and the net's totals.

    ``smaller`` is the model read back from what was written; the totals are counted on it.
    """
    layers = [
        {
            "name": done.plan.name,
            "type": done.target.layer.type,
            "method": done.plan.scheme,
            "ranks": done.plan.rank_dict(),
            "error": round(done.error, 6),
            "norm_ratio": None if done.norm_ratio is None else round(done.norm_ratio, 4),
            "sensitivity": float(f"{done.sensitivity:.6g}"),
            "warning": done.warning,
            "params": done.before.params,
            "macs": done.before.macs,
            "new_params": done.after.params,
            "new_macs": done.after.macs,
            "new_layers": [done.plan.name + part.suffix for part in done.parts],
        }
        for done in result.operated.replaced
    ]
    kept = result.plan.kept if result.plan else ()
    return {
        "writer": f"caffesurgery {__version__}",
        "net": result.model.name,
        "method": result.plan.method if result.plan else "",
        "ranks": result.plan.rule if result.plan else "",
        "layers": layers,
        "kept": [{"name": one.name, "why": one.why} for one in kept],
        "totals": _before_after_totals(result.model, smaller),
        "notes": [*result.model.net.warnings, *result.operated.notes],
    }


def _before_after_totals(old, new) -> dict:
    before, after = net_cost(old.shapes), net_cost(new.shapes)
    return {
        "params": before.params,
        "macs": before.macs,
        "new_params": after.params,
        "new_macs": after.macs,
    }


def restoration_report(result, dense) -> dict:
    """Report of ``restore``: each chain that became one layer again, and the net's totals."""
    old = {entry.layer.name: entry for entry in result.model.shapes.layers}
    new = {entry.layer.name: entry for entry in dense.shapes.layers}
    layers = []
    for chain in result.chains:
        entries, restored = [old[layer.name] for layer in chain.layers], new[chain.name]
        layers.append(
            {
                "name": chain.name,
                "type": restored.layer.type,
                "from": [layer.name for layer in chain.layers],
                "params": sum(entry.parameters for entry in entries),
                "macs": sum(_macs(entry, result.model.shapes) for entry in entries),
                "new_params": restored.parameters,
                "new_macs": _macs(restored, dense.shapes),
            }
        )
    return {
        "net": dense.name,
        "layers": layers,
        "totals": _before_after_totals(result.model, dense),
        "notes": list(result.operated.notes),
    }


def export_report(done) -> dict:
    """Report of an export (``export.onnx.ExportReport``)."""
    report = asdict(done)
    report.update(inputs=dict(done.inputs), outputs=dict(done.outputs))
    return report


def encode_json(data: Mapping) -> bytes:
    """The report as indented JSON in UTF-8; bytes of names that are not UTF-8 come escaped."""
    text = json.dumps(_finite(data), indent=1, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def _finite(value):
    """JSON has no NaN or Infinity: they become null."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
