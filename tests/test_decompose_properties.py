"""What must hold of every scheme: order and precision do not matter, ranks and errors fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import trained_like

from caffesurgery.decompose import SCHEMES, Geometry, compose, scheme
from caffesurgery.errors import DecomposeError

ALL = sorted(SCHEMES)
FITTED = [name for name in ALL if not name.endswith("-random")]
SEARCHING = [name for name in FITTED if scheme(name).takes_max_norm]
"""Schemes that end near an optimum, not in it: the order of the channels may show a little."""


def some_ranks(name, geometry, step=1, steps=3):
    return scheme(name).growing(geometry, step, steps)


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("group", [1, 2])
def test_order_of_channels_and_groups_does_not_matter(name, group):
    weight, rng = trained_like(16, 12, 3)[:, : 12 // group], np.random.default_rng(5)
    ranks = some_ranks(name, Geometry.of(weight.shape, group))
    error = scheme(name).decompose(weight, group, ranks).error
    swapped = np.concatenate(np.split(weight, group)[::-1])
    assert scheme(name).decompose(swapped, group, ranks).error == pytest.approx(error, rel=1e-4)
    mixed = weight[:, rng.permutation(weight.shape[1])]
    mixed = np.concatenate([half[rng.permutation(len(half))] for half in np.split(mixed, group)])
    close = 3e-2 if name in SEARCHING else 1e-4
    assert scheme(name).decompose(mixed, group, ranks).error == pytest.approx(error, rel=close)


@pytest.mark.parametrize("name", sorted(set(FITTED) - set(SEARCHING)))
def test_turning_the_channels_does_not_matter_to_what_is_optimal(name):
    weight, rng = trained_like(12, 10, 3), np.random.default_rng(6)
    turns = [np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (12, 10)]
    turned = np.einsum("ut,vs,tsyx->uvyx", *turns, weight).astype(np.float32)
    ranks = some_ranks(name, Geometry.of(weight.shape))
    errors = [scheme(name).decompose(one, 1, ranks).error for one in (weight, turned)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-4)


def drawn(data, *most):
    return tuple(data.draw(st.integers(1, n)) for n in most)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_single_precision_is_enough_whatever_the_shape(data):
    """A float64 kernel, its float32 copy and a float64 check of the factors agree."""
    name = data.draw(st.sampled_from(FITTED))
    group = data.draw(st.integers(1, 2))
    shape = (group * data.draw(st.integers(1, 9)), *drawn(data, 9, 4, 4))
    weight = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal(shape)
    geometry = Geometry.of(shape, group)
    ranks = some_ranks(name, geometry, data.draw(st.integers(0, 4)), 4)
    double = scheme(name).decompose(weight, group, ranks)
    single = scheme(name).decompose(weight.astype(np.float32), group, ranks)
    assert double.error == pytest.approx(single.error, abs=2e-3 if name in SEARCHING else 2e-5)
    parts = scheme(name).parts(geometry, ranks)
    for found in (double, single):
        product = compose(found.factors, parts, group).astype(np.float64)
        direct = np.linalg.norm(product - weight) / np.linalg.norm(weight)
        assert direct == pytest.approx(found.error, abs=5e-6)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_larger_rank_never_loses_more(data):
    name = data.draw(st.sampled_from([name for name in FITTED if name not in SEARCHING]))
    group = data.draw(st.integers(1, 2))
    shape = (group * data.draw(st.integers(1, 8)), *drawn(data, 8, 3, 3))
    weight = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    geometry = Geometry.of(shape, group)
    errors = [
        scheme(name).error_for_rank(weight, group, some_ranks(name, geometry, step, 6))
        for step in range(7)
    ]
    assert all(b <= a + 1e-5 for a, b in zip(errors, errors[1:])) and errors[-1] < 1e-5


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("group", [1, 2])
def test_ranks_beyond_what_is_possible_are_refused_with_the_largest(name, group):
    weight = trained_like(8, 6, 3)[:, : 6 // group]
    most = scheme(name).max_ranks(Geometry.of(weight.shape, group))
    for index, largest in enumerate(most):
        ranks = list(most)
        ranks[index] += group
        for call in (scheme(name).decompose, scheme(name).error_for_rank):
            with pytest.raises(DecomposeError, match=f"the largest possible is {largest}"):
                call(weight, group, ranks)
    assert scheme(name).error_for_rank(weight, group, most) < (9 if name not in FITTED else 1e-5)


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("shape", [(12, 8, 2, 4), (9, 1, 3, 3), (1, 9, 3, 3)])
def test_error_and_rank_lead_to_each_other(name, shape):
    weight = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    weight *= (1 + np.arange(shape[0])).reshape(-1, 1, 1, 1) ** -0.8
    ranks = some_ranks(name, Geometry.of(shape), 1, 2)
    error = scheme(name).error_for_rank(weight, 1, ranks)
    found = scheme(name).ranks_for_error(weight, 1, min(error, 0.999))
    assert scheme(name).error_for_rank(weight, 1, found) <= error + 2e-5
    if len(ranks) == 1 and "tpm" not in name:  # near full rank tpm loses less than its curve says
        assert found[0] <= ranks[0]
    assert scheme(name).ranks_for_error(weight, 1, 0.9) <= found


@pytest.mark.parametrize("name", [name for name in FITTED if "fc" in scheme(name).kinds])
@pytest.mark.parametrize("shape", [(10, 6, 3, 4), (10, 40, 1, 1), (10, 40)])
def test_fully_connected_layers_are_exact_at_full_rank(name, shape):
    weight = trained_like(10, 6, 4)[:, :, :3] if len(shape) == 4 and shape[2] > 1 else None
    if weight is None:
        weight = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    ranks = scheme(name).max_ranks(Geometry.of(weight.shape, kind="fc"))
    assert scheme(name).decompose(weight, 1, ranks).error < 1e-5


@pytest.mark.parametrize("name", FITTED)
def test_dead_filters_and_channels_stay_dead(name):
    weight = trained_like(12, 10, 3)
    weight[[2, 7]], weight[:, 4] = 0, 0
    ranks = some_ranks(name, Geometry.of(weight.shape))
    found = scheme(name).decompose(weight, 1, ranks)
    product = compose(found.factors, scheme(name).parts(Geometry.of(weight.shape), ranks))
    assert np.abs(product[[2, 7]]).max() < 1e-5 and np.abs(product[:, 4]).max() < 1e-5
    assert np.isfinite(found.error) and found.error < 1


def test_the_lines_of_the_help_page_run():
    from caffesurgery.files.resources import resource

    page = resource("docs", "methods.md").read_text("utf-8").split("**From Python**")[1]
    lines = [line[4:] for line in page.splitlines() if line.startswith("    ")]
    names = {"kernel": trained_like(12, 8, 3)[:, :4], "group": 2, "rank": 6}
    exec("\n".join(lines), names)  # noqa: S102  our own page
    found, dense = names["found"], names["dense"]
    direct = np.linalg.norm(dense - names["kernel"]) / np.linalg.norm(names["kernel"])
    assert direct == pytest.approx(found.error, rel=1e-4)
