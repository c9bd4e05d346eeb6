"""`time`, and nets run from Python: what they print and give, and that they can be stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from nets import relative
from tiny import DEPLOY, D, W, _tiny_net, succeed, tiny  # noqa: F401

import caffesurgery
from caffesurgery.errors import NetError, WeightsError
from caffesurgery.files.resources import resource

pytestmark = pytest.mark.usefixtures("tiny")

ROOT = Path(__file__).resolve().parent.parent
REPORT = {
    "net", "file", "phase", "batch", "threads", "iterations", "im2col", "seeded", "layers",
    "totals", "notes",
}  # fmt: skip
LAYER = {"name", "type", "macs", "min_ms", "ms", "gflops"}
FEW = ("--iterations", 2, "--format", "json")


def test_time_prints_the_documented_json():
    found = succeed("time", D, W, *FEW).json
    assert set(found) == REPORT and all(set(layer) == LAYER for layer in found["layers"])
    inspected = succeed("inspect", D, W, "--format", "json").json
    for key in ("name", "type", "macs"):
        assert [v[key] for v in found["layers"]] == [v[key] for v in inspected["layers"]]
    totals = found["totals"]
    assert totals["macs"] == inspected["totals"]["macs"]
    assert (found["iterations"], found["threads"], found["seeded"]) == (2, 1, False)
    for one in (*found["layers"], totals):
        assert 0 < one["min_ms"] <= one["ms"]
        flops = 2 * one["macs"] * found["batch"]
        assert one["gflops"] == (pytest.approx(flops / one["ms"] / 1e6) if flops else None)
    documented = set(re.findall(r"`(\w+)`", resource("docs", "json.md").read_text("utf-8")))
    assert REPORT | LAYER | set(totals) <= documented


def test_time_takes_batch_threads_and_no_weights():
    found = succeed("time", D, "--batch", 5, "--threads", 2, *FEW).json
    assert (found["batch"], found["threads"], found["seeded"]) == (5, 2, True)
    shape = ("--input", "data=3,16,16", *FEW)
    train = succeed("time", "train_val.prototxt", W, *shape).json
    assert [layer["type"] for layer in train["layers"]][-2:] == ["Accuracy", "SoftmaxWithLoss"]
    table = succeed("time", D, W, "--iterations", 2).out
    assert re.search(r"^ conv2 +Convolution +110,592 +\d+\.\d{3} +\d+\.\d{3} ", table, re.MULTILINE)
    assert "median of 2 runs of the batch" in table and "its weights" in table


def test_a_run_from_python_gives_what_its_export_gives(tmp_path):
    model = caffesurgery.load(D, W)
    x = np.random.default_rng(0).random((2, 3, 16, 16), np.float32)
    found = caffesurgery.run(model, {"data": x}, keep=["conv2"])
    assert set(found) == {"prob", "conv2"} and found["conv2"].shape == (2, 24, 8, 8)
    assert np.allclose(found["prob"].sum(1), 1)
    one = caffesurgery.run(caffesurgery.load(D, W, batch=1), {"data": x[:1]})
    assert relative(one["prob"], found["prob"][:1]) < 1e-6
    with pytest.raises(WeightsError, match="has parameters but no weights are given"):
        caffesurgery.run(caffesurgery.load(D), {"data": x})
    with pytest.raises(NetError, match="input 'data' is 1x3x16x16, the net takes 2x3x16x16"):
        caffesurgery.run(model, {"data": x[:1]})


def test_time_from_python_reports_progress():
    seen = []
    report = caffesurgery.time_net(
        caffesurgery.load(D), 3, seed=1, progress=lambda *step: seen.append(step)
    )
    assert report["seeded"] and report["iterations"] == 3
    assert seen == [("time", "Tiny", share) for share in (0.25, 0.5, 0.75, 1)]


def test_running_a_net_needs_neither_onnx_nor_scipy():
    code = (
        "import sys, caffesurgery; caffesurgery.time_net(caffesurgery.load(sys.argv[1]), 1);"
        "print(*sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-c", code, D]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    assert not {"scipy", "onnx", "onnxruntime"} & set(done.stdout.split())


def test_time_can_be_interrupted():
    Path(D).write_text(DEPLOY)
    command = [sys.executable, "-m", "caffesurgery", "time", D, "--iterations", "1000000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    line = running.stderr.readline()  # progress comes after two seconds of measuring
    assert re.match(r" +\d+\.\d s  time Tiny \d+%", line)
    before = time.monotonic()
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 1 and out == "" and time.monotonic() - before < 10
    assert "interrupted" in err.splitlines()[-1]
