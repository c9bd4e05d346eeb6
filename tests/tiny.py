"""A small net as users have it (deploy, train_val, weights), and the command line run on it."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from nets import write_net

from caffesurgery.cli import main

NAME = '# A tiny net.\nname: "Tiny"\n'

INPUT = """layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 2 dim: 3 dim: 16 dim: 16 } } }
"""

BODY = """layer {
  name: "conv1"  # strided and padded
  type: "Convolution"
  bottom: "data"
  top: "conv1"
  param { lr_mult: 1 decay_mult: 1 }
  param { lr_mult: 2 decay_mult: 0 }
  convolution_param { num_output: 16 kernel_size: 5 stride: 2 pad: 2 }
}
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer {
  name: "conv2"
  type: "Convolution"
  bottom: "conv1"
  top: "conv2"
  convolution_param { num_output: 24 kernel_h: 3 kernel_w: 3 pad: 1 group: 2 }
}
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
layer { name: "pool2" type: "Pooling" bottom: "conv2" top: "pool2"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer {
  name: "fc3"
  type: "InnerProduct"
  bottom: "pool2"
  top: "fc3"
  inner_product_param { num_output: 32 }
}
layer { name: "relu3" type: "ReLU" bottom: "fc3" top: "fc3" }
layer {
  name: "fc4"
  type: "InnerProduct"
  bottom: "fc3"
  top: "fc4"
  inner_product_param { num_output: 10 }
}
"""

PROB = 'layer { name: "prob" type: "Softmax" bottom: "fc4" top: "prob" }\n'

DATABASES = """layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  data_param { source: "train_lmdb" batch_size: 8 backend: LMDB } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  data_param { source: "test_lmdb" batch_size: 4 backend: LMDB } }
"""

LOSS = """layer { name: "accuracy" type: "Accuracy" bottom: "fc4" bottom: "label" top: "accuracy"
  include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc4" bottom: "label" top: "loss" }
"""

DEPLOY = NAME + INPUT + BODY + PROB
TRAIN_VAL = NAME + DATABASES + BODY + LOSS

PLAN = """version: 1
net: "Tiny"
layer {
  name: "conv2"
  method: "cp3"
  rank: 28
  before { params: 1752 macs: 110592 }
}
layer { name: "fc3" method: "svd" rank: 4 }
"""

CP = ("--method", "cp", "--ranks", "ratio=0.5")
D, W = "deploy.prototxt", "deploy.caffemodel"


@dataclass(frozen=True)
class Run:
    """What one command left: its exit status, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """What it printed, which must be JSON."""
        return json.loads(self.out)


def run(*arguments: str) -> Run:
    """Run the command line in this process, with stdout and stderr no terminals."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8"))
    return Run(ended.value.code, *texts)


def succeed(*arguments: str) -> Run:
    """Run a command that must not fail."""
    done = run(*arguments)
    assert done.code == 0, done.err
    return done


@pytest.fixture(scope="session", name="tiny_net")
def _tiny_net(tmp_path_factory) -> Path:
    """A folder with the files of the net, made once."""
    folder = tmp_path_factory.mktemp("tiny")
    write_net(folder, DEPLOY)
    (folder / "train_val.prototxt").write_text(TRAIN_VAL)
    (folder / "edited.prototxt").write_text(PLAN)
    return folder


@pytest.fixture
def tiny(tiny_net, tmp_path, monkeypatch) -> Path:
    """The current folder, with copies of the net's files to work on and to damage."""
    folder = tmp_path / "work"
    shutil.copytree(tiny_net, folder)
    monkeypatch.chdir(folder)
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file under ``folder`` with its bytes; folders with None.

    ``.ses`` is what ONNX Runtime leaves in the folder for temporary files when it is imported.
    """
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.name != ".ses"
    }
