"""The table of measured times."""

from __future__ import annotations

from collections.abc import Mapping

from ...report import MACS_NOTE
from .cost import ms
from .table import Table, count


def time_table(data: Mapping) -> Table:
    """How long each layer takes, its share of the whole, and its speed."""
    totals = data["totals"]
    rows = tuple(
        (
            row["name"],
            row["type"],
            count(row["macs"]),
            ms(row["min_ms"]),
            ms(row["ms"]),
            f"{100 * row['ms'] / totals['ms']:.1f}" if totals["ms"] else "",
            _speed(row["gflops"]),
        )
        for row in data["layers"]
    )
    columns = ("MACs", "min ms", "ms", "%", "GFLOP/s")
    return Table(
        f"{data['net']}  (batch {data['batch']}, {data['threads']} thread(s))",
        ("layer", "type", *columns),
        rows,
        (
            "total",
            "",
            f"{totals['macs']:,}",
            ms(totals["min_ms"]),
            ms(totals["ms"]),
            "",
            _speed(totals["gflops"]),
        ),
        (*data["notes"], *_notes(data)),
        frozenset(columns),
    )


def _speed(gflops: float | None) -> str:
    return "" if gflops is None else f"{gflops:.1f}"


def _notes(data: Mapping) -> tuple[str, ...]:
    weights = "seeded weights" if data["seeded"] else "its weights"
    return (
        f"ms: median of {data['iterations']} runs of the batch, min ms: the fastest; {weights}, "
        f"im2col in {data['im2col']}, {data['totals']['memory'] / 2**20:.1f} MiB of blobs",
        f"{MACS_NOTE}; GFLOP/s count a multiply-add as two operations",
    )
