"""The public interface: what the command line does, as functions from values to values.

    model = caffesurgery.load("deploy.prototxt", "net.caffemodel")
    plan = caffesurgery.plan(model, method="cp", ranks="ratio=0.25")
    smaller = caffesurgery.save(caffesurgery.apply(model, plan), "out/")
    caffesurgery.export_onnx(smaller, "out/net.onnx")
    print(caffesurgery.compare(model, smaller))
    print(caffesurgery.evaluate(smaller, "images.npz", "labels.npy"))

Nothing is written but by ``save``, ``compress`` and the exports, and those write whole files or
none.
"""

from .calibrate import calibrate
from .calibrated import Calibrator
from .compress import compress
from .estimate import estimate
from .evaluate import Evaluator, data_shapes, evaluate
from .model import Model, inspect, load
from .onnx import compare, export_onnx
from .phones import bench, check_mobile, export_for_phones, preprocessing
from .run import run, time_net
from .save import file_names, save
from .surgery import Result, apply, explain, plan, read_plan, restore
from .train import make_solver, train_net

__all__ = [
    "Calibrator",
    "Evaluator",
    "Model",
    "Result",
    "apply",
    "bench",
    "calibrate",
    "check_mobile",
    "compare",
    "compress",
    "data_shapes",
    "estimate",
    "evaluate",
    "explain",
    "export_for_phones",
    "export_onnx",
    "file_names",
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
]
