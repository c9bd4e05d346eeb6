"""Updates in torch against Caffe's formulas written out in NumPy, for every solver type."""

from __future__ import annotations

import numpy as np
import pytest

from caffesurgery.files.resources import resource
from caffesurgery.net.net import parse_net, read_net
from caffesurgery.net.shapes import infer
from caffesurgery.train.solver import read_solver

torch = pytest.importorskip("torch", reason="the trainer that needs no Caffe needs torch")

from caffesurgery.train.torch.layers import Context  # noqa: E402
from caffesurgery.train.torch.net import TorchNet  # noqa: E402
from caffesurgery.train.torch.steps import steps_of  # noqa: E402
from caffesurgery.train.torch.updates import Updater  # noqa: E402

NET = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "one" type: "InnerProduct" bottom: "data" top: "one" param { lr_mult: 1 }
  param { lr_mult: 2 decay_mult: 0 }
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "two" type: "InnerProduct" bottom: "one" top: "two" param { lr_mult: 0 }
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "Reduction" bottom: "two" top: "loss" loss_weight: 1 }
"""
RATES, DECAYS = (1, 2, 0, 1), (1, 0, 1, 1)
KINDS = {
    "SGD": "momentum: 0.9",
    "Nesterov": "momentum: 0.8",
    "AdaGrad": "delta: 1e-3",
    "RMSProp": "rms_decay: 0.9 delta: 1e-3",
    "AdaDelta": "momentum: 0.95 delta: 1e-3",
    "Adam": "momentum: 0.9 momentum2: 0.99 delta: 1e-3",
}
EXTRAS = (
    "weight_decay: 0.1",
    'weight_decay: 0.1 regularization_type: "L1"',
    "clip_gradients: 0.5",
    "clip_gradients: 100 iter_size: 4 weight_decay: 0.01",
)


def update(solver, number: int, weight, gradient, history, rate: float):
    """ComputeUpdateValue of Caffe's solvers: what is to be subtracted; ``history`` is changed."""
    first, kind, delta, momentum = history[0], solver.type, solver.delta, solver.momentum
    if kind == "SGD":
        first[:] = rate * gradient + momentum * first
        return first.copy()
    if kind == "Nesterov":
        before = first.copy()
        first[:] = rate * gradient + momentum * first
        return (1 + momentum) * first - momentum * before
    if kind == "AdaGrad":
        first += gradient**2
        return rate * gradient / (np.sqrt(first) + delta)
    if kind == "RMSProp":
        first[:] = (1 - solver.rms_decay) * gradient**2 + solver.rms_decay * first
        return rate * gradient / (np.sqrt(first) + delta)
    second = history[1]
    if kind == "AdaDelta":
        first[:] = (1 - momentum) * gradient**2 + momentum * first
        move = gradient * np.sqrt((delta + second) / (delta + first))
        second[:] = (1 - momentum) * move**2 + momentum * second
        return rate * move
    other = solver.momentum2
    correction = np.sqrt(1 - other ** (number + 1)) / (1 - momentum ** (number + 1))
    first[:] = (1 - momentum) * gradient + momentum * first
    second[:] = (1 - other) * gradient**2 + other * second
    return rate * correction * first / (np.sqrt(second) + delta)


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("kind", KINDS)
def test_updates_are_caffes(kind, extra, tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    path = tmp_path / "solver.prototxt"
    path.write_text(
        f'net: "net.prototxt" type: "{kind}" {KINDS[kind]} {extra} base_lr: 1 lr_policy: "fixed" '
        "max_iter: 9"
    )
    solver = read_solver(path)
    net = TorchNet(infer(parse_net(NET), "TRAIN"), "TRAIN")
    weights = [value.detach().double().numpy().copy() for value in net.values]
    updater = Updater(net, solver)
    histories = [[np.zeros_like(w) for _ in updater.history] for w in weights]
    rng = np.random.default_rng(0)
    for iteration in range(4):
        updater.zero()
        gradients = [rng.standard_normal(w.shape) * bool(r) for w, r in zip(weights, RATES)]
        for value, gradient in zip(net.values, gradients):
            if value.grad is not None:
                value.grad.copy_(torch.from_numpy(gradient))
        updater.step(iteration, 0.05)
        norm = np.sqrt(sum((g**2).sum() for g in gradients))
        clip = min(1, solver.clip_gradients / norm) if solver.clip_gradients >= 0 else 1
        for i, weight in enumerate(weights):
            decay = solver.weight_decay * DECAYS[i]
            shrink = np.sign(weight) if solver.regularization_type == "L1" else weight
            gradient = gradients[i] * clip / solver.iter_size + decay * shrink
            weight -= update(solver, iteration, weight, gradient, histories[i], 0.05 * RATES[i])
    for value, weight in zip(net.values, weights):
        np.testing.assert_allclose(value.detach().numpy(), weight, rtol=2e-5, atol=2e-6)
    memories = [history[k] for k in range(len(updater.history)) for history in histories]
    for met, expected in zip(updater.memories(), memories):
        np.testing.assert_allclose(met, expected, rtol=2e-5, atol=2e-6)


def test_memories_come_back_to_their_blobs(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    path = tmp_path / "solver.prototxt"
    path.write_text('net: "net.prototxt" type: "Adam" base_lr: 1 lr_policy: "fixed" max_iter: 9')
    updater = Updater(TorchNet(infer(parse_net(NET), "TRAIN"), "TRAIN"), read_solver(path))
    rng = np.random.default_rng(0)
    stored = [rng.standard_normal(shape).astype(np.float32) for shape in updater.shapes]
    assert len(stored) == 8
    updater.remember(stored)
    assert all(np.array_equal(a, b) for a, b in zip(updater.memories(), stored))


@pytest.mark.parametrize(
    "name", sorted(path.parent.name for path in resource("models").glob("*/train_val.prototxt"))
)
def test_the_nets_of_the_zoo_can_be_trained(name):
    net = read_net(resource("models", name, "train_val.prototxt"))
    size = (1, 28, 28) if name == "lenet" else (3, 224, 224)
    for phase in ("TRAIN", "TEST"):
        shapes = infer(net, phase, {"data": size}, batch=2)
        steps = steps_of(shapes, phase, Context(), ())
        merged = sum(entry.layer.type == "Scale" for entry in shapes.layers)
        assert len(steps) == len(shapes.layers) - 1 - merged
