"""Tables of smaller forms of a model, of accelerators, and of measured models."""

from __future__ import annotations

from collections.abc import Mapping

from .table import Table


def variants_table(data: Mapping) -> Table:
    """Precisions with their size, largest difference and accuracy, float32 first."""
    rows = tuple(
        (
            row["precision"],
            row["file"] or "not kept",
            f"{row['bytes'] / 1e6:.2f}",
            f"{row['relative']:.3g}",
            *(_share(row[key]) for key in ("agreement", "top1", "top5")),
        )
        for row in data["variants"]
    )
    columns = ("precision", "file", "MB", "largest difference", "same class", "top-1", "top-5")
    notes = ("differences are from float32, over its largest output",)
    return Table("smaller forms", columns, rows, (), notes, frozenset(columns[2:]))


def mobile_table(data: Mapping) -> Table:
    """What each accelerator makes of each file, in plain words."""
    rows = tuple(
        (row["file"], row["name"], row["sentence"], row["advice"]) for row in data["mobile"]
    )
    notes = ("by operators and shapes alone, from ONNX Runtime's own tables; measure on the phone",)
    return Table("on phones", ("file", "accelerator", "verdict", "advice"), rows, (), notes)


def bench_table(data: Mapping) -> Table:
    """Measured models, with the first one's figure over each."""
    rows = tuple(
        (
            row["path"],
            *_with_ratio(row, "bytes", "bytes", 1e6),
            *_with_ratio(row, "load_ms", "load"),
            *_with_ratio(row, "forward_ms", "forward"),
            f"{row['forward_p90_ms']:.2f}",
            *_with_ratio(row, "startup_bytes", "startup", 1e6),
            *_with_ratio(row, "running_bytes", "running", 1e6),
        )
        for row in data["models"]
    )
    columns = (
        "model", "MB", "x", "load ms", "x", "forward ms", "x", "p90 ms", "start-up MB", "x",
        "running MB", "x",
    )  # fmt: skip
    notes = (
        "medians; x is the first model's figure over this one's",
        "memory is what the model adds to a process: after loading, and at the most while it runs",
    )
    title = f"{data['threads']} threads, {data['runs']} forward passes each, in turns"
    return Table(title, columns, rows, (), notes, frozenset(columns[1:]))


def _with_ratio(row: Mapping, figure: str, ratio: str, unit: float = 1.0) -> tuple[str, str]:
    over = row["ratios"][ratio]
    return f"{row[figure] / unit:.2f}", "-" if over is None else f"{over:.2f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
