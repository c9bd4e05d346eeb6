"""Layers kept, pinned or given another method, and what a rule is told of the rest of the net."""

from __future__ import annotations

import numpy as np
import pytest

from caffesurgery import api
from caffesurgery.errors import PlanError, UsageError
from caffesurgery.ranks import RULES, Choice
from caffesurgery.ranks.rule import Rule
from caffesurgery.surgery.planner import make_plan
from caffesurgery.surgery.wishes import Wishes, parse_methods

NET = """
input: "data" input_shape { dim: 2 dim: 3 dim: 12 dim: 12 }
layer { name: "a" type: "Convolution" bottom: "data" top: "a"
        convolution_param { num_output: 16 kernel_size: 3 pad: 1 } }
layer { name: "b" type: "Convolution" bottom: "a" top: "b" param { name: "w" } param { name: "v" }
        convolution_param { num_output: 16 kernel_size: 3 pad: 1 } }
layer { name: "c" type: "Convolution" bottom: "b" top: "c" param { name: "w" } param { name: "v" }
        convolution_param { num_output: 16 kernel_size: 3 pad: 1 } }
layer { name: "d" type: "InnerProduct" bottom: "c" top: "d"
        inner_product_param { num_output: 10 } }
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from caffesurgery.files.caffemodel import NewLayer, write

    folder, rng = tmp_path_factory.mktemp("wishes"), np.random.default_rng(0)
    (folder / "net.prototxt").write_text(NET)

    def layer(name, *shape):
        blobs = [rng.standard_normal(shape, np.float32), np.zeros(shape[0], np.float32)]
        return NewLayer(name, "InnerProduct" if name == "d" else "Convolution", (), (), blobs)

    layers = [layer("a", 16, 3, 3, 3), layer("b", 16, 16, 3, 3), layer("c", 16, 16, 3, 3)]
    write(folder / "net.caffemodel", "", [*layers, layer("d", 10, 16 * 144)])
    return api.load(folder / "net.prototxt", folder / "net.caffemodel")


def made(model, ranks="ratio=0.5", **more):
    return make_plan(model.net, model.shapes, model.weights, "cp", ranks, **more)


def test_kept_pinned_and_other_methods(model):
    wishes = Wishes(("first",), "last=3", parse_methods(["[bc]=tucker2"]))
    plan = made(model, wishes=wishes)
    assert {kept.name: kept.why for kept in plan.kept} == {"a": "--keep first"}
    assert [(layer.name, layer.scheme) for layer in plan.layers] == [
        ("b", "tucker2"), ("c", "tucker2"), ("d", "svd"),
    ]  # fmt: skip
    assert plan.layers[0].ranks == plan.layers[1].ranks
    assert plan.layers[2].ranks == (3,)


@pytest.mark.parametrize(
    "wishes, error, message",
    [
        (Wishes(keep=("z",)), PlanError, "--keep 'z': no such layer"),
        (Wishes(pin="z=3"), PlanError, "--pin 'z': no such layer"),
        (Wishes(pin="a"), UsageError, "--pin a: met 'a', expected LAYER=RANK"),
        (Wishes(methods=(("a", "tuker2"),)), UsageError, "did you mean 'tucker2'"),
    ],
)
def test_wishes_that_cannot_be(model, wishes, error, message):
    with pytest.raises(PlanError, match="b, c share their weights, so they need one method"):
        made(model, wishes=Wishes(methods=(("b", "tucker2"),)))
    with pytest.raises(error, match=message):
        made(model, wishes=wishes)
    with pytest.raises(UsageError, match="expected PATTERN=METHOD"):
        parse_methods(["svd"])


def test_a_rule_sees_shared_layers_once_the_rest_of_the_net_and_what_can_measure(
    model, monkeypatch
):
    seen = {}

    class Spy(Rule):
        name = "spy"

        def allocate(self, candidates, context):
            seen["names"] = {one.name: [name for name, _ in one.twins] for one in candidates}
            seen["macs"] = context.rest.macs + sum(one.before.macs for one in candidates)
            seen["params"] = context.rest.params + sum(one.before.params for one in candidates)
            seen["scores"] = context.measured("spy", [{}, {"b": (2,)}])
            return {one.name: Choice((2,), "spied") for one in candidates}

    def evaluate(plans):
        return [len(plan.layers) for plan in plans]

    monkeypatch.setitem(RULES, "spy", Spy)
    plan = made(model, "spy", wishes=Wishes(("d",), "a=5"), evaluate=evaluate)
    assert seen["names"] == {"b": ["c"]}
    assert seen["scores"] == [1, 3]  # the pinned layer is in each, shared ones go together
    a = next(layer for layer in plan.layers if layer.name == "a")
    assert seen["macs"] == model.shapes.macs // 2 - a.before.macs + a.after.macs
    assert seen["params"] == model.shapes.parameters - a.before.params + a.after.params
    assert [layer.ranks for layer in plan.layers] == [(5,), (2,), (2,)]


def test_a_plan_says_what_was_asked_for_and_what_it_was_made_from(model):
    from hashlib import sha256
    from pathlib import Path

    from caffesurgery.surgery.plan import parse_plan

    plan = api.plan(
        model, "cp", "uniform:ms=0.9", keep="first", pin="d=3", method_for={"[bc]": "tucker2"},
        profile="caffe-cpu-avx512", allow_growth=True, seed=7,
    )  # fmt: skip
    again = parse_plan(plan.dumps())
    assert again.dumps() == plan.dumps()
    assert dict(again.asked) == {
        "keep_layers": "first", "pin": "d=3", "method_for": "[bc]=tucker2",
        "profile": "caffe-cpu-avx512",
    }  # fmt: skip
    assert (again.growth, again.seed, again.rule) == (True, 7, "uniform:ms=0.9")
    paths = [Path(model.net.doc.path), Path(model.weights.path)]
    assert list(again.made_from) == [
        (path.name, sha256(path.read_bytes()).hexdigest()) for path in paths
    ]


def test_explained_errors_are_those_of_the_truncated_svd(model):
    plan = api.plan(model, "channel", "ratio=0.5", "a")
    (layer,) = api.explain(model, plan)
    kernel = model.weights.blobs("a")[0].array()
    from caffesurgery.decompose import SCHEMES

    for step in (layer.lower, layer.here, layer.higher):
        found = SCHEMES["channel"].decompose(kernel, 1, step.ranks)
        assert step.least_error == pytest.approx(found.error, abs=1e-5)
    assert layer.here.ranks == plan.layers[0].ranks
    assert layer.lower.cost.macs < layer.here.cost.macs < layer.higher.cost.macs
