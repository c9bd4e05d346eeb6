"""Turns results into the documented reports, which are what ``--format json`` prints.

Every report is a dict with a list ``layers`` of flat dicts and a dict ``totals`` beside it;
``caffesurgery help json`` describes the keys, which do not change within a major version.
"""

from .calibration import calibration_report
from .encode import encode_json
from .evaluation import evaluation_report
from .nets import MACS_NOTE, inspect_net, net_cost, per_image
from .onnx import export_report
from .phones import accelerator_rows, bench_report, variant_rows
from .surgery import operation_report, plan_report, ranks_report, restoration_report
from .train import solver_report, training_report

__all__ = [
    "MACS_NOTE",
    "accelerator_rows",
    "bench_report",
    "calibration_report",
    "encode_json",
    "evaluation_report",
    "export_report",
    "inspect_net",
    "net_cost",
    "operation_report",
    "per_image",
    "plan_report",
    "ranks_report",
    "restoration_report",
    "solver_report",
    "training_report",
    "variant_rows",
]
