"""Measures ONNX Runtime on this machine: single-layer models of many sizes, and terms fitted.

Each probe layer is exported by itself and run with ONNX Runtime's own profiler on, which says how
long every kernel takes; the changes of layout that a model of one layer has at its ends are taken
as samples of their own.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from .. import __version__, forward
from ..errors import VerifyError
from ..export.onnx import build
from ..files import caffemodel
from ..files.caffemodel import NewLayer
from ..net.net import parse_net
from ..net.shapes import NetShapes, infer
from ..timing import Profile, work, works_of
from ..timing.calibrate import machine_name
from ..timing.fit import Sample, fit_linear, fit_quality
from ..timing.probes import single_nets
from .session import ERRORS_ONLY

RUNS, QUICK_RUNS = 20, 6
_ENDS = {"ReorderInput": "input_type_shape", "ReorderOutput": "output_type_shape"}
"""Changes of layout, and where the profiler says what shape they have without padding."""

Progress = Callable[[str, float], None]


def measure_onnxruntime(
    name: str, threads: int = 1, quick: bool = False, progress: Progress | None = None
) -> Profile:
    """A profile of this machine for the runtime ``onnxruntime``, with its fit."""
    import onnxruntime

    nets, measured, layouts = list(single_nets(quick)), [], []
    with tempfile.TemporaryDirectory(prefix="caffesurgery-") as folder:
        for number, text in enumerate(nets):
            if progress:
                progress("ONNX Runtime", number / len(nets))
            shapes = infer(parse_net(text), "TEST")
            ms, ends = _timed(shapes, Path(folder), threads, QUICK_RUNS if quick else RUNS)
            entry = shapes.layers[-1]
            works = [one for one in works_of(entry, "onnxruntime") if one.kind != "reorder"]
            measured.append(Sample(works, ms, entry.layer.type))
            layouts += ends
    made = (
        f"calibrate of caffesurgery {__version__}, ONNX Runtime {onnxruntime.__version__}: "
        f"{len(nets)} single layers, fastest of {QUICK_RUNS if quick else RUNS} runs"
    )
    terms = fit_linear(measured + layouts)
    profile = Profile(name, "onnxruntime", machine_name(), threads, terms, made)
    return replace(profile, fit=fit_quality(profile, measured))


def _timed(shapes: NetShapes, folder: Path, threads: int, runs: int) -> tuple[float, list[Sample]]:
    """Milliseconds of the kernels of a net, of each the fastest run, and its changes of layout."""
    path = seeded_model(shapes, folder)
    options = session_options(threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session, feeds = opened(path, options)
    for _ in range(runs + 1):
        session.run(None, feeds)
    log = Path(session.end_profiling())
    events = json.loads(log.read_text(encoding="utf-8"))
    log.unlink()
    return _fastest(events)


def _fastest(events: list[dict]) -> tuple[float, list[Sample]]:
    """The sum of every kernel's shortest duration (they come in microseconds), and the layouts'."""
    kernels: dict[str, float] = {}
    ends: dict[str, tuple[float, int]] = {}
    for event in events:
        name, args = event.get("name", ""), event.get("args", {})
        if not name.endswith("_kernel_time"):
            continue
        if of := _ENDS.get(args.get("op_name", "")):
            elements = sum(prod(shape) for one in args.get(of, ()) for shape in one.values())
            ends[name] = min((event["dur"], elements), ends.get(name, (event["dur"], elements)))
        else:
            kernels[name] = min(event["dur"], kernels.get(name, event["dur"]))
    if not kernels:
        raise VerifyError("ONNX Runtime's profiler told of no kernel; is its version supported?")
    layouts = [
        Sample([work("layer"), work("reorder", elements=elements)], took / 1e3, "layout")
        for took, elements in ends.values()
        if elements
    ]
    return sum(kernels.values()) / 1e3, layouts


def seeded_model(shapes: NetShapes, folder: Path) -> Path:
    """Writes a net with seeded weights to a folder as ``net.onnx``, for its number of images."""
    path = folder / "net.onnx"
    with path.open("wb") as stream:
        build(shapes.net, _weights(shapes, folder), batch=shapes.images).model.write(stream)
    return path


def session_options(threads: int):
    """ONNX Runtime's options for a measurement on so many threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = threads
    return options


def opened(path: Path, options):
    """A session of a model, and random arrays for its inputs, by name."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    inputs = session.get_inputs()
    return session, {value.name: rng.random(value.shape, np.float32) for value in inputs}


def _weights(shapes: NetShapes, folder: Path):
    """Seeded weights for the net as a caffemodel."""
    blobs, path = forward.seeded(shapes), folder / "net.caffemodel"
    layers = [
        NewLayer(entry.layer.name, entry.layer.type, (), (), blobs.get(index, ()))
        for index, entry in enumerate(shapes.layers)
    ]
    caffemodel.write(path, shapes.net.name, layers, force=True)
    return caffemodel.read(path)
