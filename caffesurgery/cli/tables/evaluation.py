"""Tables of evaluations."""

from __future__ import annotations

from collections.abc import Mapping

from .table import Table


def evaluation_table(data: Mapping) -> Table:
    """Accuracies and loss of one net, and how its images were prepared."""
    rows = [
        (key, f"{data[key]:.4f}" if data[key] is not None else "-")
        for key in ("top1", "top5", "loss")
    ]
    prepare = data["preprocessing"]
    done = [f"{key} {prepare[key]}" for key in ("mean", "scale") if prepare[key] not in (None, 1.0)]
    done += [word for word in ("bgr", "crop") if prepare[word]]
    origin = prepare["from"]
    if done:
        notes = [f"images: {', '.join(done)}{f' ({origin})' if origin else ''}"]
    else:
        notes = [f"images: as {origin} gives them" if origin else "images: taken as they are"]
    if data["not_finite"]:
        notes.append(f"NaN or infinite scores for {data['not_finite']} images")
    title = f"{data['net']}, blob {data['blob']}: {data['images']} images, {data['source']}"
    return Table(title, ("metric", "value"), tuple(rows), (), tuple(notes), frozenset(("value",)))
