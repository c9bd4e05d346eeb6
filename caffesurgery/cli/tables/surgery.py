"""Tables of operations: plans, what was done, what was restored, and the methods."""

from __future__ import annotations

from collections.abc import Mapping

from ...report import MACS_NOTE
from .table import Table, count


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
    return count(old), count(new), f"{old / new:.2f}" if new else "-"


def restoration_table(data: Mapping) -> Table:
    """Chains and the layers that they became again."""
    columns = ("layer", "was", "params", "now", "MACs", "now")
    rows = tuple(
        (
            layer["name"],
            " ".join(layer["from"]),
            *(count(layer[key]) for key in ("params", "new_params", "macs", "new_macs")),
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
