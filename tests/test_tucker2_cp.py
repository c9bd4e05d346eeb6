"""Tucker-2 and then CP of the core: errors that add up, ranks that go together, names that fit."""

from __future__ import annotations

import numpy as np
import pytest
from nets import write_net
from tensors import trained_like

import caffesurgery
from caffesurgery.cost import Sizes
from caffesurgery.decompose import Geometry, compose, scheme
from caffesurgery.errors import DecomposeError, PlanError, RankError
from caffesurgery.ranks import Candidate, parse_rule

BOTH = scheme("tucker2-cp")


def candidate(weight, group=1):
    geometry = Geometry.of(weight.shape, group)
    return Candidate("conv", BOTH, geometry, Sizes(12, 12, 12, 12), True, lambda: weight)


def weights(name, shape, ranks):
    parts = scheme(name).parts(Geometry.of(shape), ranks)
    return sum(int(np.prod(part.weight_shape)) for part in parts)


@pytest.mark.parametrize("group", [1, 2])
def test_error_is_that_of_tucker2_and_of_the_cores_cp_together(group):
    weight, ranks = trained_like(32, 24, 3)[:, : 24 // group], (10, 12, 18)
    both = BOTH.decompose(weight, group, ranks)
    tucker = scheme("tucker2").decompose(weight, group, ranks[:2])
    core = tucker.factors[1]
    cp = scheme("cp3").decompose(core, group, ranks[2:])
    share = np.linalg.norm(core) / np.linalg.norm(weight)
    assert both.error == pytest.approx(np.hypot(tucker.error, share * cp.error), rel=1e-4)
    product = compose(both.factors, BOTH.parts(Geometry.of(weight.shape, group), ranks), group)
    direct = np.linalg.norm(product - weight) / np.linalg.norm(weight)
    assert both.error == pytest.approx(direct, rel=1e-4)
    assert both.norm_ratio == pytest.approx(share * cp.norm_ratio, rel=1e-3)


def test_planted_kernels_are_recovered():
    geometry, ranks = Geometry(24, 20, 3, 3, group=2), (6, 8, 6)
    rng = np.random.default_rng(0)
    parts = BOTH.parts(geometry, ranks)
    factors = [rng.standard_normal(part.weight_shape) for part in parts]
    weight = compose(factors, parts, 2)
    assert BOTH.decompose(weight, 2, ranks, effort="high").error < 1e-3


def test_outer_factors_are_orthonormal_and_the_cores_are_balanced():
    found = BOTH.decompose(trained_like(24, 16, 3), 1, (8, 10, 14)).factors
    first, a, b, c, last = (factor.reshape(len(factor), -1) for factor in found)
    assert np.allclose(first @ first.T, np.eye(8), atol=1e-5)
    assert np.allclose(last.T @ last, np.eye(10), atol=1e-5)
    norms = [np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1), np.linalg.norm(c, axis=0)]
    assert np.allclose(norms[0], norms[1], rtol=1e-4) and np.allclose(norms[0], norms[2], rtol=1e-4)


@pytest.mark.parametrize("bound", [1.5, 2.5])
def test_norms_stay_under_the_bound(bound):
    weight = trained_like(24, 16, 3)
    free = BOTH.decompose(weight, 1, (12, 16, 40))
    held = BOTH.decompose(weight, 1, (12, 16, 40), max_norm=bound)
    assert free.norm_ratio > bound >= held.norm_ratio
    assert free.error < held.error < 1


def test_a_core_rank_beyond_its_core_is_refused_with_the_largest():
    geometry = Geometry(32, 24, 3, 3, group=2)
    with pytest.raises(DecomposeError, match="core rank 14 .*each group.*possible is 12"):
        BOTH.check_ranks(geometry, (4, 6, 14))
    assert BOTH.check_ranks(geometry, (4, 6, 12)) == (4, 6, 12)
    with pytest.raises(DecomposeError, match="core rank 300 .*largest possible is 216"):
        BOTH.check_ranks(geometry, (24, 32, 300))
    with pytest.raises(RankError, match="three ranks, INxOUTxCORE, for example conv=24x32x"):
        parse_rule("conv=4x6").allocate([candidate(trained_like(32, 24, 3))])


@pytest.mark.parametrize("group", [1, 2])
def test_every_step_of_growing_is_legal_and_no_smaller(group):
    geometry = Geometry(16, 12, 3, 2, group)
    way = [BOTH.growing(geometry, step, 60) for step in range(61)]
    assert all(BOTH.check_ranks(geometry, ranks) == ranks for ranks in way)
    assert all(a <= b for old, new in zip(way, way[1:]) for a, b in zip(old, new))
    assert way[0] == (group,) * 3 and way[-1] == BOTH.max_ranks(geometry)


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_ranks_within_a_budget_lose_less_than_tucker2s(share):
    weight = trained_like(48, 32, 3)
    ranks = candidate(weight).largest_within(share * weight.size * 144)
    assert weights("tucker2-cp", weight.shape, ranks) <= share * weight.size
    other = Candidate("conv", scheme("tucker2"), *_rest(weight))
    pair = other.largest_within(share * weight.size * 144)
    theirs = scheme("tucker2").decompose(weight, 1, pair).error
    assert BOTH.decompose(weight, 1, ranks).error < theirs


def _rest(weight):
    return Geometry.of(weight.shape), Sizes(12, 12, 12, 12), True, lambda: weight


@pytest.mark.parametrize("error", [0.3, 0.6])
def test_ranks_for_an_error_take_fewer_weights_than_tucker2s(error):
    weight = trained_like(48, 32, 3)
    ranks = BOTH.ranks_for_error(weight, 1, error)
    assert all(type(rank) is int for rank in ranks)
    assert BOTH.error_for_rank(weight, 1, ranks) <= error + 2e-5
    theirs = scheme("tucker2").ranks_for_error(weight, 1, error)
    assert weights("tucker2-cp", weight.shape, ranks) < weights("tucker2", weight.shape, theirs)
    assert BOTH.ranks_for_energy(weight, 1, 1 - error**2) == ranks


def test_it_is_tucker2_and_then_cp3_of_the_core_layer(tmp_path):
    paths = write_net(tmp_path / "net")
    model = caffesurgery.load(*paths)
    once = _operate(model, "tucker2-cp", "conv2=4x6x8", tmp_path / "once")
    half = _operate(model, "tucker2", "conv2=4x6", tmp_path / "half")
    twice = _operate(half, "cp3", "conv2_core=8", tmp_path / "twice")
    names = [[layer.name for layer in net.layers] for net in (once.net, twice.net)]
    assert names[0] == names[1] and "conv2_core_dd" in names[0]
    for name in once.weights.names():
        for a, b in zip(once.weights.blobs(name), twice.weights.blobs(name)):
            assert np.allclose(a.array(), b.array(), atol=1e-6)
    dense = caffesurgery.save(caffesurgery.restore(twice), tmp_path / "dense")
    assert [layer.name for layer in dense.net.layers] == [x.name for x in model.net.layers]
    assert caffesurgery.compare(once, dense).worst < 1e-4


def _operate(model, method, ranks, folder):
    plan = caffesurgery.plan(model, method, ranks, allow_growth=True)
    return caffesurgery.save(caffesurgery.apply(model, plan), folder)


def test_a_plan_names_all_three_ranks(tmp_path):
    model = caffesurgery.load(*write_net(tmp_path))
    plan = caffesurgery.plan(model, "tucker2-cp", "conv2=4x6x8", allow_growth=True)
    text = plan.dumps()
    assert "  rank_in: 4\n  rank_out: 6\n  rank_core: 8\n" in text
    path = tmp_path / "plan.prototxt"
    path.write_text(text)
    assert caffesurgery.read_plan(path).layers[0].rank_dict() == {"in": 4, "out": 6, "core": 8}
    path.write_text(text.replace("  rank_core: 8\n", ""))
    with pytest.raises(PlanError, match="takes rank_in and rank_out and rank_core, met rank_in"):
        caffesurgery.read_plan(path)
    path.write_text(text.replace("rank_core: 8", "rank_core: 38"))
    with pytest.raises(PlanError, match="core rank 38 is more than.*largest possible is 12"):
        caffesurgery.apply(model, caffesurgery.read_plan(path))
