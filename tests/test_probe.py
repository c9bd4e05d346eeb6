"""What an error of a layer is worth to its net, measured, and that rank rules go by it."""

import numpy as np
import pytest
from calibrated import BLOCK, LINEAR, net_of, sample

from caffesurgery.calibration import collect, outputs, watched
from caffesurgery.calibration.guard import disturbance
from caffesurgery.calibration.probe import least_components, with_worth
from caffesurgery.decompose.metric import Metric


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
        rows = kernel.reshape(len(kernel), -1)
        basis, _ = least_components(rows @ metric.covariances[0] @ rows.T)
        change = 0.1 * basis @ (basis.T @ rows)
        other = (rows - change).reshape(kernel.shape)
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


def test_the_least_components_are_the_last_principal_ones_of_the_outputs():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 12)) * np.geomspace(1, 0.05, 12)
    rows = rng.standard_normal((6, 12))
    basis, held = least_components(rows @ np.cov(x.T, bias=True) @ rows.T)
    change = basis @ (basis.T @ rows)
    assert np.allclose(held, np.var(x @ rows.T @ basis, axis=0))
    outputs_ = (x - x.mean(axis=0)) @ rows.T
    left, values, right = np.linalg.svd(outputs_, full_matrices=False)
    rank = np.linalg.matrix_rank(change, tol=1e-9)
    cut = (left[:, -rank:] * values[-rank:]) @ right[-rank:]
    assert np.allclose((x - x.mean(axis=0)) @ change.T, cut)
    assert (values[-rank:] ** 2).sum() <= 0.2 * (values**2).sum()
