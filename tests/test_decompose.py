"""Every decomposition scheme: its chain of small layers does what its factors and error say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caffesurgery.decompose import SCHEMES, Geometry, Part, compose, scheme

ALL = sorted(SCHEMES)
RANDOM = ["cp2-random", "cp3-random", "cp4-random"]
FITTED = [name for name in ALL if name not in RANDOM]
CP = [(f"cp{ways}{how}", ways) for ways in (3, 4) for how in ("", "-tpm", "-als", "-random")]
ONE_RANK = [name for name in ALL if len(SCHEMES[name].rank_names) == 1]


def kernel(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def convolve(x, weight, stride=(1, 1), pad=(0, 0), dilation=(1, 1), group=1):
    """Convolution of (S, H, W) by its definition, one kernel tap at a time, in float64."""
    out, inp, kh, kw = weight.shape
    x = np.pad(x, ((0, 0), (pad[0], pad[0]), (pad[1], pad[1])))
    height = (x.shape[1] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    width = (x.shape[2] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    result = np.zeros((out, height, width))
    for g in range(group):
        rows = slice(g * out // group, (g + 1) * out // group)
        seen = x[g * inp : (g + 1) * inp]
        for i in range(kh):
            for j in range(kw):
                top, left = i * dilation[0], j * dilation[1]
                tap = seen[
                    :,
                    top : top + stride[0] * (height - 1) + 1 : stride[0],
                    left : left + stride[1] * (width - 1) + 1 : stride[1],
                ]
                result[rows] += np.tensordot(weight[rows, :, i, j].astype(float), tap, 1)
    return result


def run_chain(x, factors, parts, stride, pad, dilation):
    """The parts one after the other, each with the dense layer's stride etc. on its own axes."""
    for factor, part in zip(factors, parts):
        takes = ["h" in part.axes, "w" in part.axes]
        x = convolve(
            x,
            factor,
            [s if t else 1 for s, t in zip(stride, takes)],
            [p if t else 0 for p, t in zip(pad, takes)],
            [d if t else 1 for d, t in zip(dilation, takes)],
            part.group,
        )
    return x


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


# shape (T, S / group, D, E), group, stride, pad, dilation
CONVOLUTIONS = [
    ((6, 4, 3, 3), 1, (1, 1), (1, 1), (1, 1)),
    ((6, 4, 3, 3), 1, (2, 1), (0, 2), (1, 1)),
    ((8, 3, 5, 3), 2, (2, 3), (2, 1), (2, 1)),
    ((4, 1, 2, 3), 4, (1, 1), (1, 1), (1, 2)),
    ((5, 7, 1, 1), 1, (2, 2), (1, 0), (1, 1)),
    ((3, 1, 3, 3), 1, (1, 1), (1, 1), (1, 1)),
    ((1, 3, 3, 1), 1, (1, 2), (1, 0), (1, 1)),
    ((6, 2, 1, 4), 3, (1, 1), (0, 3), (1, 2)),
]


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("shape, group, stride, pad, dilation", CONVOLUTIONS)
def test_full_rank_chain_convolves_as_the_dense_layer(name, shape, group, stride, pad, dilation):
    weight, geometry = kernel(*shape), Geometry.of(shape, group)
    ranks = SCHEMES[name].max_ranks(geometry)
    parts = SCHEMES[name].parts(geometry, ranks)
    found = SCHEMES[name].decompose(weight, group, ranks)
    assert found.error < 1e-5
    assert relative(compose(found.factors, parts, group), weight) < 1e-5
    x = np.random.default_rng(1).standard_normal((geometry.S, 9, 10))
    dense = convolve(x, weight, stride, pad, dilation, group)
    assert relative(run_chain(x, found.factors, parts, stride, pad, dilation), dense) < 1e-5


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape, group, stride, pad, dilation", CONVOLUTIONS)
def test_low_rank_chain_convolves_as_its_composed_kernel(name, shape, group, stride, pad, dilation):
    weight, geometry = kernel(*shape, seed=2), Geometry.of(shape, group)
    parts = SCHEMES[name].parts(geometry, [group] * len(SCHEMES[name].rank_names))
    found = SCHEMES[name].decompose(weight, group, [group] * len(SCHEMES[name].rank_names))
    composed = compose(found.factors, parts, group)
    assert composed.shape == shape
    assert [f.shape for f in found.factors] == [p.weight_shape for p in parts]
    assert all(f.dtype == np.float32 and f.flags.c_contiguous for f in found.factors)
    assert relative(composed, weight) == pytest.approx(found.error, abs=2e-6)
    x = np.random.default_rng(3).standard_normal((geometry.S, 9, 10))
    dense = convolve(x, composed, stride, pad, dilation, group)
    assert relative(run_chain(x, found.factors, parts, stride, pad, dilation), dense) < 1e-5


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_shape_and_rank_reports_the_error_of_its_factors(data):
    name = data.draw(st.sampled_from(ALL))
    group = data.draw(st.integers(1, 3))
    shape = (
        group * data.draw(st.integers(1, 12)),
        data.draw(st.integers(1, 12)),
        data.draw(st.integers(1, 4)),
        data.draw(st.integers(1, 4)),
    )
    geometry, weight = Geometry.of(shape, group), kernel(*shape, seed=4)
    most = SCHEMES[name].max_ranks(geometry)
    ranks = [group * data.draw(st.integers(1, m // group)) for m in most]
    if name == "tucker2-cp":  # the core has its own largest rank
        modes = (ranks[0] // group, shape[2] * shape[3], ranks[1] // group)
        ranks[2] = min(ranks[2], group * (int(np.prod(modes)) // max(modes)))
    found = SCHEMES[name].decompose(weight, group, ranks)
    composed = compose(found.factors, SCHEMES[name].parts(geometry, ranks), group)
    assert relative(composed, weight) == pytest.approx(found.error, abs=3e-6)
    assert name in RANDOM or found.error < (1e-5 if tuple(ranks) == most else 1)


@pytest.mark.parametrize(
    "name", ["svd", "cp3", "cp4", "tucker2", "tucker2-cp", "spatial", "tucker1-in"]
)
def test_fully_connected_layer_over_a_spatial_bottom_is_a_convolution(name):
    weight, x = kernel(10, 6, 3, 4), kernel(6, 3, 4, seed=1)
    geometry = Geometry.of(weight.shape, kind="fc")
    assert SCHEMES[name].applies(geometry) is None
    ranks = SCHEMES[name].max_ranks(geometry)
    factors = SCHEMES[name].decompose(weight, 1, ranks).factors
    chained = run_chain(x, factors, SCHEMES[name].parts(geometry, ranks), (1, 1), (0, 0), (1, 1))
    assert relative(chained.ravel(), weight.reshape(10, -1) @ x.ravel()) < 1e-5


def test_svd_takes_a_plain_matrix_and_keeps_the_singular_values_in_the_first_layer():
    weight = kernel(20, 30)
    first, second = scheme("svd").decompose(weight, 1, (7,)).factors
    assert first.shape == (7, 30, 1, 1) and second.shape == (20, 7, 1, 1)
    second = second.reshape(20, 7)
    assert np.allclose(second.T @ second, np.eye(7), atol=1e-5)
    singular = np.linalg.svd(weight, compute_uv=False)[:7]
    assert np.allclose(np.linalg.norm(first.reshape(7, -1), axis=1), singular, rtol=1e-5)


@pytest.mark.parametrize("name", ["cp2", "channel", "spatial"])
def test_svd_schemes_share_the_singular_values_evenly(name):
    first, second = scheme(name).decompose(kernel(9, 5, 3, 3), 1, (4,)).factors
    first = np.linalg.norm(first.reshape(4, -1), axis=1)
    second = np.linalg.norm(np.moveaxis(second, 1, 0).reshape(4, -1), axis=1)
    assert np.allclose(first, second, rtol=1e-5)


def test_channel_cp2_and_tucker1_out_have_one_product():
    weight, geometry = kernel(9, 5, 3, 3), Geometry.of((9, 5, 3, 3))
    products = [
        compose(scheme(name).decompose(weight, 1, (4,)).factors, scheme(name).parts(geometry, (4,)))
        for name in ("channel", "cp2", "tucker1-out")
    ]
    assert relative(products[1], products[0]) < 1e-6
    assert relative(products[2], products[0]) < 1e-6


@pytest.mark.parametrize("name, sizes", CP)
def test_cp_component_norms_are_balanced_over_the_factors(name, sizes):
    *inner, last = scheme(name).decompose(kernel(12, 8, 3, 3), 2, (6,)).factors
    norms = [np.linalg.norm(f.reshape(6, -1), axis=1) for f in inner]
    # The last factor is (T, R / group): component r of group g is column r of the group's rows.
    halves = [last[:6, :, 0, 0], last[6:, :, 0, 0]]
    norms.append(np.concatenate([np.linalg.norm(half, axis=0) for half in halves]))
    assert len(norms) == sizes
    for other in norms[1:]:
        assert np.allclose(other, norms[0], rtol=1e-4)


SUFFIXES = {
    **dict.fromkeys(["cp2", "cp2-random"], ["_sdd:hw", "_t:"]),
    **dict.fromkeys(["cp3", "cp3-tpm", "cp3-als", "cp3-random"], ["_s:", "_dd:hw", "_t:"]),
    **dict.fromkeys(["cp4", "cp4-tpm", "cp4-als", "cp4-random"], ["_s:", "_v:h", "_h:w", "_t:"]),
    "tucker2": ["_s:", "_core:hw", "_t:"],
    "tucker2-cp": ["_s:", "_core_s:", "_core_dd:hw", "_core_t:", "_t:"],
    "tucker1-out": ["_core:hw", "_t:"],
    "tucker1-in": ["_s:", "_core:hw"],
    "svd": ["_ud:hw", "_vt:"],
    "spatial": ["_v:h", "_h:w"],
    "channel": ["_d:hw", "_t:"],
}


def test_the_table_has_these_schemes_with_these_layers():
    geometry = Geometry(8, 6, 3, 3)
    found = {
        name: [f"{p.suffix}:{p.axes}" for p in s.parts(geometry, [2] * len(s.rank_names))]
        for name, s in SCHEMES.items()
    }
    assert found == SUFFIXES
    assert all(s.title and s.source and s.equations for s in SCHEMES.values())


@pytest.mark.parametrize("name", ALL)
def test_cost_formulas_count_the_weights_of_the_chain_layer_by_layer(name):
    geometry, ranks = Geometry(12, 8, 3, 5, group=2), [4, 6, 8][: len(scheme(name).rank_names)]
    known = {"T": 12, "S": 8, "D": 3, "E": 5, "g": 2, "R3": 4, "R4": ranks[-1], "R": ranks[-1]}
    if len(ranks) == 3:
        known["R4"] = ranks[1]
    parts = scheme(name).parts(geometry, ranks)
    counted = [int(np.prod(part.weight_shape)) for part in parts]
    assert [eval(term, {}, known) for term in scheme(name).cost.split(" + ")] == counted


def test_grouped_layers_give_their_groups_to_the_channel_mixing_parts():
    geometry = Geometry(8, 6, 3, 3, group=2)
    assert scheme("cp3").parts(geometry, (4,)) == (
        Part("_s", 4, 6, group=2),
        Part("_dd", 4, 4, 3, 3, group=4, axes="hw"),
        Part("_t", 8, 4, group=2),
    )
    assert [p.group for p in scheme("tucker2").parts(geometry, (2, 4))] == [2, 2, 2]
    assert [p.group for p in scheme("spatial").parts(geometry, (4,))] == [2, 2]


def test_grouped_layer_is_each_group_by_itself():
    weight = kernel(8, 3, 3, 3)
    for name in FITTED:
        ranks = [4] * len(scheme(name).rank_names)
        whole = scheme(name).decompose(weight, 2, ranks)
        halves = [
            scheme(name).decompose(half, 1, [r // 2 for r in ranks])
            for half in (weight[:4], weight[4:])
        ]
        geometry = Geometry.of(weight.shape, 2)
        composed = compose(whole.factors, scheme(name).parts(geometry, ranks), 2)
        for half, found in zip((composed[:4], composed[4:]), halves):
            parts = scheme(name).parts(Geometry.of((4, 3, 3, 3)), [r // 2 for r in ranks])
            assert np.allclose(half, compose(found.factors, parts), atol=1e-5), name


@pytest.mark.parametrize("name", ALL)
def test_dtype_layout_and_read_only_views_do_not_matter(name, tmp_path):
    weight = kernel(8, 4, 3, 3).astype(np.float16).astype(np.float32)
    ranks = [4] * len(scheme(name).rank_names)
    want = scheme(name).decompose(weight, 2, ranks)
    path = tmp_path / "weights"
    path.write_bytes(b"odd" + weight.tobytes())
    mapped = np.memmap(path, np.float32, "r", offset=3, shape=weight.shape)
    others = [
        weight.astype(np.float16),
        weight.astype(np.float64),
        weight.astype(">f4"),
        np.asfortranarray(weight),
        mapped,
    ]
    for other in others:
        kept = np.array(other)
        found = scheme(name).decompose(other, 2, ranks)
        assert all(np.array_equal(a, b) for a, b in zip(want.factors, found.factors))
        assert np.array_equal(kept, other), "the input must not be written to"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype, size", [("f4", 1e-30), ("f4", 1e30), ("f8", 1e-36), ("f2", 1e-5)])
def test_scale_of_the_weights_does_not_change_the_error(name, dtype, size):
    weight = kernel(8, 4, 3, 3).astype(dtype).astype(np.float64)
    ranks = [4] * len(scheme(name).rank_names)
    want = scheme(name).decompose(weight, 2, ranks)
    scaled = (weight * size).astype(dtype)
    found = scheme(name).decompose(scaled, 2, ranks)
    assert found.error == pytest.approx(want.error, rel=1e-2 if dtype == "f2" else 1e-4)
    parts = scheme(name).parts(Geometry.of(weight.shape, 2), ranks)
    factors = [factor.astype(np.float64) for factor in found.factors]
    composed = compose([factor / np.abs(factor).max() for factor in factors], parts, 2)
    composed = composed * np.prod([np.abs(factor).max() for factor in factors])
    assert relative(composed, scaled.astype(np.float64)) == pytest.approx(found.error, rel=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_zero_kernels_and_zero_groups_are_decomposed_without_error(name):
    zero = scheme(name).decompose(np.zeros((4, 2, 3, 3), np.float32), 2, [2] * _ranks(name))
    assert zero.error == 0 and not any(f.any() for f in zero.factors)
    weight = kernel(4, 2, 3, 3)
    weight[:2] = 0
    geometry = Geometry.of(weight.shape, 2)
    ranks = scheme(name).max_ranks(geometry)
    found = scheme(name).decompose(weight, 2, ranks)
    assert all(np.isfinite(f).all() for f in found.factors)
    composed = compose(found.factors, scheme(name).parts(geometry, ranks), 2)
    assert not composed[:2].any()
    assert name in RANDOM or max(found.error, relative(composed, weight)) < 1e-5


def _ranks(name):
    return len(scheme(name).rank_names)


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_gives_the_same_factors(name):
    weight = kernel(16, 8, 3, 3)
    a, b = (scheme(name).decompose(weight, 2, [4] * _ranks(name), seed=7) for _ in range(2))
    assert all(np.array_equal(x, y) for x, y in zip(a.factors, b.factors))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("rank", [4, 12])
def test_progress_never_goes_back_and_ends_at_the_total(name, rank):
    seen = []
    weight = kernel(12, 6, 3, 3)
    scheme(name).decompose(weight, 2, [rank] * _ranks(name), progress=lambda *a: seen.append(a))
    assert {total for _, total in seen} == {rank}
    done = [d for d, _ in seen]
    assert done == sorted(set(done)) and done[-1] == rank
    if name.startswith(("cp3", "cp4")) and name not in RANDOM:
        assert len(done) == rank
