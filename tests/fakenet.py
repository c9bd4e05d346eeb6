"""A tiny net trained by a stand-in for Caffe, and the real binary where CAFFE_BIN names it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from nets import write_net

TRAIN_NET = """name: "tiny"
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 4 dim: 6 } shape { dim: 4 }
    data_filler { type: "gaussian" } data_filler { type: "constant" value: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """net: "net.prototxt"  # mine
base_lr: 0.01
lr_policy: "fixed"
max_iter: 12
display: 1
snapshot: 4
snapshot_prefix: "mine"
solver_mode: CPU
"""


@pytest.fixture(name="fake_caffe")
def _fake_caffe(tmp_path, monkeypatch):
    """A folder with net.prototxt, solver.prototxt and start.caffemodel, and a Caffe that acts."""
    monkeypatch.chdir(tmp_path)
    write_net(Path(), TRAIN_NET, "net")
    Path("net.caffemodel").rename("start.caffemodel")
    Path("solver.prototxt").write_text(SOLVER)
    binary = tmp_path / "bin/caffe"
    binary.parent.mkdir()
    script = Path(__file__).parent / "fakecaffe.py"
    binary.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    binary.chmod(0o755)
    root = str(Path(__file__).resolve().parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("FAKE_WEIGHTS", str(tmp_path / "start.caffemodel"))
    monkeypatch.setenv("CAFFE_BIN", str(binary))
    return tmp_path


@pytest.fixture(name="real_caffe")
def _real_caffe(monkeypatch):
    """The real Caffe, where CAFFE_BIN names it."""
    if not os.environ.get("CAFFE_BIN"):
        pytest.skip("no Caffe: set CAFFE_BIN to its binary")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    return os.environ["CAFFE_BIN"]
