"""caffesurgery: low-rank surgery on Caffe networks.

Reads prototxt and caffemodel, replaces heavy layers by chains of small ones, and writes files that
Caffe trains unchanged, and ONNX.  The names below are the whole public interface; each is imported
when it is first used.
"""

from __future__ import annotations

__version__ = "0.1.0"

_API = (
    "Calibrator",
    "Evaluator",
    "Model",
    "apply",
    "bench",
    "calibrate",
    "check_mobile",
    "compare",
    "compress",
    "data_shapes",
    "estimate",
    "evaluate",
    "export_for_phones",
    "export_onnx",
    "inspect",
    "load",
    "make_solver",
    "plan",
    "preprocessing",
    "read_plan",
    "restore",
    "run",
    "save",
    "time_net",
    "train_net",
)
_FLOWS = {"finetune": "run", "read_flow": "read"}
"""What stands above ``api``: the names and their modules in ``flow``."""
__all__ = [*_API, *_FLOWS, "SurgeryError", "__version__"]


def __getattr__(name: str):
    if name in _API:
        from . import api

        return getattr(api, name)
    if name in _FLOWS:
        from importlib import import_module

        return getattr(import_module(f".flow.{_FLOWS[name]}", __name__), name)
    if name == "SurgeryError":
        from .errors import SurgeryError

        return SurgeryError
    raise AttributeError(f"module 'caffesurgery' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
