"""A small net with its own data for tests of flows, and a trainer that only pretends."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from nets import write_net

from caffesurgery.files import caffemodel
from caffesurgery.net.net import read_net
from caffesurgery.train.job import Outcome, Tick
from caffesurgery.train.solver import read_solver

BODY = """layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
  param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 12 kernel_size: 3 stride: 2 weight_filler { type: "msra" } } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
layer { name: "fc3" type: "InnerProduct" bottom: "conv2" top: "fc3"
  inner_product_param { num_output: 16 weight_filler { type: "xavier" } } }
layer { name: "relu3" type: "ReLU" bottom: "fc3" top: "fc3" }
layer { name: "fc4" type: "InnerProduct" bottom: "fc3" top: "fc4"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
"""
DEPLOY = (
    'name: "Small"\nlayer { name: "data" type: "Input" top: "data"\n'
    "  input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }\n"
    + BODY
    + 'layer { name: "prob" type: "Softmax" bottom: "fc4" top: "prob" }\n'
)
TRAIN_VAL = (
    'name: "Small"\nlayer { name: "data" type: "MemoryData" top: "data" top: "label"\n'
    "  include { phase: TRAIN }\n"
    "  memory_data_param { batch_size: 10 channels: 3 height: 8 width: 8 } }\n"
    'layer { name: "data" type: "MemoryData" top: "data" top: "label"\n'
    "  include { phase: TEST }\n"
    "  memory_data_param { batch_size: 20 channels: 3 height: 8 width: 8 } }\n"
    + BODY
    + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc4" bottom: "label" top: "loss" }\n'
)
SOLVER = """net: "train_val.prototxt"
base_lr: 0.01
lr_policy: "fixed"
momentum: 0.9
weight_decay: 0.0005
max_iter: 6
solver_mode: CPU
"""
FLOW = """train_val: "train_val.prototxt"
deploy: "deploy.prototxt"
weights: "deploy.caffemodel"
data { phase: TRAIN source: "train.npz" }
method: "cp"
ranks: "ratio=0.7"
train { solver: "solver.prototxt" iterations: 4 snapshot: 2 }
evaluate { images: "test.npz" }
"""


def write_files(folder: Path, images: int = 60) -> None:
    """The net, its data, its solver and a flow in ``folder``."""
    write_net(folder, DEPLOY)
    (folder / "train_val.prototxt").write_text(TRAIN_VAL)
    (folder / "solver.prototxt").write_text(SOLVER)
    (folder / "flow.prototxt").write_text(FLOW)
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((4, 3, 8, 8))
    for name, count in (("train", images), ("test", 40)):
        labels = rng.integers(0, 4, count)
        noise = rng.standard_normal((count, 3, 8, 8))
        data = (centres[labels] + noise).astype(np.float32)
        np.savez(folder / f"{name}.npz", images=data, labels=labels)


@dataclass
class Pretender:
    """A trainer that changes what learns a little, by the job's seed, and keeps what it was given.

    ``endings`` are those of its trainings, in order; what is not said ends well.
    """

    name: str = "pretender"
    endings: dict[int, str] = field(default_factory=dict)
    jobs: list = field(default_factory=list)
    frozen: list = field(default_factory=list)
    solvers: list = field(default_factory=list)

    def available(self):
        return None

    def train(self, job, tick=None) -> Outcome:
        solver = read_solver(job.solver)
        net = read_net(solver.train.path)
        frozen = {layer.name for layer in net.layers if layer.specs and layer.specs[0].lr_mult == 0}
        self.jobs.append(job)
        self.solvers.append(solver)
        self.frozen.append(frozen)
        ending = self.endings.get(len(self.jobs), "done")
        if tick:
            tick(Tick(solver.max_iter, solver.max_iter, 0.5, 0.01))
        if ending != "done":
            return Outcome(ending, 1, message="the loss is NaN")
        rng = np.random.default_rng(job.seed)
        layers = []
        for layer in caffemodel.read(job.weights).layers:
            blobs = [np.array(blob.array()) for blob in layer.blobs]
            if layer.name not in frozen:
                blobs = [b + 0.01 * rng.standard_normal(b.shape, np.float32) for b in blobs]
            layers.append(caffemodel.NewLayer(layer.name, layer.type, (), (), blobs))
        path = job.folder / "trained.caffemodel"
        caffemodel.write(path, "net", layers, force=True)
        return Outcome("done", solver.max_iter, weights=path, loss=0.5)
