"""One net of a corpus, measured: exported, checked, run in ONNX Runtime, compared with an oracle.

A task comes as JSON on standard input (see corpus_report.py), the result goes as the last line to
standard output.  Weights that the corpus lacks are seeded so that no layer's outputs grow or die.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from caffesurgery import forward
from caffesurgery.errors import ExportError, NetError, SurgeryError
from caffesurgery.export.batch import is_input
from caffesurgery.export.model import NEWEST_OPSET
from caffesurgery.export.onnx import build
from caffesurgery.files import caffemodel
from caffesurgery.net.net import parse_net, read_net
from caffesurgery.net.shapes import infer

OPSETS = (13, NEWEST_OPSET)
CLOSE = 1e-4

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


def opencv_text(net) -> str:
    """The net's text as OpenCV understands it: its own names and defaults spelled out."""
    edits = []
    for layer in net.layers:
        text = net.doc.text[layer.field.start : layer.field.end]
        new = text.replace('"DepthwiseConvolution"', '"Convolution"')
        if layer.type == "PriorBox" and not layer.params("prior_box_param").has("clip"):
            new = new.replace("prior_box_param {", "prior_box_param { clip: false", 1)
        if layer.type == "LRN" and layer.params("lrn_param")["k"] != 1:
            new = lrn_text(layer, new)
        if new != text:
            edits.append((layer.field, new))
    return net.doc.replace(edits)


def lrn_text(layer, text: str) -> str:
    """An LRN with k, which OpenCV does not read, as one without it and a factor."""
    params = layer.params("lrn_param")
    k, beta = params["k"], params["beta"]
    text = re.sub(r"\b(k|alpha)\s*:\s*[-+.\deE]+", "", text)
    text = re.sub(r"lrn_param\s*\{", f"lrn_param {{ alpha: {params['alpha'] / k:.9g} ", text)
    top = f'bottom: "{layer.tops[0]}" top: "{layer.tops[0]}"'
    factor = f"power_param {{ scale: {k**-beta:.9g} }}"
    field, kind = ("layer", '"Power"') if layer.dialect == "V2" else ("layers", "POWER")
    return f'{text}\n{field} {{ name: "{layer.name} factor" type: {kind} {top} {factor} }}'


def by_opencv(net, weights, feeds, shapes, blobs, folder: Path) -> dict[str, np.ndarray]:
    """Outputs by blob from OpenCV's importer."""
    path = folder / "opencv.prototxt"
    path.write_bytes(net.doc.encode(opencv_text(net)))
    read = cv2.dnn.readNetFromCaffe(str(path), *([str(weights)] if weights else []))
    writer = {top: entry.layer for entry in shapes.layers for top in entry.layer.tops}
    for name, array in feeds.items():
        read.setInput(array, name)
    layers = [writer[blob] for blob in blobs]
    found = read.forwardAndRetrieve([layer.name for layer in layers])
    return {
        blob: outputs[layer.tops.index(blob)] for blob, layer, outputs in zip(blobs, layers, found)
    }


def is_not_caffe(shapes) -> str:
    """What of a net OpenCV is known to compute otherwise than Caffe, or ""."""
    for entry in shapes.layers:
        norm = entry.layer.params("batch_norm_param")
        if norm.has("use_global_stats") and not norm["use_global_stats"]:
            return "statistics of the batch, which it rounds"
    return ""


def expected_outputs(net, weights, path, feeds, shapes, blobs, folder: Path) -> tuple[str, dict]:
    """(Name of the oracle, outputs by blob); cv2.error where there is none."""
    known = is_not_caffe(shapes)
    try:
        if not known:
            return "OpenCV", by_opencv(net, path, feeds, shapes, blobs, folder)
    except cv2.error as error:
        known = f"OpenCV: {str(error).strip()[-200:]}"
    try:
        runner = forward.Runner(shapes, forward.load(shapes, weights))
        found = runner.run(feeds)
        return "NumPy", {blob: found[blob] for blob in blobs}
    except (SurgeryError, KeyError, ValueError) as error:
        raise NoOracle(f"{known}; {error}") from error


class NoOracle(Exception):
    """Nothing but the exporter can compute a net."""


def places(opset: int, python: str | None) -> dict[str, str | None]:
    """Where a model is run: here, and at the first opset in the other environment."""
    found: dict[str, str | None] = {f"{opset}": None}
    if python and opset == OPSETS[0]:
        found[f"{opset} there"] = python
    return found


def head_errors(
    net, shapes, expected: dict, folder: Path, opset: int, python: str | None
) -> dict[str, float]:
    """Differences of detections, each head computed alone from what OpenCV gave it."""
    errors = {}
    for entry in shapes.layers:
        layer = entry.layer
        if layer.type != "DetectionOutput" or layer.tops[0] not in expected:
            continue
        feeds = {blob: expected[blob] for blob in layer.bottoms}
        text = "".join(
            f'layer {{ name: "{blob}" type: "Input" top: "{blob}" input_param {{ shape {{ '
            + " ".join(f"dim: {dim}" for dim in array.shape)
            + " } } }\n"
            for blob, array in feeds.items()
        )
        head = parse_net(text + net.doc.text[layer.field.start : layer.field.end])
        outputs, _ = run(build(head, None, opset=opset).model, feeds, python, folder)
        errors[layer.tops[0]] = difference(outputs[0], expected[layer.tops[0]])
    return errors


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
    """Largest difference over the largest expected value.

    Of detections the empty rows do not count, nor the order of equal scores.
    """
    if expected.ndim == 4 and expected.shape[:2] == (1, 1) and expected.shape[3] == 7:
        found, expected = (_detections(rows.reshape(-1, 7)) for rows in (found, expected))
    if found.size != expected.size:
        return float("inf")
    if not expected.size:
        return 0.0
    expected = expected.reshape(found.shape)
    if not np.isfinite(expected).all():
        return 0.0 if np.array_equal(found, expected, equal_nan=True) else float("inf")
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))


def _detections(rows: np.ndarray) -> np.ndarray:
    rows = rows[rows[:, 1:].any(axis=1)]
    return rows[np.lexsort((rows[:, 3], rows[:, 1], -rows[:, 2], rows[:, 0]))]


def measured(task: dict, folder: Path) -> dict:
    """The result of one net: its outcome, and why where it does not agree."""
    corpus, oracle = Path(task["corpus"]), task["oracle"]
    net = read_net(task["net"])
    given = None
    if oracle and oracle["by"] == "caffe":
        given = {name: tuple(oracle["blobs"][name]) for name in oracle["inputs"]}
    try:
        shapes = infer(net, "TEST", inputs=given)
    except NetError as error:
        return {"outcome": "Caffe refuses it", "why": str(error)}
    unknown = [e for e in shapes.layers if e.unknown or None in e.tops]
    if unknown:
        kind = "layer types not listed" if unknown[0].layer.type == "Python" else "incomplete"
        return {"outcome": kind, "why": unknown[0].unknown or f"no shape: {unknown[0].layer}"}
    path = corpus / "caffemodel" / oracle["rel"] if oracle else None
    weights = caffemodel.read(path) if path else None
    if not oracle:
        weights, path = weights_for(net, shapes, folder)
    by_caffe = bool(oracle) and oracle["by"] == "caffe"
    feeds = feeds_for(shapes, given, oracle["inputs"] if by_caffe else None)
    heads = [e.layer for e in shapes.layers if e.layer.type == "DetectionOutput"]
    blobs = list(dict.fromkeys(blob for layer in heads for blob in layer.bottoms))
    result, found, made = {"nodes": {}, "warnings": ""}, {}, None
    for opset in OPSETS:
        try:
            made = build(net, weights, opset=opset, inputs=given, keep_blobs=blobs)
            made.model.check()
        except ExportError as error:
            return {"outcome": "not exported", "why": f"opset {opset}: {error}"}
        try:
            names = [value.name for value in made.model.outputs]
            for place, python in places(opset, task["python"]).items():
                outputs, said = run(made.model, feeds, python, folder)
                found[place] = dict(zip(names, outputs))
                result["warnings"] += said
        except RuntimeError as error:
            return {"outcome": "does not run", "why": f"opset {opset}: {error}"}
        result["nodes"][opset] = len(made.model.nodes)
    try:
        if by_caffe:
            stored = np.load(corpus / oracle["outputs_npz"])
            result["oracle"] = "Caffe"
            expected = {k[len("out__") :].replace("__", "/"): stored[k] for k in stored.files}
        else:
            args = net, weights, path, feeds, shapes, list(made.outputs), folder
            result["oracle"], expected = expected_outputs(*args)
    except NoOracle as error:
        return {**result, "outcome": "no oracle", "why": str(error)}
    return {**result, **judged(net, shapes, made, found, expected, folder, task["python"])}


def judged(net, shapes, made, found: dict, expected: dict, folder: Path, python) -> dict:
    """Outcome and differences; detections are compared given the same boxes and scores."""
    errors = {}
    for place, outputs in found.items():
        opset, there = int(place.split()[0]), python if "there" in place else None
        alone = head_errors(net, shapes, expected, folder, opset, there)
        for blob, array in expected.items():
            error = alone.get(blob)
            if error is None:
                error = difference(outputs[made.outputs[blob]], array)
            errors[f"{place} {blob}"] = error
    worst = max(errors.values())
    outcome = "agrees" if worst <= CLOSE else "differs"
    return {"outcome": outcome, "errors": errors, "why": f"{worst:.1e}"}


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
