"""Method auto: the fastest scheme of all at equal error, or the layer as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import D, W, _tiny_net, run, succeed, tiny  # noqa: F401

import caffesurgery
from caffesurgery.decompose import scheme
from caffesurgery.surgery.apply import outline
from caffesurgery.surgery.methods import fit
from caffesurgery.surgery.target import target
from caffesurgery.timing import Linear, Profile, dense_part, predicted_ms

pytestmark = pytest.mark.usefixtures("tiny")

TERMS = {"gemm": Linear({"mac": 1.0}), "im2col": Linear({"element": 0.5}),
         "relu": Linear({"element": 0.01})}  # fmt: skip
FAST_CALLS = Profile("p", "caffe", "m", 1, TERMS)
METHODS = ("cp2", "svd", "channel", "spatial", "tucker2", "cp3", "cp4")


def times(model, name, error, profile) -> dict[str, float]:
    """Predicted time of every scheme that takes a layer, at the ranks for an error."""
    seen = target(model.shapes.layer(name))
    blob = model.weights.blobs(name)[0].array()
    found = {}
    for method in METHODS:
        geometry = fit(scheme(method), seen.flat, seen.spatial)
        if isinstance(geometry, str):
            continue
        kernel = seen.kernel(blob, geometry)
        ranks = scheme(method).ranks_for_error(kernel, geometry.group, error)
        found[method] = predicted_ms(
            scheme(method).parts(geometry, ranks), seen.sizes_of(geometry), profile, seen.bias,
            geometry.kind, model.shapes.images,
        )  # fmt: skip
    return found


def dense(model, name, profile) -> float:
    seen = target(model.shapes.layer(name))
    parts, sizes = (dense_part(seen.flat),), seen.sizes_of(seen.flat)
    return predicted_ms(parts, sizes, profile, seen.bias, seen.flat.kind, model.shapes.images)


def test_auto_takes_the_fastest_of_all_schemes():
    error = 0.6
    model = caffesurgery.load(D, W)
    plan = caffesurgery.plan(model, "auto", f"error={error}", profile=FAST_CALLS)
    planned = {layer.name: layer for layer in plan.layers}
    for name in ("conv1", "conv2", "fc3", "fc4"):
        found, as_it_is = times(model, name, error, FAST_CALLS), dense(model, name, FAST_CALLS)
        best = min(found.values())
        if name not in planned:
            assert best >= as_it_is
            continue
        assert best < as_it_is
        assert found[planned[name].scheme] == pytest.approx(best, rel=1e-6), (found, name)
        assert f"error={error:g}: {as_it_is:.3g} ms as it is, now {best:.3g}" in planned[name].why
    assert planned, "nothing was worth replacing"


def test_the_plan_shows_the_runners_up():
    model = caffesurgery.load(D, W)
    plan = caffesurgery.plan(model, "auto", "error=0.6", "conv2", profile=FAST_CALLS)
    (layer,) = plan.layers
    others = layer.why.split("; then ")[1]
    assert layer.scheme not in others.replace(f"{layer.scheme}-", "").split()
    assert {"tucker2", "cp4"} - {layer.scheme} <= set(others.replace(",", "").split())
    assert "why" in plan.dumps() and plan.method == "auto"


def test_a_layer_is_replaced_only_where_that_saves_time():
    terms = {"layer": Linear({"call": 1e9}), **FAST_CALLS.terms}
    slow = Profile("slow", "caffe", "m", 1, terms)
    with pytest.raises(
        caffesurgery.SurgeryError, match="no scheme is faster, .* ms as it is; fastest"
    ):
        caffesurgery.plan(caffesurgery.load(D, W), "auto", "error=0.6", profile=slow)


def test_other_rules_give_auto_the_error_of_cp():
    model = caffesurgery.load(D, W)
    plan = caffesurgery.plan(model, "auto", "conv2=8,fc3=6", profile=FAST_CALLS)
    by_name = {layer.name: layer for layer in plan.layers}
    assert "which cp3 keeps to error" in by_name["conv2"].why
    assert {kept.name: kept.why for kept in plan.kept}["conv1"] == "no rank given for it"
    result = caffesurgery.apply(model, plan)
    base = caffesurgery.plan(model, "cp", "conv2=8,fc3=6")
    wanted = {one.plan.name: one.error for one in caffesurgery.apply(model, base).operated.replaced}
    for one in result.operated.replaced:
        assert one.error <= wanted[one.plan.name] + 1e-4


def test_budgets_of_time_hold_with_auto():
    Path("p.json").write_text(FAST_CALLS.dumps())
    ranks = ("--ranks", "uniform:ms=0.6", "--profile", "p.json")
    succeed("plan", D, W, "--method", "auto", *ranks, "-o", "plan.prototxt")
    succeed("apply", D, W, "plan.prototxt", "-o", "small")
    costs = succeed("cost", D, "--vs", f"small/{D}", "--profile", "p.json", "--format", "json").json
    assert costs["vs"]["totals"]["ms"] <= 0.6 * costs["totals"]["ms"] + 1e-9


def test_auto_runs_with_caffe_s_profile_by_default():
    done = run("plan", D, W, "--method", "auto", "--ranks", "error=0.8", "-o", "plan.prototxt")
    assert done.code == 0 or "no scheme is faster" in done.err


def test_an_outline_is_the_net_that_a_plan_makes():
    model = caffesurgery.load(D, W)
    plan = caffesurgery.plan(model, "cp", "conv2=8,fc3=6")
    result = caffesurgery.apply(model, plan)
    assert outline(model.net, model.shapes, plan) == result.operated.texts[D]
