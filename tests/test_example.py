"""The example app: a frame in, the five likeliest classes out, from the model's own metadata."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, shared
from onnxnets import run
from tiny import D, W, _tiny_net, succeed, tiny  # noqa: F401

from caffesurgery.files.resources import resource

pytestmark = pytest.mark.usefixtures("tiny")
EXAMPLE = ROOT / "tools" / "examples" / "top5.py"


def top5(*arguments):
    return subprocess.run(
        [sys.executable, EXAMPLE, *map(str, arguments)], capture_output=True, text=True
    )


def rows(text: str) -> list[tuple[float, str]]:
    lines = [line.split("  ", 1) for line in text.splitlines()[1:]]
    return [(float(probability), label) for probability, label in lines]


def test_the_example_needs_nothing_but_numpy_and_onnxruntime():
    found = set()
    for node in ast.walk(ast.parse(EXAMPLE.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    standard = {"__future__", "argparse", "json", "sys", "time"}
    assert found - standard == {"numpy", "onnxruntime"}


@pytest.mark.parametrize("camera", ["rgb", "bgra"])
def test_a_frame_is_classified_as_by_hand(camera):
    Path("names.txt").write_text("".join(f"class number {i}\n" for i in range(10)))
    inside = ("--mean", "104,117,123", "--scale", "0.01", "--resize", "20x20", "--crop")
    succeed("export", D, W, "-o", "app.onnx", "--preprocess", *inside, "--camera", camera,
            "--labels", "names.txt")  # fmt: skip
    frame = np.random.default_rng(1).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    np.save("frame.npy", frame)
    Path("frame.ppm").write_bytes(b"P6\n64 48\n255\n" + frame.tobytes())
    done = [top5("app.onnx", path) for path in ("frame.npy", "frame.ppm")]
    assert done[0].returncode == 0, done[0].stderr
    assert rows(done[0].stdout) == rows(done[1].stdout)
    succeed("export", D, W, "-o", "bare.onnx")
    small = cv2.resize(frame.astype(np.float32), (20, 20))[2:18, 2:18, ::-1]
    planes = ((small - (104, 117, 123)) * 0.01).astype(np.float32).transpose(2, 0, 1)
    scores = run(Path("bare.onnx").read_bytes(), {"data": planes[None]})["prob"][0]
    for (probability, label), best in zip(rows(done[0].stdout), np.argsort(-scores)):
        assert label == f"class number {best}"
        assert probability == pytest.approx(scores[best], abs=1e-3)


def test_the_example_says_what_a_model_lacks():
    succeed("export", D, W, "-o", "bare.onnx")
    np.save("frame.npy", np.zeros((9, 9, 3), np.uint8))
    assert "export it with --preprocess" in top5("bare.onnx", "frame.npy").stderr
    succeed("export", D, W, "-o", "fixed.onnx", "--preprocess", "--mean", "0")
    said = top5("fixed.onnx", "frame.npy").stderr
    assert "takes frames of 16 x 16, this one has 9 x 9" in said and "Traceback" not in said


def test_squeezenet_knows_photographs():
    stored = np.load(shared("data", "imagenet_sample", "images300.npz"))
    folder = shared("data", "squeezenet")
    Path("wnids.txt").write_text("".join(f"n{i:08d}\n" for i in range(1000)))
    succeed(
        "export", folder / "deploy.prototxt", folder / "squeezenet_v1.0.caffemodel", "-o", "s.onnx",
        "--preprocess-from", folder / "train_val.prototxt", "--resize", "256x256", "--labels",
        "wnids.txt", "--fp16",
    )  # fmt: skip
    right = 0
    for i in range(0, 300, 75):
        data = stored["jpeg"][stored["offsets"][i] : stored["offsets"][i + 1]]
        np.save("frame.npy", np.ascontiguousarray(cv2.imdecode(data, 1)[..., ::-1]))
        found = rows(top5("s.onnx", "frame.npy").stdout)
        right += f"n{stored['labels'][i]:08d}" in [label for _, label in found]
    assert right >= 2


def test_the_page_for_phones_names_only_options_that_there_are():
    page = resource("docs", "phones.md").read_text(encoding="utf-8")
    known = {"--resize_height", "--include_ops_by_config", "--minimal_build"}  # of other tools
    for command in ("compress", "export", "bench"):
        known |= set(re.findall(r"--[a-z0-9-]+", succeed(command, "--help").out))
    used = set(re.findall(r"--[a-z0-9_]+(?:-[a-z0-9_]+)*", page))
    assert used <= known, sorted(used - known)
    succeed("help", "phones")
