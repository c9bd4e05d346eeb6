"""Tables of exports and comparisons."""

from __future__ import annotations

from collections.abc import Mapping

from ...net.layers.base import show
from .table import Table


def export_table(data: Mapping) -> Table:
    """Inputs, outputs and size of an ONNX file."""
    rows = [
        (kind, name, "x".join(map(str, shape)))
        for kind in ("inputs", "outputs")
        for name, shape in data[kind].items()
    ]
    notes = [f"left out: {', '.join(data['left_out'])}"] if data["left_out"] else []
    notes += [f"batch fixed: {data['fixed_because']}"] if data["fixed_because"] else []
    if data["data"]:
        notes.append(f"the weights are in {data['data']}, which belongs beside it")
    if data["custom"]:
        notes.append(f"operators that an app has to bring: {', '.join(data['custom'])}")
    title = (
        f"{data['path']}: {data['bytes'] / 1e6:.2f} MB, {data['nodes']} nodes, "
        f"{data['parameters']:,} parameters, opset {data['opset']}"
    )
    return Table(title, ("", "blob", "shape"), tuple(rows), (), tuple(notes))


def layers_table(data: Mapping) -> Table:
    """Every layer type, where it comes from, and what becomes of it in ONNX."""
    rows = tuple((r["type"], r["origin"], r["status"], r["why"]) for r in data["layers"])
    exported = sum(row["status"] == "exported" for row in data["layers"])
    title = f"{len(rows)} layer types, {exported} of them written as ONNX"
    return Table(title, ("layer type", "of", "in ONNX", ""), rows)


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
