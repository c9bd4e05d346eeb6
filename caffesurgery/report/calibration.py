"""Report of what images were made use of for, and what it brought."""

from __future__ import annotations

from math import isfinite


def calibration_report(told) -> dict | None:
    """The section ``calibration`` of a report; None where there were no images."""
    if told is None:
        return None
    predicted, measured = told.predicted or (None, None)
    best = min(told.stages, key=lambda stage: stage.divergence)
    return {
        "images": told.images,
        "held_out": told.held,
        "seed": told.seed,
        "preprocessing": told.source,
        "measure": told.measure,
        "plain": _short(told.stages[0].divergence),
        "kept": _short(best.divergence),
        "stages": [
            {"name": one.name, "divergence": _short(one.divergence), "kept": one.kept}
            for one in told.stages
        ],
        "layers": [
            {
                "name": layer.name,
                "what": layer.what or None,
                "error_before": _short(layer.before),
                "error_after": _short(layer.after),
            }
            for layer in told.layers
        ],
        "predicted_loss": _short(predicted),
        "measured_loss": _short(measured),
        "spilled_bytes": told.spilled,
    }


def _short(value: float | None) -> float | None:
    """Six digits; None for what is not known, or not finite, which JSON has no word for."""
    return None if value is None or not isfinite(value) else float(f"{value:.6g}")
