"""Table of what calibration brought."""

from __future__ import annotations

from collections.abc import Mapping

from .table import Table

_SAYS = {
    "plain": "as it is planned and decomposed without images",
    "ranks": "ranks by what layers put out",
    "whitening": "decomposed under what layers see",
    "refit": "chains solved for what they see in the smaller net",
    "statistics": "BatchNorm statistics, or scales and biases",
    "polish": "all layers together downhill",
}


def calibration_table(data: Mapping) -> Table:
    """The forms of the net in the order in which they were made, and which was kept."""
    rows = tuple(
        (
            stage["name"],
            _SAYS[stage["name"]],
            "not finite" if stage["divergence"] is None else f"{stage['divergence']:.4g}",
            "yes" if stage["kept"] else "no",
        )
        for stage in data["stages"]
    )
    origin = data["preprocessing"]
    said = "the options say" if origin == "options" else f"{origin} says"
    notes = (
        f"divergence of {data['measure']} from the original's, 0 for equal outputs, on "
        f"{data['held_out']} images that nothing was fitted to; kept is what was the best so far",
        f"images: prepared as {said}" if origin else "images: taken as they are",
    )
    if data["predicted_loss"] is not None:
        expected, met = (data[key] for key in ("predicted_loss", "measured_loss"))
        notes += (
            f"whitening was predicted to move the outputs by {expected:.3g}; it moved them by "
            f"{met:.3g} (`caffesurgery help calibration`)",
        )
    title = f"calibrated with {data['images']} images"
    columns = ("step", "what it is", "divergence", "better")
    return Table(title, columns, rows, (), notes, frozenset(("divergence",)))
