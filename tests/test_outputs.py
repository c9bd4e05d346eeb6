"""Layers known by what they put out: the same as by what they see, where both are known."""

from importlib import import_module

import numpy as np
import pytest
from calibrated import INPUT, images, net_of, sample
from nets import write_net
from test_wide import case, chain_of, made_by

import caffesurgery
from caffesurgery import forward
from caffesurgery.calibration import Shaped, collect, moments, sample_of
from caffesurgery.calibration.probe import ERROR, probe_of, with_worth
from caffesurgery.decompose import compose
from caffesurgery.decompose.metric import Metric, Moments
from caffesurgery.decompose.outputs import OutputMetric, sees_patches
from caffesurgery.decompose.task import Task
from caffesurgery.errors import NetError
from caffesurgery.forward.alone import run_layer
from caffesurgery.net.shapes import infer
from caffesurgery.surgery.fitting import metrics_of

WEIGHTS = np.array([1.0, 4, 1, 1, 9, 1, 1, 2, 1, 1, 1, 0.5])


def both(group: int, count: int = 4000, centred=True, weights=WEIGHTS, bias=0.0):
    """A layer, and what its patches and what its outputs say of it."""
    kernel, x, y = case(group, count)
    y = y + bias

    def of(rows, of_outputs):
        rows = rows.reshape(group, -1, count).astype(np.float64)
        gram = rows @ rows.transpose(0, 2, 1) / count
        return Moments(rows.mean(2), gram.astype(np.float32), count, 10**9, of_outputs)

    seen = Metric(of(x, False), centred, weights)
    return kernel, x, y, seen, OutputMetric.of(kernel, of(y, True), centred, weights, bias)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("centred", [True, False])
def test_chains_and_errors_are_those_under_the_covariance_of_patches(group, centred):
    kernel, _, _, seen, metric = both(group, centred=centred)
    task = Task("layer", "channel", kernel, group, (4 * group,), metric=metric)
    found = task.run()
    other = Task("layer", "channel", kernel, group, (4 * group,), metric=seen).run()
    assert found.output_error == pytest.approx(other.output_error, rel=1e-2)
    chain = chain_of(kernel, group, "channel", 4 * group)
    whole = compose(found.factors, chain.parts, group)
    assert found.output_error == pytest.approx(seen.distance(kernel, whole), rel=1e-2)
    error = np.linalg.norm(whole - kernel) / np.linalg.norm(kernel)
    assert found.error == pytest.approx(error, rel=1e-4)
    if centred:
        np.testing.assert_allclose(found.shift, seen.shift(kernel, whole), atol=2e-3)
    else:
        assert found.shift is None


def test_with_the_shift_a_chain_keeps_the_mean_of_outputs_with_a_bias():
    bias = np.linspace(-3, 3, 12)
    kernel, x, y, _, metric = both(1, bias=bias[:, None])
    chain = chain_of(kernel, 1, "channel", 3)
    metric = OutputMetric.of(kernel, _moments(y), True, None, bias)
    found = metric.decomposed(kernel, chain.parts)
    made = made_by(compose(found.factors, chain.parts, 1), x, 1) + (bias + found.shift)[:, None]
    np.testing.assert_allclose(made.mean(1), y.mean(1), atol=1e-3)


def _moments(y, images=10**9):
    rows = y[None].astype(np.float64)
    gram = (rows @ rows.transpose(0, 2, 1) / y.shape[1]).astype(np.float32)
    return Moments(rows.mean(2), gram, y.shape[1], images, True)


@pytest.mark.parametrize("group", [1, 2])
def test_whitened_spectra_are_those_under_the_covariance_of_patches(group):
    kernel, _, _, seen, metric = both(group)
    parts = chain_of(kernel, group, "channel", 4).parts
    assert sees_patches(parts)
    for one, other in zip(
        np.split(metric.root(), group), np.split(seen.whiten(kernel, parts), group)
    ):
        values = [np.linalg.svd(k.reshape(len(k), -1), compute_uv=False) for k in (one, other)]
        np.testing.assert_allclose(values[0][:10], values[1][:10], atol=2e-3 * values[1][0])


def test_of_few_images_the_spectrum_is_that_of_the_weights():
    kernel, _, y, _, _ = both(1)
    metric = OutputMetric.of(kernel, _moments(y[:, :1], 1), False)
    found = np.linalg.svd(metric.root()[:, :, 0, 0], compute_uv=False)
    own = np.linalg.svd(kernel[:, :, 0, 0], compute_uv=False)
    np.testing.assert_allclose(found[:10] / found[0], own / own[0], atol=1e-4)


@pytest.mark.parametrize("images_", [1, 4, 40, 10**9])
def test_on_its_images_it_is_never_above_the_truncated_svd(images_):
    kernel, x, y, seen, _ = both(1, count=30, weights=None)
    metric = OutputMetric.of(kernel, _moments(y, images_), True)
    plain, found = (
        Task("layer", "channel", kernel, 1, (3,), metric=each).run() for each in (None, metric)
    )
    parts = chain_of(kernel, 1, "channel", 3).parts
    most = seen.distance(kernel, compose(plain.factors, parts, 1))
    assert found.output_error <= most * (1 + 1e-4)
    assert images_ == 1 or found.output_error < 0.99 * most


def test_a_layer_that_puts_out_nothing_has_a_chain_and_no_probe():
    kernel = np.zeros((12, 10, 1, 1), np.float32)
    chain = chain_of(kernel, 1, "channel", 3)
    metric = OutputMetric.of(kernel, _moments(np.zeros((12, 50))))
    found = metric.decomposed(kernel, chain.parts)
    assert found.output_error == 0 and np.isfinite(metric.root()).all()
    assert not compose(found.factors, chain.parts, 1).any()
    assert probe_of(None, [kernel], metric, 0) is None


# -- in a net


NET = (
    INPUT
    + """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 6 group: 2 kernel_size: 3 bias_term: false } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
  inner_product_param { num_output: 7 transpose: true } }
layer { name: "relu2" type: "ReLU" bottom: "fc" top: "fc" }
layer { name: "last" type: "InnerProduct" bottom: "fc" top: "last"
  inner_product_param { num_output: 5 } }
"""
)


def test_moments_of_wide_layers_are_those_of_their_outputs(monkeypatch):
    shaped, blobs = net_of(NET)
    monkeypatch.setattr(moments, "LARGEST", 8)
    found = collect(shaped, blobs, sample(20), jobs=2)
    assert {name: each.of_outputs for name, each in found.items()} == {
        "conv": True, "fc": True, "last": False
    }  # fmt: skip
    bottom = images(20)
    for index in (1, 3):
        entry = shaped(20).layers[index]
        (bottom,) = run_layer(entry, blobs[index], [bottom])
        seen = found[entry.layer.name]
        rows = np.moveaxis(bottom, 1, 0).reshape(len(seen.mean), seen.mean.shape[1], -1)
        assert seen.count == rows.shape[2] and seen.images == 20
        np.testing.assert_allclose(seen.mean, rows.mean(2), rtol=1e-4, atol=1e-5)
        gram = rows @ rows.transpose(0, 2, 1) / rows.shape[2]
        np.testing.assert_allclose(seen.gram, gram, rtol=1e-3, atol=1e-4)
        bottom = np.maximum(bottom, 0)


def test_wide_layers_that_share_a_kernel_are_left_out(monkeypatch):
    layer = """layer { name: "%s" type: "Convolution" bottom: "%s" top: "%s" param { name: "w" }
      param { name: "b" } convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }\n"""
    shaped, blobs = net_of(INPUT + layer % ("a", "data", "a") + layer % ("b", "a", "b"))
    monkeypatch.setattr(moments, "LARGEST", 8)
    assert collect(shaped, blobs, sample(6)) == {}


def test_outputs_that_are_not_finite_are_refused(monkeypatch):
    shaped, blobs = net_of(NET)
    monkeypatch.setattr(moments, "LARGEST", 8)
    blobs[1] = [np.full_like(blobs[1][0], np.inf)]
    with pytest.raises(NetError, match="net.prototxt:.*conv.*outputs become NaN or infinite"):
        collect(shaped, blobs, sample(4))


@pytest.mark.parametrize("name", ["conv", "fc"])
def test_a_probe_makes_the_error_that_it_says_and_keeps_the_mean(monkeypatch, name):
    shaped, blobs = net_of(NET)
    monkeypatch.setattr(moments, "LARGEST", 8)
    given = sample(48, batch=48)
    metric = metrics_of(shaped(48), blobs, collect(shaped, blobs, given))[name]
    (index,) = (k for k, entry in enumerate(shaped(1).layers) if entry.layer.name == name)
    probe = probe_of(shaped(48).layers[index], blobs[index], metric, 0)
    top = given.load(0)["data"]
    for k in range(1, index + 1):
        (top,) = run_layer(shaped(48).layers[k], blobs.get(k, ()), [top])
    (made,) = probe.disturbed(shaped(48).layers[index], [top], [])
    axes = (0, 2, 3) if name == "conv" else 0
    free = top.mean(axes, keepdims=True) if name == "fc" else 0
    lost_ = np.square(made - top).sum() / np.square(top - free).sum()
    assert lost_ == pytest.approx(ERROR, rel=1e-3)
    if name == "fc":
        assert np.allclose(made.mean(axes), top.mean(axes), atol=1e-4)


def test_a_layers_worth_is_about_the_same_by_its_outputs_as_by_its_patches(monkeypatch):
    shaped, blobs = net_of(NET)
    given, found = sample(60), []
    for largest in (moments.LARGEST, 8):
        monkeypatch.setattr(moments, "LARGEST", largest)
        metrics = metrics_of(shaped(1), blobs, collect(shaped, blobs, given))
        found.append(with_worth(shaped, blobs, given, metrics))
    kinds = {type(each["fc"]) for each in found}
    assert kinds == {Metric, OutputMetric}
    assert found[1]["fc"].worth == pytest.approx(found[0]["fc"].worth, rel=0.5)


def test_lost_is_what_a_change_of_the_outputs_makes():
    _, _, y, _, metric = both(2)
    change = np.random.default_rng(5).standard_normal((2, 6, 6)).astype(np.float32)
    rows = (y - y.mean(1, keepdims=True)).reshape(2, 6, -1)
    moved = np.matmul(change, rows).reshape(12, -1)
    wanted = float((np.square(moved).mean(1) * WEIGHTS).sum())
    assert metric.lost(change) == pytest.approx(wanted, rel=1e-3)
    assert metric.whole == pytest.approx(
        float(((y - y.mean(1, keepdims=True)) ** 2).mean(1) @ WEIGHTS), rel=1e-3
    )


# -- through plans and compress


@pytest.fixture
def model(tmp_path):
    """The net with more outputs, so that ranks can tell."""
    text = NET.replace("num_output: 6", "num_output: 24").replace("num_output: 7", "num_output: 40")
    return caffesurgery.load(*write_net(tmp_path, text.replace("dim: 4", "dim: 8")))


def pictures(count):
    return images(count, shape=(8, 9, 8))


@pytest.mark.parametrize("rule", ["error=0.3", "energy=0.9"])
@pytest.mark.parametrize("method", ["svd", "channel", "tucker1-out", "cp2"])
def test_ranks_for_outputs_are_about_those_for_patches(model, monkeypatch, method, rule):
    shaped = Shaped(lambda count: infer(model.net, model.phase, None, count))
    blobs = dict(forward.load(model.shapes, model.require_weights()))
    given, found = sample_of({"data": pictures(600)}, 50), []
    for largest in (moments.LARGEST, 8):
        monkeypatch.setattr(moments, "LARGEST", largest)
        metrics = metrics_of(model.shapes, blobs, collect(shaped, blobs, given))
        plan = caffesurgery.plan(model, method, rule, metrics=metrics)
        found.append({layer.name: layer.ranks for layer in plan.layers})
    by_patches, by_outputs = found
    plain = {each.name: each.ranks for each in caffesurgery.plan(model, method, rule).layers}
    assert by_outputs.keys() == by_patches.keys() and by_outputs != plain
    for name, ranks in by_outputs.items():
        assert np.allclose(ranks, by_patches[name], atol=1, rtol=0.06), name


def test_calibration_takes_what_outputs_say(model, tmp_path, monkeypatch):
    for module in (moments, import_module("caffesurgery.calibration.fit")):
        monkeypatch.setattr(module, "LARGEST", 8)
    given = caffesurgery.Calibrator(pictures(200), levers=("ranks", "whitening"))
    report = caffesurgery.compress(
        model, tmp_path / "out", "svd", "error=0.4", calibrate=given, onnx=False
    )
    told = report["calibration"]
    stages = {stage["name"]: stage["divergence"] for stage in told["stages"]}
    assert stages["whitening"] < 0.9 * min(stages["ranks"], stages["plain"])
    assert told["predicted_loss"] == pytest.approx(told["measured_loss"], rel=1.0)


def test_chains_that_do_not_see_whole_patches_go_by_the_weights(model, tmp_path, monkeypatch):
    monkeypatch.setattr(moments, "LARGEST", 8)
    monkeypatch.setattr(import_module("caffesurgery.calibration.fit"), "LARGEST", 8)
    given = caffesurgery.Calibrator(pictures(60), levers=("ranks", "whitening", "refit"))
    report = caffesurgery.compress(
        model, tmp_path / "out", "spatial", "error=0.3", "conv", calibrate=given, onnx=False
    )
    (layer,) = report["layers"]
    (plain,) = caffesurgery.plan(model, "spatial", "error=0.3", "conv").layers
    assert tuple(layer["ranks"].values()) == plain.ranks
    told = report["calibration"]
    assert told["kept"] <= told["plain"]
