"""The report of what a net costs and how long it will take, alone and beside another net."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..errors import some
from ..net.shapes import NetShapes
from ..timing import LayerTime, Profile, works_of
from .nets import macs, net_cost, per_image

FLOAT = 4
"""Bytes of a number."""


def cost_report(
    model, profile: Profile, times: Sequence[LayerTime], notes: Sequence[str] = ()
) -> dict:
    """Every layer of a model with its costs and its predicted milliseconds, and the totals."""
    shapes = model.shapes
    layers = [_row(entry, one, shapes) for entry, one in zip(shapes.layers, times)]
    cost = net_cost(shapes)
    totals = {"params": cost.params, "macs": cost.macs}
    for key in ("bytes", "columns", "activations", "ms"):
        totals[key] = sum(row[key] or 0 for row in layers)
    totals["unknown"] = sum(row["ms"] is None for row in layers)
    return {
        "net": model.name,
        "file": model.net.doc.path or "",
        "phase": model.phase,
        "batch": per_image(shapes),
        "profile": profile_row(profile),
        "layers": layers,
        "totals": totals,
        "notes": [*notes, *_notes(shapes, times, profile)],
    }


def profile_row(profile: Profile) -> dict:
    """Where predictions come from."""
    return {
        "name": profile.name,
        "runtime": profile.runtime,
        "machine": profile.machine,
        "threads": profile.threads,
        "made": profile.made,
        "fit": dict(profile.fit),
    }


def _row(entry, time: LayerTime, shapes: NetShapes) -> dict:
    layer, known = entry.layer, None not in (*entry.bottoms, *entry.tops)
    columns = moved = made = None
    if known:
        written = [one for one in works_of(entry, "caffe") or () if one.kind == "im2col"]
        columns = sum(one.amount("element") for one in written)
        new = [s for name, s in zip(layer.tops, entry.tops) if name not in layer.bottoms]
        made = FLOAT * sum(map(prod, new))
        blobs = sum(map(prod, (*entry.bottoms, *entry.tops)))
        moved = FLOAT * (blobs + entry.parameters + 2 * columns)
    return {
        "name": layer.name,
        "type": layer.type,
        "params": entry.parameters,
        "macs": macs(entry, shapes),
        "bytes": moved,
        "columns": columns,
        "activations": made,
        "ms": time.ms,
    }


def _notes(shapes: NetShapes, times: Sequence[LayerTime], profile: Profile) -> list[str]:
    """What the predicted total leaves out, and what it guesses."""
    found = list(shapes.notes)
    silent: dict[str, list[str]] = {}
    for entry, time in zip(shapes.layers, times):
        if time.ms is None:
            why = entry.unknown and "of unknown type, or behind one"
            why = why or (
                "without a term in the profile" if time.works else "whose time is its own"
            )
            silent.setdefault(why, []).append(f"{entry.layer.name} ({entry.layer.type})")
    for why, names in silent.items():
        found.append(f"not in the total, {why}: {some(names, 5)}")
    for kind, stand_in in dict.fromkeys(pair for time in times for pair in time.guessed):
        found.append(f"the profile has no '{kind}': counted at the speed of '{stand_in}'")
    fit = profile.fit.get("median_error")
    fitted = f"; median error of a layer {100 * fit:.0f} % where it was fitted" if fit else ""
    found.append(
        f"ms are those of profile {profile.name}: {profile.runtime}, {profile.threads} thread(s), "
        f"{profile.machine}{fitted}"
    )
    return found


def versus_report(first: dict, second: dict) -> dict:
    """The second net's costs beside the first's, layer by layer: a chain beside what it replaced.

    Takes two reports of ``cost_report``; the first comes back with ``vs`` and, in its layers,
    ``new_layers``, ``new_params``, ``new_macs`` and ``new_ms``.
    """
    theirs, taken = {row["name"]: row for row in second["layers"]}, set()
    names = {row["name"] for row in first["layers"]}
    layers = []
    for row in first["layers"]:
        heirs = [row["name"]] if row["name"] in theirs else _chain(row["name"], theirs, names)
        taken.update(heirs)
        layers.append({**row, **_heirs([theirs[name] for name in heirs])})
    left = [row["name"] for row in second["layers"] if row["name"] not in taken]
    totals = second["totals"]
    keys = ("params", "macs", "bytes", "columns", "activations", "ms")
    times = {key: first["totals"][key] / totals[key] if totals[key] else None for key in keys}
    vs = {key: second[key] for key in ("net", "file", "batch", "totals")}
    return {
        **first,
        "layers": layers,
        "vs": {**vs, "times_smaller": times, "only_second": left},
        "notes": list(dict.fromkeys([*first["notes"], *second["notes"]])),
    }


def _chain(name: str, theirs, names) -> list[str]:
    """The layers that replaced ``name``: named after it, and new."""
    return [other for other in theirs if other.startswith(f"{name}_") and other not in names]


def _heirs(rows: Sequence[dict]) -> dict:
    found: dict = {"new_layers": [row["name"] for row in rows]}
    for key in ("params", "macs", "ms"):
        values = [row[key] for row in rows]
        found[f"new_{key}"] = None if None in values or not rows else sum(values)
    return found
