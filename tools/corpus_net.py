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
from corpus_opencv import by_opencv, is_not_caffe

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
GAINS = (1.7, 1.0)  # variance over a layer of weights, as ReLU wants it and where that grows
GROWN = 1e3

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


def seeded(entry, random, gain: float) -> list[np.ndarray]:
    """Numbers for a layer's blobs; outputs have about ``gain`` times the variance of inputs."""
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
        arrays.append(random.standard_normal(shape) * np.sqrt(gain / max(1, wide)))
    return arrays


def weights_for(net, shapes, folder: Path, gain: float = GAINS[0]):
    """A seeded caffemodel for the net and its path, or (None, None) where it has no parameters."""
    random = np.random.default_rng(7)
    layers = []
    for entry in shapes.layers:
        if entry.params:
            arrays = [np.asarray(array, np.float32) for array in seeded(entry, random, gain)]
            names = entry.layer.bottoms, entry.layer.tops
            layers.append(caffemodel.NewLayer(entry.layer.name, entry.layer.type, *names, arrays))
    if not layers:
        return None, None
    path = folder / f"net{gain}.caffemodel"
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


def expected_outputs(net, weights, path, feeds, shapes, blobs, folder: Path) -> tuple[str, dict]:
    """(Name of the oracle, outputs by blob); NoOracle where there is none."""
    known = is_not_caffe(shapes)
    try:
        if not known:
            return "OpenCV", by_opencv(net, path, feeds, shapes, blobs, folder)
    except cv2.error as error:
        known = f"OpenCV: {str(error).strip()[-200:]}"
    try:
        return "NumPy", by_numpy(weights, feeds, shapes, blobs)
    except NoOracle as error:
        raise NoOracle(f"{known}; {error}") from error


def by_numpy(weights, feeds, shapes, blobs) -> dict[str, np.ndarray]:
    """Outputs by blob from this package's executor."""
    try:
        found = forward.Runner(shapes, forward.load(shapes, weights)).run(feeds)
        return {blob: found[blob] for blob in blobs}
    except (SurgeryError, KeyError, ValueError) as error:
        raise NoOracle(str(error)) from error


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

    Of detections the empty rows do not count, nor the order of equal scores.  What is expected to
    be infinite or not a number must be just that.
    """
    if expected.ndim == 4 and expected.shape[:2] == (1, 1) and expected.shape[3] == 7:
        found, expected = (_detections(rows.reshape(-1, 7)) for rows in (found, expected))
    if found.size != expected.size:
        return float("inf")
    if not expected.size:
        return 0.0
    expected = expected.reshape(found.shape)
    finite = np.isfinite(expected)
    if not np.array_equal(found[~finite], expected[~finite], equal_nan=True):
        return float("inf")
    found, expected = found[finite], expected[finite]
    return float(np.abs(found - expected).max(initial=0) / np.abs(expected).max(initial=1e-30))


def _detections(rows: np.ndarray) -> np.ndarray:
    rows = rows[rows[:, 1:].any(axis=1)]
    return rows[np.lexsort((rows[:, 3], rows[:, 1], -rows[:, 2], rows[:, 0]))]


def measured(task: dict, folder: Path) -> dict:
    """The result of one net: its outcome, and why where it does not agree."""
    oracle = task["oracle"]
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
    feeds = feeds_for(shapes, given, oracle["inputs"] if given else None)
    if oracle:
        path = Path(task["corpus"]) / "caffemodel" / oracle["rel"]
        return compared(net, shapes, caffemodel.read(path), path, feeds, given, task, folder)

    def with_seeds(gain: float, grow: bool) -> dict:
        weights, path = weights_for(net, shapes, folder, gain)
        return compared(net, shapes, weights, path, feeds, given, task, folder, grow)

    try:
        return with_seeds(GAINS[0], grow=False)
    except Grown:
        return with_seeds(GAINS[1], grow=True)


class Grown(Exception):
    """Seeded weights make outputs grow until a softmax has no digits left to compare."""


def compared(
    net, shapes, weights, path, feeds, given, task: dict, folder: Path, grow: bool = True
) -> dict:
    """The result of one net with weights: exported and run everywhere, and what it differs by.

    Grown, unless ``grow`` says not to mind.
    """
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
                if not grow and has_grown(shapes, made, found[place]):
                    raise Grown
        except RuntimeError as error:
            return {"outcome": "does not run", "why": f"opset {opset}: {error}"}
        result["nodes"][opset] = len(made.model.nodes)
    try:
        if given:
            stored = np.load(Path(task["corpus"]) / task["oracle"]["outputs_npz"])
            result["oracle"] = "Caffe"
            expected = {k[len("out__") :].replace("__", "/"): stored[k] for k in stored.files}
        else:
            args = net, weights, path, feeds, shapes, list(made.outputs), folder
            result["oracle"], expected = expected_outputs(*args)
    except NoOracle as error:
        return {**result, "outcome": "no oracle", "why": str(error)}
    result |= judged(net, shapes, made, found, expected, folder, task["python"])
    if result["outcome"] == "differs" and result["oracle"] == "OpenCV":
        result["why"] += f" from OpenCV{second(weights, feeds, shapes, made, found)}"
    return result


def second(weights, feeds, shapes, made, found: dict) -> str:
    """What this package's executor says of a model that OpenCV disagrees with."""
    try:
        expected = by_numpy(weights, feeds, shapes, list(made.outputs))
    except NoOracle:
        return ""
    pairs = ((found[f"{OPSETS[0]}"][made.outputs[name]], seen) for name, seen in expected.items())
    return f", {max(difference(*pair) for pair in pairs):.1e} from the executor in NumPy"


def has_grown(shapes, made, outputs: dict) -> bool:
    """Whether an output is huge, or a softmax certain to all of its digits."""
    kinds = {top: entry.layer.type for entry in shapes.layers for top in entry.layer.tops}
    for blob, name in made.outputs.items():
        array = outputs[name]
        highest = float(np.abs(array[np.isfinite(array)]).max(initial=0))
        if highest > GROWN or (kinds[blob] == "Softmax" and highest > 1 - 1e-6):
            return True
    return False


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
