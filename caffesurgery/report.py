"""Turns results into the documented JSON, and into tables for people.

Every report is a dict with a list ``layers`` of flat dicts and a dict ``totals`` beside it;
``caffesurgery help json`` describes the keys, which do not change within a major version.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from . import __version__
from .cost import Cost
from .net.layers.base import show
from .net.shapes import NetShapes

if TYPE_CHECKING:  # only for annotations: surgery brings SciPy
    from .surgery.plan import Plan

MACS_NOTE = "macs are multiply-adds for one image"


@dataclass(frozen=True)
class Inspection:
    """What ``inspect`` found; ``data`` is the documented dict, ``table`` the same for people."""

    data: Mapping

    def table(self) -> Table:
        """Layers with type, output shape, parameters and MACs."""
        return inspection_table(self.data)


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; the columns named in ``numbers`` are set to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    footer: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    numbers: frozenset[str] = frozenset()


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


def inspect_net(
    name: str, path: str, phase: str, shapes: NetShapes, notes: Iterable[str]
) -> Inspection:
    """Report of a net's layers in one phase."""
    layers = [_layer_row(entry, shapes) for entry in shapes.layers]
    total = net_cost(shapes)
    inputs = {
        top: list(shape or ())
        for entry in shapes.layers
        if not entry.bottoms
        for top, shape in zip(entry.layer.tops, entry.tops)
    }
    return Inspection(
        {
            "net": name,
            "file": path,
            "phase": phase,
            "batch": per_image(shapes),
            "inputs": inputs,
            "layers": layers,
            "totals": {"params": total.params, "macs": total.macs},
            "notes": [*notes, *_unknown(shapes)],
        }
    )


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


def inspection_table(data: Mapping) -> Table:
    """The table of an inspection."""
    rows = tuple(
        (
            layer["name"],
            layer["type"],
            ", ".join(show(None if s is None else tuple(s)) for s in layer["shapes"][:2]),
            " ".join(show(tuple(blob)) for blob in (layer["blobs"] or ())[:1]),
            _count(None if layer["blobs"] is None else layer["params"]),
            _count(layer["macs"]),
        )
        for layer in data["layers"]
    )
    totals = data["totals"]
    return Table(
        f"{data['net']}  ({data['phase']} phase, {len(rows)} layers)",
        ("layer", "type", "output", "weights", "params", "MACs"),
        rows,
        ("total", "", "", "", f"{totals['params']:,}", f"{totals['macs']:,}"),
        (*data["notes"], MACS_NOTE),
        frozenset(("params", "MACs")),
    )


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


def restoration_table(data: Mapping) -> Table:
    """Chains and the layers that they became again."""
    columns = ("layer", "was", "params", "now", "MACs", "now")
    rows = tuple(
        (
            layer["name"],
            " ".join(layer["from"]),
            *(_count(layer[key]) for key in ("params", "new_params", "macs", "new_macs")),
        )
        for layer in data["layers"]
    )
    footer = (f"{data['totals'][k]:,}" for k in ("params", "new_params", "macs", "new_macs"))
    return Table(
        f"{data['net']}: restored",
        columns,
        rows,
        ("whole net", "", *footer),
        (*data["notes"], MACS_NOTE),
        frozenset(columns[2:]),
    )


def export_table(data: Mapping) -> Table:
    """Inputs, outputs and size of an ONNX file."""
    rows = [
        (kind, name, "x".join(map(str, shape)))
        for kind in ("inputs", "outputs")
        for name, shape in data[kind].items()
    ]
    notes = [f"left out: {', '.join(data['left_out'])}"] if data["left_out"] else []
    notes += [f"batch fixed: {data['fixed_because']}"] if data["fixed_because"] else []
    title = (
        f"{data['path']}: {data['bytes'] / 1e6:.2f} MB, {data['nodes']} nodes, "
        f"{data['parameters']:,} parameters, opset {data['opset']}"
    )
    return Table(title, ("", "blob", "shape"), tuple(rows), (), tuple(notes))


def export_report(done) -> dict:
    """Report of an export (``export.onnx.ExportReport``)."""
    report = asdict(done)
    report.update(inputs=dict(done.inputs), outputs=dict(done.outputs))
    return report


def zoo_table(data: Mapping) -> Table:
    """The architectures of the zoo."""
    rows = tuple(
        (
            net["name"],
            net["net"],
            show(tuple(net["input"])),
            _count(net["params"]),
            _count(net["macs"]),
        )
        for net in data["nets"]
    )
    columns = ("name", "net", "input", "params", "MACs")
    return Table("zoo", columns, rows, (), (MACS_NOTE,), frozenset(columns[3:]))


def operation_table(data: Mapping) -> Table:
    """Layers of a plan, an operation or a compression, before and after."""
    with_error = any("error" in layer for layer in data["layers"])
    rows = tuple(_operation_row(layer, with_error) for layer in data["layers"])
    totals = data["totals"]
    footer = (
        "whole net",
        "",
        "",
        *_before_after(totals["params"], totals["new_params"]),
        *_before_after(totals["macs"], totals["new_macs"]),
    )
    notes = [f"kept {kept['name']}: {kept['why']}" for kept in data["kept"]]
    columns = ("layer", "method", "rank", "params", "now", "x", "MACs", "now", "x")
    return Table(
        f"{data['net']}: {data['method']}, {data['ranks']}",
        (*columns, "error") if with_error else columns,
        rows,
        (*footer, "") if with_error else footer,
        (*notes, *data.get("notes", ()), MACS_NOTE),
        frozenset(columns[3:]) | {"error", "rank"},
    )


def _operation_row(layer: Mapping, with_error: bool) -> tuple[str, ...]:
    row = (
        layer["name"],
        layer["method"],
        "x".join(map(str, layer["ranks"].values())),
        *_before_after(layer["params"], layer["new_params"]),
        *_before_after(layer["macs"], layer["new_macs"]),
    )
    return (*row, f"{layer['error']:.4f}") if with_error else row


def _before_after(old: int, new: int) -> tuple[str, str, str]:
    return _count(old), _count(new), f"{old / new:.2f}" if new else "-"


def comparison_table(data: Mapping) -> Table:
    """Differences of the outputs, and the accuracies if there are labels."""
    rows = tuple(
        (
            blob["name"],
            show(tuple(blob["shape"])),
            f"{blob['max_abs']:.3g}",
            f"{blob['relative']:.3g}",
            f"{blob['frobenius']:.3g}",
            f"{blob['agreement']:.4f}" if blob.get("agreement") is not None else "",
        )
        for blob in data["blobs"]
    )
    notes = [
        f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in scores.items())
        for name, scores in (data.get("accuracy") or {}).items()
    ]
    notes += [
        f"{blob['name']}: NaN or infinite values: {first} in the first net, {second} in the second"
        for blob in data["blobs"]
        for first, second in [blob["not_finite"]]
        if first or second
    ]
    notes += [
        f"outputs that only the {which} net has: {', '.join(data[f'only_{which}'])}"
        for which in ("first", "second")
        if data[f"only_{which}"]
    ]
    return Table(
        f"{data['images']} images, {data['source']}",
        ("blob", "shape", "largest difference", "relative", "Frobenius", "same class"),
        rows,
        (),
        tuple(notes),
        frozenset(("largest difference", "relative", "Frobenius", "same class")),
    )


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


def _count(number: int | None) -> str:
    if number is None:
        return "?"
    return f"{number:,}" if number else ""
