"""To ONNX, and two nets compared in ONNX Runtime."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from .model import Model, Progress, stage_of


def export_onnx(
    model: Model,
    path,
    *,
    force: bool = False,
    progress: Progress | None = None,
    **options,
):
    """Write a model as ONNX, with the batch left open.

    options: opset, batch, dynamic_size, keep_blobs, fold, domain, as ``export.onnx.Options``
    explains them, and one_file_up_to: bytes from which on the weights go to PATH.data (0: always)
    Returns the report of ``export.onnx.export_onnx``.
    """
    from ..export.onnx import export_onnx as export

    report = stage_of(progress, "export")
    return export(
        model.net,
        model.require_weights(),
        path,
        inputs=model.inputs,
        force=force,
        progress=partial(report, Path(path).name) if report else None,
        **options,
    )


def compare(first: Model, second: Model, *, progress: Progress | None = None, **options):
    """Run two models on the same inputs in ONNX Runtime; the first is the reference.

    options: images, labels, blobs, mean, scale, bgr, crop, samples, seed, batch, as in
    ``verify.compare.compare``, whose Comparison is returned
    """
    from ..verify.compare import compare as run

    return run(
        first.net,
        first.require_weights(),
        second.net,
        second.require_weights(),
        inputs=first.inputs or second.inputs,
        progress=stage_of(progress, "compare"),
        **options,
    )
