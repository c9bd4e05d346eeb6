"""The decompositions against oracles that are not ours: LAPACK, tensorly, planted tensors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.fft import dct
from tensors import trained_like

from caffesurgery.decompose import SCHEMES, Geometry, compose, scheme, truncated
from caffesurgery.decompose.tucker import hooi
from caffesurgery.errors import DecomposeError

CP = [("cp3", 3), ("cp4", 4)]
POWER = [("cp3-tpm", 3), ("cp4-tpm", 4)]

SEARCHED = ("cp3", "cp4", "cp2-", "tucker2-cp")
EXACT = sorted(name for name in SCHEMES if not name.startswith(SEARCHED))
"""Schemes that find the optimum whatever the kernel."""


def with_spectrum(m, n, values, seed=0):
    """An m x n matrix with exactly these singular values, between mixed cosine bases."""
    rng = np.random.default_rng(seed)
    size = len(values)
    left = rng.permutation(dct(np.eye(m)[:, :size], axis=0, norm="ortho"))
    right = rng.permutation(dct(np.eye(n)[:, :size], axis=0, norm="ortho"))
    return ((left * values) @ right.T).astype(np.float32)


def unfoldings(weight):
    """The matrix whose truncated SVD each matrix scheme is, by the definitions of the papers."""
    T, S, D, E = weight.shape
    outputs = weight.reshape(T, -1)
    rows = [[weight[:, s, y, x] for x in range(E)] for s in range(S) for y in range(D)]
    return {
        "svd": outputs,
        "cp2": outputs,
        "channel": outputs,
        "tucker1-out": outputs,
        "tucker1-in": np.moveaxis(weight, 1, 0).reshape(S, -1),
        "spatial": np.array(rows).reshape(S * D, E * T),
    }


def optimum(matrix, rank):
    """Relative error of the best rank-R approximation, by LAPACK in float64."""
    squares = np.linalg.svd(matrix.astype(np.float64), compute_uv=False) ** 2
    return np.sqrt(squares[rank:].sum() / squares.sum())


@pytest.mark.parametrize("name", unfoldings(np.zeros((1, 1, 1, 1))))
@pytest.mark.parametrize("shape", [(24, 10, 3, 5), (60, 3, 3, 3), (4, 30, 1, 1)])
def test_matrix_schemes_reach_the_optimum_of_eckart_and_young(name, shape):
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    matrix = unfoldings(weight)[name]
    for rank in {1, 3, max(1, min(matrix.shape) - 1)}:
        found = scheme(name).decompose(weight, 1, (rank,))
        assert found.error == pytest.approx(optimum(matrix, rank), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("shape", [(120, 400), (400, 120)])
@pytest.mark.parametrize("rank", [1, 3, 10, 25])
def test_krylov_svd_is_within_1e_4_of_lapack(monkeypatch, shape, rank):
    monkeypatch.setattr(truncated, "DIRECT", 20)
    matrix = with_spectrum(*shape, (1 + np.arange(120)) ** -0.7)
    found = truncated.truncated_svd(matrix, rank)
    product = found.left.astype(np.float64) @ found.projected
    error = np.linalg.norm(matrix - product) / np.linalg.norm(matrix)
    assert error == pytest.approx(optimum(matrix, rank), rel=1e-4)
    assert np.sqrt(found.lost) == pytest.approx(np.linalg.norm(matrix - product), rel=1e-4)
    assert np.allclose(found.left.T @ found.left, np.eye(rank), atol=1e-4)


def test_large_matrix_is_within_1e_4_of_its_known_optimum():
    values = (1 + np.arange(1600) / 5) ** -0.7
    found = scheme("svd").decompose(with_spectrum(1600, 2500, values), 1, (60,))
    best = np.sqrt(np.sum(values[60:] ** 2) / np.sum(values**2))
    assert found.error == pytest.approx(best, rel=1e-4)


def test_krylov_svd_finds_fewer_directions_than_asked_for(monkeypatch):
    monkeypatch.setattr(truncated, "DIRECT", 20)
    matrix = with_spectrum(150, 200, np.array([3.0, 2.0, 1.0, 1e-2]))
    found = truncated.truncated_svd(matrix, 12)
    assert np.allclose(found.values[:4], [3, 2, 1, 1e-2], rtol=1e-3)
    assert np.sqrt(found.lost) < 1e-5 * np.linalg.norm(matrix)


def test_singular_values_resolve_eight_digits():
    values = 10.0 ** -np.arange(8)
    found = truncated.singular_values(with_spectrum(30, 50, values))
    assert np.allclose(found[:7], values[:7], rtol=2e-2)


def test_tucker2_is_no_worse_than_hosvd_and_its_factors_are_orthonormal():
    weight = trained_like(40, 30, 3)
    found = scheme("tucker2").decompose(weight, 1, (9, 12))
    inputs, core, outputs = (f.squeeze() for f in found.factors)
    assert np.allclose(inputs @ inputs.T, np.eye(9), atol=1e-5)
    assert np.allclose(outputs.T @ outputs, np.eye(12), atol=1e-5)
    # The core is the projection of the kernel: optimal for these factors.
    assert np.allclose(np.einsum("tq,tsyx,ps->qpyx", outputs, weight, inputs), core, atol=1e-4)
    matrices = unfoldings(weight)
    left = np.linalg.svd(matrices["tucker1-out"])[0][:, :12]
    right = np.linalg.svd(matrices["tucker1-in"])[0][:, :9]
    hosvd = np.einsum("tq,qsyx->tsyx", left @ left.T, weight)
    hosvd = np.einsum("ps,tsyx->tpyx", right @ right.T, hosvd)
    assert found.error <= np.linalg.norm(weight - hosvd) / np.linalg.norm(weight)
    # No Tucker-2 is better than the truncated SVD of either unfolding.
    assert found.error >= optimum(matrices["tucker1-out"], 12)
    assert found.error >= optimum(matrices["tucker1-in"], 9)


def test_tucker2_of_many_outputs_ends_where_the_exact_sweeps_do(monkeypatch):
    weight = trained_like(60, 20, 3).transpose(0, 2, 3, 1).reshape(60, 9, 20)
    exact = hooi(weight, 6, 10)[3]
    monkeypatch.setattr(truncated, "DIRECT", 30)
    assert np.sqrt(hooi(weight, 6, 10)[3]) == pytest.approx(np.sqrt(exact), rel=1e-3)


def test_tucker2_ranks_beyond_each_others_span_are_exact():
    # R3 = 8 is more than the R4 D E = 3 directions that the core can tell apart.
    weight = np.random.default_rng(0).standard_normal((3, 8, 1, 1)).astype(np.float32)
    assert scheme("tucker2").max_ranks(Geometry.of(weight.shape)) == (3, 3)
    tensor = weight.transpose(0, 2, 3, 1).reshape(3, 1, 8)
    inputs, outputs, core, lost = hooi(tensor, 8, 3)
    assert np.allclose(inputs.T @ inputs, np.eye(8), atol=1e-5)
    assert lost < 1e-10


@pytest.mark.parametrize("shape, ranks", [((40, 24, 3, 3), (8, 13)), ((24, 40, 5, 5), (10, 6))])
def test_tucker2_is_not_worse_than_tensorly(shape, ranks):
    tl = pytest.importorskip("tensorly")
    from tensorly.decomposition import partial_tucker

    weight = trained_like(shape[0], shape[1], shape[2])
    (core, factors), _ = partial_tucker(weight, rank=ranks[::-1], modes=[0, 1])
    theirs = tl.tenalg.multi_mode_dot(core, factors, modes=[0, 1])
    theirs = np.linalg.norm(weight - theirs) / np.linalg.norm(weight)
    assert scheme("tucker2").decompose(weight, 1, ranks).error <= theirs * (1 + 2e-5)


@pytest.mark.parametrize("name, ways", POWER)
@pytest.mark.parametrize("shape, rank", [((32, 24, 3, 3), 16), ((48, 16, 5, 5), 24)])
def test_cp_is_not_worse_than_tensorlys_power_iteration(name, ways, shape, rank):
    tl = pytest.importorskip("tensorly")
    from tensorly.decomposition import parafac_power_iteration

    weight = trained_like(*shape[:3])
    T, S, D, E = shape
    modes = (T, S, D * E) if ways == 3 else shape
    tensor = weight.reshape(modes)
    np.random.seed(0)
    found = parafac_power_iteration(tensor, rank, n_repeat=1, n_iteration=10)
    theirs = np.linalg.norm(tensor - tl.cp_to_tensor(tuple(found))) / np.linalg.norm(tensor)
    assert scheme(name).decompose(weight, 1, (rank,)).error <= theirs * 1.003


@pytest.mark.parametrize("name, ways", POWER)
def test_cp_error_curve_is_that_of_every_smaller_rank(name, ways):
    weight = trained_like(20, 12, 3)
    found = scheme(name).decompose(weight, 2, (24,))
    assert len(found.curve) == 12 and found.curve[-1] == found.error
    assert np.all(np.diff(found.curve) < 0)
    geometry = Geometry.of(weight.shape, 2)
    for rank in (2, 10, 20):
        smaller = scheme(name).decompose(weight, 2, (rank,))
        composed = compose(smaller.factors, scheme(name).parts(geometry, (rank,)), 2)
        direct = np.linalg.norm(weight - composed) / np.linalg.norm(weight)
        # Exact identities: error(k)^2 = 1 - sum d^2 / ||W||^2, and components never change.
        assert found.curve[rank // 2 - 1] == pytest.approx(direct, rel=1e-5)
        assert smaller.error == pytest.approx(direct, rel=1e-5)


@pytest.mark.parametrize("name, ways", POWER)
def test_cp_norms_never_exceed_the_kernels(name, ways):
    weight = trained_like(16, 12, 3)
    factors = scheme(name).decompose(weight, 1, (30,)).factors
    *inner, last = (f.squeeze() for f in factors)
    squares = np.sum(last.astype(float) ** 2, axis=0)
    for factor in inner:
        squares = squares * np.sum(factor.reshape(30, -1).astype(float) ** 2, axis=1)
    assert squares.sum() <= np.sum(weight.astype(float) ** 2)
    assert squares.sum() == pytest.approx(
        np.sum(weight.astype(float) ** 2)
        * (1 - scheme(name).decompose(weight, 1, (30,)).error ** 2),
        rel=1e-4,
    )


@pytest.mark.parametrize("name, ways", POWER)
def test_cp_keeps_improving_up_to_full_rank(name, ways):
    weight = np.random.default_rng(1).standard_normal((8, 6, 3, 3)).astype(np.float32)
    most = scheme(name).max_ranks(Geometry.of(weight.shape))[0]
    errors = [scheme(name).decompose(weight, 1, (rank,)).error for rank in range(1, most + 1)]
    # Where the method changes to fixed modes the error may only drop.
    assert np.all(np.diff(errors) < 1e-6)
    assert errors[-1] < 1e-5


def planted(name, geometry, ranks, seed=0):
    """A kernel that is exactly of these ranks: a chain with random orthonormal-like factors."""
    rng = np.random.default_rng(seed)
    parts = scheme(name).parts(geometry, ranks)
    return compose([rng.standard_normal(p.weight_shape) for p in parts], parts, geometry.group)


@pytest.mark.parametrize("name", EXACT)
def test_planted_ranks_are_recovered_exactly(name):
    geometry = Geometry(24, 20, 3, 3, group=2)
    ranks = (6, 8)[: len(scheme(name).rank_names)]
    weight = planted(name, geometry, ranks)
    assert scheme(name).decompose(weight, 2, ranks).error < 1e-5
    assert scheme(name).ranks_for_energy(weight, 2, 1.0) == ranks


@pytest.mark.parametrize("name, ways", POWER)
def test_planted_orthogonal_components_are_recovered_exactly(name, ways):
    rng = np.random.default_rng(0)
    T, S, D, E = 16, 12, 3, 3
    spatial = [np.eye(9)[:4]] if ways == 3 else [np.eye(3)[[0, 1, 2, 0]], np.eye(3)[[0, 1, 2, 1]]]
    others = [np.linalg.qr(rng.standard_normal((n, 4)))[0].T for n in (T, S)]
    parts = [*others, *spatial]
    spec = {3: "r,rt,rs,rk->tsk", 4: "r,rt,rs,rd,re->tsde"}[ways]
    weight = np.einsum(spec, [4.0, 3, 2, 1], *parts).reshape(T, S, D, E)
    found = scheme(name).decompose(weight, 1, (4,))
    assert found.error < 1e-5
    assert np.allclose(found.curve[:3] ** 2, [14 / 30, 5 / 30, 1 / 30], rtol=1e-3)
    # Asked for more than there is, it adds nothing, and says so.
    more = scheme(name).decompose(weight, 1, (9,))
    assert more.error < 1e-5 and not more.factors[0][5:].any()
    assert scheme(name).ranks_for_energy(weight, 1, 0.8) == (2,)


@pytest.mark.parametrize("name", [*sorted(set(EXACT) - {"tucker2"}), "cp3-tpm", "cp4-tpm"])
def test_ranks_for_energy_are_the_smallest_that_keep_it(name):
    weight = trained_like(16, 12, 3)[:, :8]
    (rank,) = scheme(name).ranks_for_energy(weight, 2, 0.7)
    assert rank % 2 == 0
    assert 1 - scheme(name).decompose(weight, 2, (rank,)).error ** 2 >= 0.7 - 1e-6
    assert 1 - scheme(name).decompose(weight, 2, (rank - 2,)).error ** 2 < 0.7


def test_tucker2_ranks_keep_the_energy_of_each_unfolding():
    weight = trained_like(16, 12, 3)
    found = scheme("tucker2").ranks_for_energy(weight, 2, 0.6)
    for name, rank in zip(("tucker1-in", "tucker1-out"), found):
        squares = sum(
            np.linalg.svd(unfoldings(half)[name], compute_uv=False)[:8] ** 2
            for half in (weight[:8], weight[8:])
        )
        kept = np.cumsum(squares) / np.sum(weight**2)
        assert rank == 2 * (int(np.argmax(kept >= 0.6)) + 1)


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_ranks_for_energy_stop_at_the_limit(name):
    weight = np.random.default_rng(0).standard_normal((12, 6, 3, 3)).astype(np.float32)
    count = len(scheme(name).rank_names)
    assert scheme(name).ranks_for_energy(weight, 2, 0.999, limit=5) == (4,) * count
    most = scheme(name).max_ranks(Geometry.of(weight.shape, 2))
    whole = scheme(name).ranks_for_energy(weight, 2, 1.0)
    if scheme(name).energy_is_searched:  # fewer components than always suffice may do here
        assert scheme(name).error_for_rank(weight, 2, whole) < 2e-5
    else:
        assert whole == most
    assert scheme(name).ranks_for_energy(np.zeros_like(weight), 2, 0.9) == (2,) * count


def test_spatial_factors_are_those_of_the_papers_authors(shared):
    """Paper 004's own decomposed ResNet-56: equal products, equally shared singular values."""
    from caffesurgery.files import caffemodel

    dense = caffemodel.read(shared("data", "res56", "res56.caffemodel"))
    folder = "Hyeji-Kim+ENC/init/decomp_init/res56/comp_res56/model"
    theirs = caffemodel.read(shared("corpus", "caffemodel", folder, "res56_svd_1.caffemodel"))
    checked = 0
    for name in (n for n in dense.names() if n + "_v" in theirs):
        weight = dense.blobs(name)[0].array().reshape(dense.blobs(name)[0].shape)
        factors = [theirs.blobs(name + s)[0] for s in ("_v", "_h")]
        factors = [blob.array().reshape(blob.shape) for blob in factors]
        which = scheme("channel" if factors[0].shape[3] > 1 else "spatial")
        rank = (len(factors[0]),)
        parts = which.parts(Geometry.of(weight.shape), rank)
        found = which.decompose(weight, 1, rank)
        ours, authors = compose(found.factors, parts), compose(factors, parts)
        assert np.linalg.norm(ours - authors) < 1e-5 * np.linalg.norm(weight), name
        for a, b in zip(found.factors, factors):
            assert np.linalg.norm(a) == pytest.approx(np.linalg.norm(b), rel=1e-4), name
        checked += 1
    assert checked == 55


@pytest.mark.parametrize("name", [*EXACT, "cp3", "cp4", "cp3-tpm", "cp4-tpm", "tucker2-cp"])
@pytest.mark.parametrize("group", [1, 2])
def test_ranks_for_error_are_the_smallest_that_reach_it(name, group):
    weight = trained_like(16, 12, 3)[:, : 12 // group]
    ranks = scheme(name).ranks_for_error(weight, group, 0.6)
    assert all(rank % group == 0 for rank in ranks)
    assert scheme(name).error_for_rank(weight, group, ranks) <= 0.6 + 2e-5
    if len(ranks) == 1:
        assert scheme(name).error_for_rank(weight, group, (ranks[0] - group,)) > 0.6
    most = scheme(name).max_ranks(Geometry.of(weight.shape, group))
    exact = scheme(name).ranks_for_error(weight, group, 0.0)
    if name in EXACT:
        assert exact == most
    assert scheme(name).error_for_rank(weight, group, exact) < 2e-5
    few = (5 // group * group,) * len(most)
    assert scheme(name).ranks_for_error(weight, group, 0.0, limit=5) == few
    assert scheme(name).ranks_for_error(np.zeros_like(weight), group, 0.1) == (group,) * len(most)


@pytest.mark.parametrize("error", [0.2, 0.5, 0.7])
def test_tucker2_ranks_for_error_beat_equal_shares_of_both_unfoldings(error):
    weight = trained_like(32, 16, 3)
    ranks = scheme("tucker2").ranks_for_error(weight, 1, error)
    # Keeping 1 - error^2 / 2 in each unfolding is enough for the HOSVD, so it is an upper bound.
    enough = scheme("tucker2").ranks_for_energy(weight, 1, 1 - error**2 / 2)
    geometry = Geometry.of(weight.shape)
    weights = [
        sum(np.prod(part.weight_shape) for part in scheme("tucker2").parts(geometry, pair))
        for pair in (ranks, enough)
    ]
    assert weights[0] <= weights[1]


def test_errors_that_cannot_be_asked_for_are_refused():
    weight = trained_like(4, 4, 3)
    for error in (-0.1, 1.0, float("nan")):
        with pytest.raises(DecomposeError, match="from 0 to below 1"):
            scheme("cp3").ranks_for_error(weight, 1, error)
    with pytest.raises(DecomposeError, match="cp4-random fits nothing"):
        scheme("cp4-random").ranks_for_error(weight, 1, 0.5)
    with pytest.raises(DecomposeError, match="the largest possible is 16"):
        scheme("cp3").error_for_rank(weight[:, :, :2, :2], 1, (17,))
