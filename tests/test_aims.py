"""Effort and bound of a plan: written, read, carried to every decomposition, and checked."""

from __future__ import annotations

import numpy as np
import pytest
from nets import SMALL, write_net
from tensors import trained_like

import caffesurgery
from caffesurgery.decompose import SCHEMES, Aim, scheme
from caffesurgery.errors import DecomposeError, NetError, PlanError, UsageError
from caffesurgery.report import operation_report, plan_report
from caffesurgery.surgery.aims import aim_of
from caffesurgery.surgery.plan import parse_plan

HAVE_COMPONENTS = sorted(name for name in SCHEMES if name.startswith(("cp3", "cp4", "tucker2-")))

PLAN = """version: 1
effort: HIGH
max_norm: 2.5
layer { name: "conv1" method: "cp3" rank: 20 effort: NORMAL max_norm: 1.5 }
layer { name: "conv2" method: "cp3" rank: 8 }
layer { name: "fc" method: "svd" rank: 3 }
"""


@pytest.fixture(name="model", scope="module")
def _model(tmp_path_factory):
    return caffesurgery.load(*write_net(tmp_path_factory.mktemp("aims"), SMALL))


def test_a_layers_own_words_count_before_the_plans():
    plan = parse_plan(PLAN)
    assert [aim_of(layer, plan) for layer in plan.layers] == [
        Aim("normal", 1.5),
        Aim("high", 2.5),
        Aim("high", None),
    ]


def test_effort_and_bound_survive_the_text():
    plan = parse_plan(PLAN)
    again = parse_plan(plan.dumps())
    assert (again.effort, again.max_norm) == ("high", 2.5)
    assert [(x.effort, x.max_norm) for x in again.layers] == [
        ("normal", 1.5),
        (None, None),
        (None, None),
    ]


def test_plans_from_before_mean_normal_effort_and_no_bound():
    plan = parse_plan('version: 1 layer { name: "conv1" method: "cp3" rank: 9 }')
    assert aim_of(plan.layers[0], plan) == Aim()


def test_apply_carries_them_to_the_decompositions_and_reports_them(model, tmp_path):
    result = caffesurgery.apply(model, parse_plan(PLAN))
    smaller = caffesurgery.save(result, tmp_path / "out")
    report = operation_report(result, smaller)
    assert (report["effort"], report["max_norm"]) == ("high", 2.5)
    conv1, conv2, fc = report["layers"]
    assert (conv1["effort"], conv1["max_norm"]) == ("normal", 1.5) and conv1["norm_ratio"] <= 1.5
    assert (conv2["effort"], conv2["max_norm"]) == ("high", 2.5) and conv2["norm_ratio"] <= 2.5
    assert (fc["effort"], fc["max_norm"]) == ("high", None)
    kernel = model.weights.blobs("conv1")[0].array().reshape(8, 6, 3, 3)
    direct = scheme("cp3").decompose(kernel, 1, (20,), max_norm=1.5)
    assert conv1["curve"] is None and len(fc["curve"]) == 3 and fc["curve"][-1] == fc["error"]
    assert np.array_equal(smaller.weights.blobs("conv1_dd")[0].array(), direct.factors[1])
    assert "max_norm 2.5 bounds CP components; it does not concern fc (svd)" in report["notes"]
    for row in report["layers"]:
        assert row["fitness"] == pytest.approx(1 - row["error"], abs=2e-6)
    assert direct.fitness == 1 - direct.error


def test_a_plan_records_what_it_was_made_with(model):
    plan = caffesurgery.plan(model, "cp", "conv2=8,fc=3", effort="high", max_norm=4)
    assert "effort: HIGH\nmax_norm: 4" in plan.dumps()
    report = plan_report(model, plan)
    assert (report["effort"], report["max_norm"]) == ("high", 4)
    assert report["notes"][-1].endswith("does not concern fc (svd)")


def test_rules_look_for_ranks_with_the_effort_and_bound_that_apply_will_use(model):
    def ranks(**aim):
        plan = caffesurgery.plan(model, "cp3", "error=0.3", "conv1", allow_growth=True, **aim)
        return plan.layers[0].ranks

    (free,), (held,) = ranks(), ranks(max_norm=1.5)
    assert held > free
    energy = caffesurgery.plan(
        model, "cp3", "energy=0.91", "conv1", allow_growth=True, max_norm=1.5
    )
    assert energy.layers[0].ranks == (held,)


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_a_bound_is_refused_where_there_are_no_components(name):
    weight = trained_like(8, 6, 3)
    ranks = (2,) * len(scheme(name).rank_names)
    assert scheme(name).takes_max_norm is (name in HAVE_COMPONENTS)
    if name in HAVE_COMPONENTS:
        assert scheme(name).decompose(weight, 1, ranks, max_norm=9).norm_ratio < 9
        return
    with pytest.raises(DecomposeError, match=f"and {name} has none"):
        scheme(name).decompose(weight, 1, ranks, max_norm=9)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("effort: HIGH", "effort: SOME", "effort is SOME, expected one of NORMAL, HIGH"),
        ("max_norm: 2.5", 'max_norm: "x"', "max_norm is .*expected a number"),
        ("max_norm: 2.5", "max_norm: -1", "plan: max_norm -1.0: expected a number above 0"),
        ("max_norm: 2.5", "max_norm: nan", "max_norm nan: expected a number above 0"),
        ("max_norm: 1.5", "max_norm: 0", "4:8: layer 'conv1': max_norm 0.0: expected"),
        ("rank: 3", "rank: 3 max_norm: 2", "6:8: layer 'fc': max_norm 2 bounds.*svd has none"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(old, new, message):
    with pytest.raises((PlanError, NetError), match=message):
        parse_plan(PLAN.replace(old, new))


def test_a_bound_that_bounds_nothing_is_refused(model):
    with pytest.raises(PlanError, match=r"max_norm 5 .*no planned layer has any \(fc \(svd\)"):
        caffesurgery.plan(model, "svd", "fc=3", max_norm=5)
    with pytest.raises(UsageError, match="max_norm -5: expected a number above 0"):
        caffesurgery.plan(model, "cp", "conv1=9", max_norm=-5)
    with pytest.raises(UsageError, match="effort 'most': expected normal or high"):
        caffesurgery.plan(model, "cp", "conv1=9", effort="most")
