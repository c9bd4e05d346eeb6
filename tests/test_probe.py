"""What an error of a layer is worth to its net, measured, and that rank rules go by it."""

import numpy as np
import pytest
from calibrated import BLOCK, INPUT, LINEAR, net_of, sample

from caffesurgery.calibration import collect, outputs, watched
from caffesurgery.calibration.guard import disturbance
from caffesurgery.calibration.probe import ERROR, probe_of, with_worth
from caffesurgery.decompose.metric import Metric
from caffesurgery.forward.alone import run_layer


def metrics_of(shaped, blobs, images):
    return {name: Metric(each) for name, each in collect(shaped, blobs, images).items()}


def disturbed(shaped, blobs, index, changed, images):
    kept = watched(shaped(1))
    made = [outputs(shaped, each, images, kept) for each in (blobs, {**blobs, index: changed})]
    return disturbance(*made, kept)


def test_the_last_layers_worth_is_the_variance_of_its_outputs_over_itself():
    """Of the last layer the relative error of its outputs is that of the net."""
    shaped, blobs = net_of(LINEAR)
    images = sample(24)
    found = with_worth(shaped, blobs, images, metrics_of(shaped, blobs, images))
    assert found["fc"].worth == pytest.approx(1.0, rel=0.35)  # of all outputs together, not each
    assert set(found) == {"grouped", "point", "fc"}
    assert all(np.isfinite(each.worth) and each.worth > 0 for each in found.values())


def test_worth_tells_what_a_small_error_of_a_layer_does():
    shaped, blobs = net_of(BLOCK)
    images = sample(40)
    metrics = with_worth(shaped, blobs, images, metrics_of(shaped, blobs, images), jobs=2)
    for name in ("first", "second", "third"):
        (index,) = (k for k, e in enumerate(shaped(1).layers) if e.layer.name == name)
        metric, kernel = metrics[name], np.asarray(blobs[index][0], np.float64)
        noise = metric.noise(len(kernel), np.random.default_rng(99)).reshape(kernel.shape)
        other = kernel + 0.1 * noise * (metric.lost(kernel) / metric.lost(noise)) ** 0.5
        bias = [blobs[index][1] + metric.shift(kernel, other)] if len(blobs[index]) > 1 else []
        lost = disturbed(shaped, blobs, index, [other.astype(np.float32), *bias], images)
        wanted = metric.worth * metric.distance(kernel, other) ** 2
        assert lost == pytest.approx(wanted, rel=0.5), name


def test_worth_does_not_depend_on_threads():
    shaped, blobs = net_of(BLOCK)
    images = sample(16)
    metrics = metrics_of(shaped, blobs, images)
    one, two = (with_worth(shaped, blobs, images, metrics, jobs) for jobs in (1, 2))
    assert {n: each.worth for n, each in one.items()} == {n: e.worth for n, e in two.items()}


def test_a_layer_that_puts_out_nothing_is_worth_the_least():
    shaped, blobs = net_of(BLOCK)
    (index,) = (k for k, e in enumerate(shaped(1).layers) if e.layer.name == "third")
    blobs = {**blobs, index: [np.zeros_like(blobs[index][0]), blobs[index][1]]}
    images = sample(8)
    found = with_worth(shaped, blobs, images, metrics_of(shaped, blobs, images))
    assert found["third"].worth == min(each.worth for each in found.values()) > 0


def test_noise_is_as_large_in_every_output_for_all_that_inputs_vary_by():
    shaped, blobs = net_of(LINEAR)
    moments = collect(shaped, blobs, sample(40))["grouped"]
    weights = np.array([1.0, 4, 1, 1, 9, 1])
    metric = Metric(moments, True, weights)
    draws = [metric.noise(6, np.random.default_rng(seed)) for seed in range(300)]
    for g, covariance in enumerate(metric.regular):
        made = [each[3 * g : 3 * g + 3] @ covariance @ each[3 * g : 3 * g + 3].T for each in draws]
        wanted = np.diag(len(covariance) / weights[3 * g : 3 * g + 3])
        assert np.allclose(np.mean(made, axis=0), wanted, atol=0.1 * len(covariance))
    other = metric.noise(6, np.random.default_rng(0))
    assert np.array_equal(other, draws[0])
    metric.noise(6, np.random.default_rng(1))  # what is kept is not written over
    assert np.array_equal(metric.noise(6, np.random.default_rng(0)), other)


TURNED = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 6 group: 2 kernel_size: 3 bias_term: false } }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
  inner_product_param { num_output: 5 transpose: true } }
"""


@pytest.mark.parametrize("name", ["conv", "fc"])
def test_a_probe_makes_the_error_that_it_says_and_keeps_the_mean(name):
    shaped, blobs = net_of(INPUT + TURNED)
    (index,) = (k for k, entry in enumerate(shaped(1).layers) if entry.layer.name == name)
    images_ = sample(24, batch=24)
    entry, metric = shaped(24).layers[index], metrics_of(shaped, blobs, images_)[name]
    probe = probe_of(entry, blobs[index], metric, 0)
    bottom = images_.load(0)["data"]
    if name == "fc":
        (bottom,) = run_layer(shaped(24).layers[index - 1], blobs[index - 1], [bottom])
    (top,) = run_layer(entry, blobs[index], [bottom])
    (made,) = probe.disturbed(entry, [top], [bottom])
    axes = (0, 2, 3) if name == "conv" else 0
    assert np.allclose(made.mean(axes), top.mean(axes), atol=1e-4)
    lost = np.square(made - top).sum() / np.square(top - top.mean(axes, keepdims=True)).sum()
    assert lost == pytest.approx(ERROR, rel=1e-3)
