"""Reports of smaller forms of a model, of accelerators, and of measured models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

RATIOS = {
    "bytes": "bytes",
    "load": "load_ms",
    "forward": "forward_ms",
    "startup": "startup_bytes",
    "running": "running_bytes",
}
"""Ratio -> the figure that is divided."""


def variant_rows(variants: Sequence, files: Mapping) -> list[dict]:
    """One dict for each form of a model (``verify.variants.Variant``).

    ``file`` is null for the float32 form where that is measured but not kept.
    """
    rows = []
    for variant in variants:
        row = asdict(variant)
        del row["path"]
        kept = files.get(variant.precision)
        rows.append({"file": None if kept is None else str(kept), **row})
    return rows


def accelerator_rows(found: Sequence) -> list[dict]:
    """One dict for each accelerator (``verify.mobile.Accelerator``)."""
    return [asdict(one) for one in found]


def bench_report(figures: Sequence, threads: int, runs: int, loads: int) -> dict:
    """Report of measured models (``verify.bench.Figures``); ratios are first / this."""
    rows = [asdict(one) for one in figures]
    for row in rows:
        del row["times"]
        row["ratios"] = {name: _ratio(rows[0][key], row[key]) for name, key in RATIOS.items()}
    return {"threads": threads, "runs": runs, "loads": loads, "models": rows}


def _ratio(first: float, this: float) -> float | None:
    """How many times less ``this`` is; None where a figure is too small to be divided by."""
    return round(first / this, 3) if first > 0 and this > 0 else None
