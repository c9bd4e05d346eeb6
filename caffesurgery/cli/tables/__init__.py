"""Reports as tables for people: the documented dicts in, rows of text out; nothing is computed."""

from .calibration import calibration_table
from .cost import cost_table, profile_table
from .evaluation import evaluation_table
from .flow import flow_table, losses_table, steps_table
from .nets import inspection_table, zoo_table
from .onnx import comparison_table, export_table, layers_table
from .phones import bench_table, mobile_table, variants_table
from .ranks import explanation_table, ranks_table
from .surgery import methods_table, operation_table, restoration_table
from .table import Table
from .time import time_table
from .train import solver_table, training_table

__all__ = [
    "Table",
    "bench_table",
    "calibration_table",
    "comparison_table",
    "cost_table",
    "evaluation_table",
    "explanation_table",
    "export_table",
    "flow_table",
    "inspection_table",
    "layers_table",
    "losses_table",
    "methods_table",
    "mobile_table",
    "operation_table",
    "profile_table",
    "ranks_table",
    "restoration_table",
    "steps_table",
    "solver_table",
    "time_table",
    "training_table",
    "variants_table",
    "zoo_table",
]
