"""One net of a corpus, measured: exported, checked, run in ONNX Runtime, compared with an oracle.

A task comes as JSON on standard input (see corpus_report.py), the result goes as the last line to
standard output.  Weights that the corpus lacks are seeded so that no layer's outputs grow or die.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from caffesurgery.errors import ExportError, NetError, SurgeryError
from caffesurgery.export.batch import is_input
from caffesurgery.export.model import NEWEST_OPSET
from caffesurgery.export.onnx import build
from caffesurgery.files import caffemodel
from caffesurgery.net.net import read_net
from caffesurgery.net.shapes import infer

OPSETS = (13, NEWEST_OPSET)

RUN = """
import sys, numpy, onnxruntime
folder = sys.argv[1]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(
    folder + "/net.onnx", options, providers=["CPUExecutionProvider"])
feeds = dict(numpy.load(folder + "/feeds.npz"))
names = [value.name for value in session.get_outputs()]
taken = {value.name for value in session.get_inputs()}
found = session.run(names, {k: v for k, v in feeds.items() if k in taken})
numpy.savez(folder + "/found.npz", **{f"{i}": x for i, x in enumerate(found)})
"""


def seeded(entry, random) -> list[np.ndarray]:
    """Numbers for a layer's blobs with which outputs stay about as large as inputs."""
    kind, shapes = entry.layer.type, entry.params
    if kind == "BatchNorm":
        spread = [(-0.2, 0.2), (0.5, 1.5), (1.0, 1.0)]
        return [random.uniform(*pair, shape) for pair, shape in zip(spread, shapes)]
    if kind in ("Scale", "BN", "Normalize", "PReLU"):
        wide = {"PReLU": (0.1, 0.3), "Normalize": (5, 10)}.get(kind, (0.6, 1.4))
        first = [random.uniform(*wide, shape) for shape in shapes[:1]]
        spread = [(-0.2, 0.2), (-0.2, 0.2), (0.5, 1.5)]
        return first + [random.uniform(*pair, shape) for pair, shape in zip(spread, shapes[1:])]
    arrays = []
    for shape in shapes:
        wide = np.prod(shape[1:]) if len(shape) > 1 else 400
        if kind == "Deconvolution" and len(shape) == 4:
            wide = shape[0]
        arrays.append(random.standard_normal(shape) * np.sqrt(1.7 / max(1, wide)))
    return arrays


def weights_for(net, shapes, folder: Path):
    """A seeded caffemodel for the net and its path, or (None, None) where it has no parameters."""
    random = np.random.default_rng(7)
    layers = []
    for entry in shapes.layers:
        if entry.params:
            arrays = [np.asarray(array, np.float32) for array in seeded(entry, random)]
            names = entry.layer.bottoms, entry.layer.tops
            layers.append(caffemodel.NewLayer(entry.layer.name, entry.layer.type, *names, arrays))
    if not layers:
        return None, None
    path = folder / "net.caffemodel"
    caffemodel.write(path, net.name, layers)
    return caffemodel.read(path), path


def feeds_for(shapes, given: dict | None, order=None) -> dict[str, np.ndarray]:
    """Numbers for every input; regions of interest lie within the image."""
    random = np.random.RandomState(1234)
    sources = {
        top: shape
        for entry in shapes.layers
        if is_input(entry.layer)
        for top, shape in zip(entry.layer.tops, entry.tops)
    }
    if given:
        return {name: random.rand(*given[name]).astype(np.float32) for name in order}
    feeds = {}
    image = next((shape for shape in sources.values() if len(shape) == 4), (1, 3, 32, 32))
    for name, shape in sources.items():
        feeds[name] = random.rand(*shape).astype(np.float32)
        if "roi" in name and np.prod(shape[1:]) == 5:
            corners = np.sort(random.rand(shape[0], 2, 2), axis=1) * (image[3] - 1, image[2] - 1)
            feeds[name].reshape(-1, 5)[:] = np.insert(corners.reshape(-1, 4), 0, 0, axis=1)
    return feeds


def by_opencv(net_path: str, weights: Path | None, feeds, shapes, blobs) -> dict[str, np.ndarray]:
    """Outputs by blob from OpenCV's importer."""
    net = cv2.dnn.readNetFromCaffe(net_path, *([str(weights)] if weights else []))
    writer = {top: entry.layer for entry in shapes.layers for top in entry.layer.tops}
    for name, array in feeds.items():
        net.setInput(array, name)
    layers = [writer[blob] for blob in blobs]
    found = net.forwardAndRetrieve([layer.name for layer in layers])
    return {
        blob: outputs[layer.tops.index(blob)] for blob, layer, outputs in zip(blobs, layers, found)
    }


def run(model, feeds, python: str | None, folder: Path) -> tuple[list[np.ndarray], str]:
    """Outputs in ONNX Runtime, in their order, and what it warned of at load."""
    with open(folder / "net.onnx", "wb") as stream:
        model.write(stream)
    np.savez(folder / "feeds.npz", **feeds)
    command = [python or sys.executable, "-c", RUN, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1][-300:])
    with np.load(folder / "found.npz") as found:
        return [found[str(i)] for i in range(len(found.files))], done.stderr[-400:]


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest expected value; empty rows of detections do not count."""
    if expected.shape[-1:] == (7,) and found.ndim == 4 and found.shape != expected.shape:
        rows = expected.reshape(-1, 7)
        found, expected = found.reshape(-1, 7), rows[rows[:, 1:].any(axis=1)]
    if found.size != expected.size:
        return float("inf")
    if not expected.size:
        return 0.0
    expected = expected.reshape(found.shape)
    if not np.isfinite(expected).all():
        return 0.0 if np.array_equal(found, expected, equal_nan=True) else float("inf")
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))


def measured(task: dict, folder: Path) -> dict:
    """The result of one net: its outcome, and why where it does not agree."""
    corpus, oracle = Path(task["corpus"]), task["oracle"]
    net = read_net(task["net"])
    given = {name: tuple(oracle["blobs"][name]) for name in oracle["inputs"]} if oracle else None
    try:
        shapes = infer(net, "TEST", inputs=given)
    except NetError as error:
        return {"outcome": "Caffe refuses it", "why": str(error)}
    unknown = [e for e in shapes.layers if e.unknown or None in e.tops]
    if unknown:
        kind = "layer types not listed" if unknown[0].layer.type == "Python" else "incomplete"
        return {"outcome": kind, "why": unknown[0].unknown or f"no shape: {unknown[0].layer}"}
    if oracle:
        weights = caffemodel.read(corpus / "caffemodel" / oracle["rel"])
    else:
        weights, path = weights_for(net, shapes, folder)
    feeds = feeds_for(shapes, given, oracle and oracle["inputs"])
    found, nodes, warnings, made = {}, {}, "", None
    for opset in (13,) if task["python"] else OPSETS:
        try:
            made = build(net, weights, opset=opset, inputs=given)
            made.model.check()
        except ExportError as error:
            return {"outcome": "not exported", "why": f"opset {opset}: {error}"}
        try:
            outputs, said = run(made.model, feeds, task["python"], folder)
        except RuntimeError as error:
            return {"outcome": "does not run", "why": f"opset {opset}: {error}"}
        warnings += said
        found[opset] = dict(zip((value.name for value in made.model.outputs), outputs))
        nodes[opset] = len(made.model.nodes)
    result = {"nodes": nodes, "warnings": warnings, "dynamic": made.dynamic}
    try:
        if oracle:
            stored = np.load(corpus / oracle["outputs_npz"])
            expected = {k[len("out__") :].replace("__", "/"): stored[k] for k in stored.files}
        else:
            expected = by_opencv(task["net"], path, feeds, shapes, list(made.outputs))
    except cv2.error as error:
        text = str(error).strip().replace("\n", " ")
        return {**result, "outcome": "no oracle", "why": f"OpenCV: {text[-300:]}"}
    errors = {
        f"{opset} {blob}": difference(outputs[made.outputs[blob]], array)
        for opset, outputs in found.items()
        for blob, array in expected.items()
    }
    worst = max(errors.values())
    outcome = "agrees" if worst <= 1e-4 else "differs"
    result["oracle"] = "Caffe" if oracle else "OpenCV"
    return {**result, "outcome": outcome, "errors": errors, "why": f"{worst:.1e}"}


def main() -> None:
    """Read the task, print the result."""
    cv2.setNumThreads(1)
    task = json.load(sys.stdin)
    onnxruntime.set_default_logger_severity(3)
    with tempfile.TemporaryDirectory(prefix="corpus-") as folder:
        try:
            result = measured(task, Path(folder))
        except SurgeryError as error:
            result = {"outcome": "incomplete", "why": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
