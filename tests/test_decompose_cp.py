"""CP at bounded norms: against tensorly's fits, planted tensors, and numerical derivatives."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from tensors import trained_like

from caffesurgery.decompose import SCHEMES, Geometry, compose, scheme
from caffesurgery.errors import DecomposeError

CP = [("cp3", 3), ("cp4", 4)]


def planted(name, shape, rank, seed=0):
    rng = np.random.default_rng(seed)
    parts = scheme(name).parts(Geometry.of(shape), (rank,))
    return compose([rng.standard_normal(part.weight_shape) for part in parts], parts)


def norms_of(factors, rank):
    """The norms of the components, in float64, from the factors of a layer without groups."""
    *inner, last = (factor.astype(np.float64) for factor in factors)
    norms = np.linalg.norm(last.reshape(len(last), rank), axis=0)
    for factor in inner:
        norms = norms * np.linalg.norm(factor.reshape(rank, -1), axis=1)
    return norms


@pytest.mark.parametrize("name, ways", CP)
@pytest.mark.parametrize("T, S, D, rank", [(48, 32, 3, 24), (40, 64, 3, 30)])
def test_error_is_tensorlys_at_half_the_norms(name, ways, T, S, D, rank):
    tl = pytest.importorskip("tensorly")
    from tensorly.decomposition import parafac

    weight = trained_like(T, S, D)
    tensor = weight.reshape((T, S, D * D) if ways == 3 else weight.shape)
    theirs = []
    for init in ("svd", "random"):
        with warnings.catch_warnings():  # the SVD start is completed at random
            warnings.simplefilter("ignore")
            found = parafac(tensor, rank, n_iter_max=100, init=init, random_state=0, tol=0)
        error = np.linalg.norm(tensor - tl.cp_to_tensor(found)) / np.linalg.norm(tensor)
        norms = np.prod([np.linalg.norm(f, axis=0) for f in found.factors], axis=0)
        theirs.append((error, (found.weights * norms).sum() / np.linalg.norm(tensor)))
    error, norms = min(theirs)
    for effort, excess in (("normal", 1.01), ("high", 1.001)):
        ours = scheme(name).decompose(weight, 1, (rank,), effort=effort)
        assert ours.error <= error * excess
        assert ours.norm_ratio < norms * (0.5 if ways == 3 else 0.9)


@pytest.mark.parametrize("name, ways", CP)
def test_joint_fit_is_closer_than_the_power_method(name, ways):
    weight = trained_like(32, 24, 3)
    greedy = scheme(f"{name}-tpm").decompose(weight, 2, (40,))
    assert scheme(name).decompose(weight, 2, (40,)).error < 0.97 * greedy.error


@pytest.mark.parametrize("name, ways", CP)
def test_planted_components_are_recovered(name, ways):
    weight = planted(name, (20, 16, 3, 3), 6)
    found = scheme(name).decompose(weight, 1, (6,), effort="high")
    assert found.error < 1e-3
    parts = scheme(name).parts(Geometry.of(weight.shape), (6,))
    product = compose(found.factors, parts)
    assert np.linalg.norm(product - weight) < 1e-3 * np.linalg.norm(weight)
    # The components are unique, so their norms are those that were planted.
    rng = np.random.default_rng(0)
    true = norms_of([rng.standard_normal(part.weight_shape) for part in parts], 6)
    assert np.allclose(np.sort(norms_of(found.factors, 6)), np.sort(true), rtol=2e-2)


@pytest.mark.parametrize("name, ways", CP)
@pytest.mark.parametrize("bound", [2.0, 4.0])
def test_norms_stay_under_the_bound(name, ways, bound):
    weight = trained_like(24, 16, 3)
    free = scheme(name).decompose(weight, 1, (40,))
    assert free.norm_ratio > 4
    held = scheme(name).decompose(weight, 1, (40,), max_norm=bound)
    assert held.norm_ratio <= bound
    total = norms_of(held.factors, 40).sum() / np.linalg.norm(weight)
    assert held.norm_ratio == pytest.approx(total, rel=1e-4)
    assert free.error < held.error < 1
    assert held.warning is None
    grouped = scheme(name).decompose(weight, 2, (40,), max_norm=bound)
    assert grouped.norm_ratio <= bound


def test_an_exact_fit_above_the_bound_is_not_taken():
    weight = trained_like(6, 4, 3)
    (rank,) = scheme("cp3").max_ranks(Geometry.of(weight.shape))
    assert scheme("cp3").decompose(weight, 1, (rank,)).error < 1e-5
    assert scheme("cp3").decompose(weight, 1, (rank,), max_norm=1.5).norm_ratio <= 1.5


def test_plain_als_degenerates_and_says_so_where_the_default_does_not():
    weight = trained_like(128, 48, 5)
    plain = scheme("cp3-als").decompose(weight, 1, (77,))
    assert plain.norm_ratio > 5 * np.sqrt(77)
    assert "degenerate" in plain.warning and "cancel each other" in plain.warning
    held = scheme("cp3").decompose(weight, 1, (77,))
    assert held.warning is None and held.norm_ratio < plain.norm_ratio / 2
    assert held.error < 1.01 * plain.error and held.sensitivity < plain.sensitivity / 2
    missed = scheme("cp3-als").decompose(weight, 1, (77,), max_norm=20)
    assert "above the bound of 20" in missed.warning


@pytest.mark.parametrize("name", sorted(SCHEMES))
@pytest.mark.parametrize("group", [1, 2])
def test_sensitivity_is_the_sum_of_all_squared_derivatives(name, group):
    weight = trained_like(8, 4, 2)[:, : 4 // group]
    geometry = Geometry.of(weight.shape, group)
    ranks = [4] * len(scheme(name).rank_names)
    found, parts = scheme(name).decompose(weight, group, ranks), scheme(name).parts(geometry, ranks)
    before, total = compose(found.factors, parts, group).astype(np.float64), 0.0
    for at, factor in enumerate(found.factors):
        for index in np.ndindex(factor.shape):
            changed = list(found.factors)
            changed[at] = factor.copy()
            changed[at][index] += 1.0  # the product is linear in each weight
            total += np.sum((compose(changed, parts, group) - before) ** 2)
    assert found.sensitivity == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("name, ways", CP)
def test_order_of_channels_and_groups_does_not_matter(name, ways):
    weight, rng = trained_like(16, 12, 3), np.random.default_rng(5)
    error = scheme(name).decompose(weight, 2, (12,)).error
    swapped = np.concatenate([weight[8:], weight[:8]])
    assert scheme(name).decompose(swapped, 2, (12,)).error == pytest.approx(error, rel=1e-6)
    mixed = weight[:, rng.permutation(12)]
    mixed = np.concatenate([half[rng.permutation(8)] for half in (mixed[:8], mixed[8:])])
    assert scheme(name).decompose(mixed, 2, (12,)).error == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("name", ["cp2-random", "cp3-random", "cp4-random"])
def test_random_factors_have_the_size_of_the_kernel(name):
    weight = trained_like(32, 24, 3)
    parts = scheme(name).parts(Geometry.of(weight.shape), (30,))
    first, other = (scheme(name).decompose(weight, 1, (30,), seed=seed) for seed in (1, 2))
    ratio = np.linalg.norm(compose(first.factors, parts)) / np.linalg.norm(weight)
    assert 0.5 < ratio < 2
    assert not np.allclose(first.factors[0], other.factors[0])
    assert first.error > 1


def test_efforts_and_bounds_that_do_not_exist_are_refused():
    weight = trained_like(4, 4, 2)
    with pytest.raises(DecomposeError, match="effort 'most': expected normal or high"):
        scheme("cp3").decompose(weight, 1, (2,), effort="most")
    for bound in (0, -1.0, float("nan")):
        with pytest.raises(DecomposeError, match="expected a number above 0"):
            scheme("cp3").decompose(weight, 1, (2,), max_norm=bound)
