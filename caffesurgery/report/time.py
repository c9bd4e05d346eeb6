"""The report of how long a net takes, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

from ..cost import im2col
from ..forward import NetTime
from .nets import macs, per_image


def time_report(model, times: NetTime, notes: Sequence[str] = ()) -> dict:
    """Every layer of a model with its measured milliseconds and its speed, and the totals.

    ``ms`` is the median over the runs and ``min_ms`` the fastest, both for the whole batch.
    """
    layers = [
        {
            "name": one.name,
            "type": one.type,
            "macs": macs(entry, model.shapes),
            "min_ms": one.minimum,
            "ms": one.median,
            "gflops": one.gflops,
        }
        for entry, one in zip(model.shapes.layers, times.layers)
    ]
    return {
        "net": model.name,
        "file": model.net.doc.path or "",
        "phase": model.phase,
        "batch": per_image(model.shapes),
        "threads": times.threads,
        "iterations": times.iterations,
        "im2col": im2col.backend,
        "seeded": model.weights is None,
        "layers": layers,
        "totals": {
            "macs": sum(row["macs"] or 0 for row in layers),
            "min_ms": times.minimum,
            "ms": times.median,
            "gflops": times.gflops,
            "memory": times.memory,
        },
        "notes": [*notes, *model.shapes.notes],
    }
