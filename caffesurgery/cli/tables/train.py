"""Tables of solvers that were made, and of trainings."""

from __future__ import annotations

from collections.abc import Mapping

from .table import Table


def solver_table(data: Mapping) -> Table:
    """The settings of a solver with their sources."""
    rows = tuple((row["name"], _value(row["value"]), row["source"]) for row in data["settings"])
    title = (
        f"{data['net']}: recipe {data['recipe']}, {data['images']:,} images, {data['batch']} at a "
        f"time, {data['iterations_per_epoch']:,} iterations an epoch"
    )
    columns = ("setting", "value", "source")
    return Table(title, columns, rows, (), tuple(data["notes"]), frozenset(("value",)))


def training_table(data: Mapping) -> Table:
    """The tests of a training, one row each, and how it ended."""
    names = list(dict.fromkeys(name for test in data["tests"] for name in test["metrics"]))
    rows = [
        (f"{test['iteration']:,}", *(_value(test["metrics"].get(name)) for name in names))
        for test in data["tests"]
    ]
    title = (
        f"{data['net']}, trained by {data['trainer']}: {data['ending']} at iteration "
        f"{data['iteration']:,} of {data['max_iter']:,}, {data['seconds']:,.1f} s"
    )
    notes = [f"loss {_value(data['loss'])}"] if data["loss"] is not None else []
    notes += [data["message"]] if data["message"] else []
    for key, what in (("weights", "weights"), ("state", "to go on from")):
        if data[key]:
            notes.append(f"{what}: {data[key]}")
    columns = ("iteration", *names)
    return Table(title, columns, tuple(rows), (), tuple(notes), frozenset(columns))


def _value(value) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
