"""Reports as tables for people: the documented dicts in, rows of text out.

Nothing is computed here; ``console`` prints what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..net.layers.base import show
from ..report import MACS_NOTE


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; the columns named in ``numbers`` are set to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    footer: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    numbers: frozenset[str] = frozenset()


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


def methods_table(data: Mapping) -> Table:
    """What ``--method`` takes."""
    rows = tuple(
        (
            one["name"],
            one["title"],
            ", ".join(_small_layer(layer) for layer in one["layers"]),
            one["equations"],
            one["weights"],
            one["source"],
        )
        for one in data["methods"]
    )
    notes = [f"policy {one['name']}: {one['about']}" for one in data["policies"]]
    notes += [
        "weights of an S to T layer with a D x E kernel in g groups at rank R (R3, R4); one term a "
        "layer, each weight used once for every pixel that the layer writes"
    ]
    columns = ("method", "what it is", "layers", "equations", "weights", "source")
    return Table("methods", columns, rows, (), tuple(notes))


def _small_layer(layer: Mapping) -> str:
    return f"{layer['suffix']} {layer['kernel']}{' depthwise' if layer['depthwise'] else ''}"


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
    if data["seed"] is not None:
        notes.append("on noise outputs differ more than on images: see `compare --images --labels`")
    return Table(
        f"{data['images']} images, {data['source']}",
        ("blob", "shape", "largest difference", "relative", "Frobenius", "same class"),
        rows,
        (),
        tuple(notes),
        frozenset(("largest difference", "relative", "Frobenius", "same class")),
    )


def _count(number: int | None) -> str:
    if number is None:
        return "?"
    return f"{number:,}" if number else ""
