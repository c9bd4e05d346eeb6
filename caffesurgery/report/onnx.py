"""Reports of exports."""

from __future__ import annotations

from dataclasses import asdict


def export_report(done) -> dict:
    """Report of an export (``export.onnx.ExportReport``)."""
    report = asdict(done)
    report.update(inputs=dict(done.inputs), outputs=dict(done.outputs))
    return report
