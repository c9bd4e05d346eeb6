"""Tables of nets: inspections and the zoo."""

from __future__ import annotations

from collections.abc import Mapping

from ...net.layers.base import show
from ...report import MACS_NOTE
from .table import Table, count


def inspection_table(data: Mapping) -> Table:
    """The table of an inspection."""
    rows = tuple(
        (
            layer["name"],
            layer["type"],
            ", ".join(show(None if s is None else tuple(s)) for s in layer["shapes"][:2]),
            " ".join(show(tuple(blob)) for blob in (layer["blobs"] or ())[:1]),
            count(None if layer["blobs"] is None else layer["params"]),
            count(layer["macs"]),
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


def zoo_table(data: Mapping) -> Table:
    """The architectures of the zoo."""
    rows = tuple(
        (
            net["name"],
            net["net"],
            show(tuple(net["input"])),
            count(net["params"]),
            count(net["macs"]),
        )
        for net in data["nets"]
    )
    columns = ("name", "net", "input", "params", "MACs")
    return Table("zoo", columns, rows, (), (MACS_NOTE,), frozenset(columns[3:]))
