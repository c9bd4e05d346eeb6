"""Tables of costs and predicted times."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import some
from ...report import MACS_NOTE
from ...timing import KINDS
from .table import Table, count

_KEYS = ("params", "macs", "bytes", "columns", "activations")


def cost_table(data: Mapping) -> Table:
    """What each layer of a net costs, or two nets beside each other."""
    if "vs" in data:
        return _versus_table(data)
    rows = tuple(
        (row["name"], row["type"], *(count(row[key]) for key in _KEYS), ms(row["ms"]))
        for row in data["layers"]
    )
    totals, columns = data["totals"], ("params", "MACs", "bytes", "columns", "activations", "ms")
    return Table(
        _title(data),
        ("layer", "type", *columns),
        rows,
        ("total", "", *(f"{totals[key]:,}" for key in _KEYS), ms(totals["ms"])),
        _notes(data),
        frozenset(columns),
    )


def _versus_table(data: Mapping) -> Table:
    rows = tuple(
        (
            row["name"],
            " ".join(name.removeprefix(row["name"]) for name in row["new_layers"]) or "-",
            count(row["params"]),
            count(row["new_params"]),
            count(row["macs"]),
            count(row["new_macs"]),
            ms(row["ms"]),
            ms(row["new_ms"]),
            _times(row["ms"], row["new_ms"]),
        )
        for row in data["layers"]
    )
    old, new = data["totals"], data["vs"]["totals"]
    footer = [f"{net[key]:,}" for key in ("params", "macs") for net in (old, new)]
    only = data["vs"]["only_second"]
    notes = [f"only in {data['vs']['net']}: {some(only, 5)}"] if only else []
    columns = ("params", "now", "MACs", "now", "ms", "now", "x")
    return Table(
        f"{_title(data)} and {data['vs']['net']}",
        ("layer", "becomes", *columns),
        rows,
        ("total", "", *footer, ms(old["ms"]), ms(new["ms"]), _times(old["ms"], new["ms"])),
        (*notes, *_notes(data)),
        frozenset(columns),
    )


def profile_table(data: Mapping, terms: Mapping) -> Table:
    """A profile: its terms, and how well they fit what they were made from."""
    rows = tuple(
        (kind, KINDS[kind].about, _speed(model.as_dict())) for kind, model in terms.items()
    )
    notes = [f"{name.replace('_', ' ')}: {value:g}" for name, value in data["fit"].items()]
    title = f"{data['name']}: {data['runtime']}, {data['threads']} thread(s), {data['machine']}"
    return Table(title, ("work", "what it is", "ns"), rows, (), (data["made"], *notes))


def _speed(model: Mapping) -> str:
    if model["model"] == "linear":
        return " + ".join(f"{ns:.3g} {name}" for name, ns in model["ns"].items() if ns) or "0"
    points = " x ".join(f"{len(values)} {name}" for name, values in model["axes"].items())
    return f"curve over {points}"


def _title(data: Mapping) -> str:
    return f"{data['net']}  (batch {data['batch']}, profile {data['profile']['name']})"


def _notes(data: Mapping) -> tuple[str, ...]:
    return (
        *data["notes"],
        f"{MACS_NOTE}; bytes moved, columns (elements of im2col) and ms are for the batch",
    )


def ms(value: float | None) -> str:
    """Milliseconds to three digits; ? where unknown."""
    return "?" if value is None else f"{value:.3f}"


def _times(old: float | None, new: float | None) -> str:
    return f"{old / new:.2f}" if old and new else ""
