"""The polish: derivatives against torch, checkpoints by hand, and what it brings."""

from __future__ import annotations

import numpy as np
import pytest
from calibrated import BLOCK, INPUT, net_of, sample
from test_calibration import apart, smaller

from caffesurgery.calibration import Levers, fit, polish, polished, watched
from caffesurgery.calibration.checkpoints import checkpoints
from caffesurgery.calibration.descent import RATE, Adam, Way
from caffesurgery.calibration.store import Store

MANY = (
    INPUT
    + """
layer { name: "a" type: "Convolution" bottom: "data" top: "a" convolution_param {
  num_output: 6 group: 2 kernel_h: 3 kernel_w: 2 pad_h: 2 pad_w: 1 stride_h: 1 stride_w: 2
  dilation: 2 } }
layer { name: "lrn" type: "LRN" bottom: "a" top: "lrn" lrn_param {
  local_size: 3 alpha: 0.7 beta: 0.6 k: 1.5 } }
layer { name: "max" type: "Pooling" bottom: "lrn" top: "max" pooling_param {
  pool: MAX kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "norm" type: "BatchNorm" bottom: "max" top: "norm" }
layer { name: "scale" type: "Scale" bottom: "norm" top: "norm" scale_param { bias_term: true } }
layer { name: "left" type: "Convolution" bottom: "norm" top: "left" convolution_param {
  num_output: 6 kernel_size: 1 } }
layer { name: "sigmoid" type: "Sigmoid" bottom: "left" top: "left" }
layer { name: "sum" type: "Eltwise" bottom: "left" bottom: "norm" top: "sum"
  eltwise_param { coeff: 0.5 coeff: -2 } }
layer { name: "relu" type: "ReLU" bottom: "sum" top: "sum" relu_param { negative_slope: 0.1 } }
layer { name: "join" type: "Concat" bottom: "sum" bottom: "left" top: "join" }
layer { name: "mean" type: "Pooling" bottom: "join" top: "mean" pooling_param {
  pool: AVE kernel_size: 2 stride: 2 pad: 1 } }
layer { name: "tanh" type: "TanH" bottom: "mean" top: "mean" }
layer { name: "flat" type: "Flatten" bottom: "mean" top: "flat" }
layer { name: "drop" type: "Dropout" bottom: "flat" top: "flat" }
layer { name: "fc" type: "InnerProduct" bottom: "flat" top: "fc"
  inner_product_param { num_output: 3 } }
layer { name: "turned" type: "InnerProduct" bottom: "flat" top: "turned"
  inner_product_param { num_output: 2 transpose: true } }
"""
)


def names(shapes, ports):
    return [shapes.layers[index].layer.name for index, _ in ports]


def test_the_derivatives_of_all_layers_are_those_of_torch():
    torch = pytest.importorskip("torch")
    from caffesurgery.train.torch.net import TorchNet

    shaped, blobs = net_of(MANY)
    shapes = shaped(3)
    inputs = sample(3, batch=3).load(0)
    learning = frozenset(i for i, e in enumerate(shapes.layers) if e.params)
    learning -= {i for i, e in enumerate(shapes.layers) if e.layer.type == "BatchNorm"}
    ports = shapes.graph.outputs()
    way = Way(shapes, learning, ports)
    made = way.there(blobs, inputs)
    rng = np.random.default_rng(1)
    slopes = {port: rng.standard_normal(made[port].shape).astype(np.float32) for port in ports}
    found = way.back(blobs, made, slopes)

    net = TorchNet(shapes, "TEST")
    for one, value in zip(net.learnables, net.values):
        layer, number = one.owner
        value.data = torch.tensor(np.asarray(blobs[layer][number])).reshape(value.shape)
        value.requires_grad_(one.owner[0] in learning)
    values = {(0, 0): torch.tensor(inputs["data"])}
    for step in net._steps:
        net._run(step, values)
    sum((values[port] * torch.tensor(slopes[port])).sum() for port in ports).backward()
    pairs = zip(net.learnables, net.values)
    wanted = {one.owner: value.grad.numpy() for one, value in pairs if value.requires_grad}
    assert set(found) == set(learning) == {index for index, _ in wanted}
    for index, own in found.items():
        assert len(own) == len(shapes.layers[index].params)
        for number, slope in enumerate(own):
            other = wanted[index, number].reshape(slope.shape)
            assert np.abs(slope - other).max() < 2e-5 * max(1.0, np.abs(other).max())


def test_checkpoints_are_where_everything_goes_through():
    shapes = net_of(BLOCK)[0](1)
    found = checkpoints(shapes, watched(shapes))
    # the inner of the block is passed by its shortcut; the fully connected layer is the output
    assert names(shapes, found) == ["data", "relu", "relu2", "relu3", "fc"]


def test_adam_moves_as_by_its_formulas():
    torch = pytest.importorskip("torch")
    start = np.array([3.0, -4.0], np.float32)
    blobs = {0: [start.copy()]}
    adam = Adam(blobs, 40)
    value = torch.tensor(start, requires_grad=True)
    rate = 0.5 * RATE * float(np.sqrt(12.5))
    theirs = torch.optim.Adam([value], lr=rate)
    for step in range(40):
        slope = np.array([np.sin(step), 0.3], np.float32)
        for group in theirs.param_groups:
            group["lr"] = rate * min((step + 1) / 10, 0.5 * (1 + np.cos(np.pi * step / 40)))
        value.grad = torch.tensor(slope)
        theirs.step()
        adam.step(blobs, {0: [slope]}, 0.5)
    assert np.allclose(blobs[0][0], value.detach().numpy(), rtol=1e-5)


def test_images_are_seen_as_they_are_and_mirrored():
    shaped, blobs = net_of(BLOCK)
    images, ports = sample(10), [(len(shaped(1).layers) - 1, 0)]
    with Store() as store:
        made = polish._Originals(shaped, blobs, ports, store)
        made.fill(images, 4, 2)
        assert made.sizes == [4, 4, 4, 4, 2, 2]
        for first, mirrored in ((0, 1), (2, 3), (4, 5)):
            seen, other = made.inputs(first)["data"], made.inputs(mirrored)["data"]
            assert np.array_equal(seen[..., ::-1], other)
            way = Way(shaped(len(other)), frozenset(), ports)
            wanted = way.there(blobs, {"data": other})[ports[0]]
            assert np.array_equal(made.at(mirrored, ports[0]), wanted)
            assert not np.allclose(made.at(first, ports[0]), wanted)


@pytest.mark.parametrize("scheme", ["spatial", "cp3"])
def test_a_polish_brings_a_fitted_net_closer_still(monkeypatch, scheme):
    monkeypatch.setattr(polish, "ROUNDS", 30)
    old, blobs, new, others, chains = smaller(scheme, 0.2)
    seen, held = sample(48), sample(8, 1)
    found = fit(old, new, blobs, others, chains, seen, held, Levers(), jobs=2)
    fitted = {**others, **found.blobs}
    layers = {name: chain.layers for name, chain in chains.items()}
    kept = watched(old(1))
    more = polished(old, new, blobs, fitted, layers, seen, kept, jobs=2)
    assert {new(1).layers[index].layer.type for index in more} == {
        "Convolution", "Scale", "InnerProduct",
    }  # fmt: skip
    closer = apart(old, blobs, new, {**fitted, **more}, seen)
    assert closer < 0.9 * apart(old, blobs, new, fitted, seen)


def test_a_polish_depends_on_neither_threads_nor_memory():
    old, blobs, new, others, chains = smaller("spatial", 0.4)
    layers = {name: chain.layers for name, chain in chains.items()}
    given = (old, new, blobs, others, layers, sample(40), watched(old(1)), 3)
    one, other = polished(*given, jobs=1), polished(*given, jobs=4, memory=0)
    for index, arrays in one.items():
        assert all(np.array_equal(a, b) for a, b in zip(arrays, other[index]))


def test_at_full_ranks_there_is_nothing_to_polish():
    old, blobs, new, others, chains = smaller("spatial", None)
    layers = {name: chain.layers for name, chain in chains.items()}
    more = polished(old, new, blobs, others, layers, sample(20), watched(old(1)))
    assert apart(old, blobs, new, {**others, **more}, sample(9, 2)) < 1e-5


def test_what_would_take_too_much_time_is_let_be(monkeypatch):
    old, blobs, new, others, chains = smaller("spatial", 0.4)
    layers = {name: chain.layers for name, chain in chains.items()}
    given = (old, new, blobs, others, layers, sample(8), watched(old(1)))
    monkeypatch.setattr(polish, "ROUNDS", 3)
    assert polished(*given)
    monkeypatch.setattr(polish, "MOST_MACS", 100)
    assert polished(*given) == {}
