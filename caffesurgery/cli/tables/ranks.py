"""Tables of ranks: what a rule chooses and why, and what the next ranks would cost and lose."""

from __future__ import annotations

from collections.abc import Mapping

from ...report import MACS_NOTE
from .table import Table, count


def ranks_table(data: Mapping) -> Table:
    """Every layer with its method, its rank and the reason."""
    rows = tuple(
        (
            layer["name"],
            layer["method"] or "",
            _ranks(layer["ranks"].values()) if layer["ranks"] else "-",
            f"{layer['new_macs'] / max(layer['macs'], 1):.3f}" if layer["ranks"] else "",
            layer["why"],
        )
        for layer in data["layers"]
    )
    totals = data["totals"]
    left = {key: totals[f"new_{key}"] / max(totals[key], 1) for key in ("params", "macs")}
    footer = ("whole net", "", "", f"{left['macs']:.3f}", f"{left['params']:.3f} of the params")
    columns = ("layer", "method", "rank", "of MACs", "why")
    title = f"{data['net']}: {data['method']}, {data['rule']}"
    return Table(title, columns, rows, footer, (*data["notes"], MACS_NOTE),
                 frozenset(("rank", "of MACs")))  # fmt: skip


def explanation_table(data: Mapping) -> Table:
    """Of every planned layer its ranks and the next ones: what they cost, and lose at least."""
    rows = []
    for layer in data["layers"]:
        explain = layer["explain"]
        name = layer["name"]
        for word, step in ((w, explain[w]) for w in ("lower", "here", "higher")):
            if step:
                why = layer["why"] if word == "here" else f"one {word}"
                rows.append(
                    (
                        name,
                        f"{_ranks(step['ranks'])} of {_ranks(explain['full'])}",
                        count(step["params"]),
                        count(step["macs"]),
                        f"{step['least_error']:.4f}",
                        why,
                    )
                )
                name = ""
    columns = ("layer", "rank", "params", "MACs", "error", "")
    note = "error: no decomposition at this rank has a smaller one; that of a truncated SVD is it"
    return Table("why these ranks", columns, tuple(rows), (), (note,), frozenset(columns[1:5]))


def _ranks(ranks) -> str:
    return "x".join(map(str, ranks))
