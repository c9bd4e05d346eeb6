"""Decompositions under a metric: what they lose of the outputs, against independent solutions."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import eigh, sqrtm

from caffesurgery.cost import Sizes
from caffesurgery.decompose import SCHEMES, Aim, Geometry, compose, polish
from caffesurgery.decompose.evened import evened
from caffesurgery.decompose.metric import Metric, Moments, marginal, seen_axes, shrunk
from caffesurgery.decompose.polish import polished
from caffesurgery.decompose.task import Task
from caffesurgery.errors import DecomposeError
from caffesurgery.ranks import Candidate, parse_rule

RANDOM = [name for name in SCHEMES if name.endswith("-random")]
GEOMETRIES = {
    "plain": Geometry(12, 8, 3, 3),
    "grouped": Geometry(12, 8, 3, 3, 2),
    "row": Geometry(10, 6, 1, 5),
    "matrix": Geometry(9, 14, 1, 1, 1, "fc"),
    "fc over a map": Geometry(7, 6, 2, 2, 1, "fc"),
}
CASES = [
    (name, of)
    for name in SCHEMES
    for of, geometry in GEOMETRIES.items()
    if SCHEMES[name].applies(geometry) is None
]


def patches(n: int, count: int = 600, seed: int = 0) -> np.ndarray:
    """Inputs as after a ReLU, correlated, with a falling spectrum."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((n, n)) * np.exp(-np.arange(n) / n * 4)
    return np.maximum(rng.standard_normal((count, n)) @ mixed.T, 0)


def seen(geometry: Geometry, images: int = 10**12) -> tuple[list[np.ndarray], Moments]:
    n = int(np.prod(geometry.weight_shape[1:]))
    inputs = [patches(n, seed=g) for g in range(geometry.group)]
    mean = np.stack([x.mean(axis=0) for x in inputs])
    gram = np.stack([x.T @ x / len(x) for x in inputs])
    return inputs, Moments(mean, gram, 600, images)


def kernel_of(geometry: Geometry) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(geometry.weight_shape).astype(np.float32)


def outputs(kernel: np.ndarray, inputs) -> np.ndarray:
    blocks = np.split(kernel.reshape(len(kernel), -1).astype(np.float64), len(inputs))
    return np.concatenate([x @ block.T for x, block in zip(inputs, blocks)], axis=1)


def run(name, geometry, kernel, ranks, metric=None):
    return Task("a layer", name, kernel, geometry.group, ranks, metric=metric).run()


def half(name, geometry):
    """Ranks at a third of the way."""
    return SCHEMES[name].growing(geometry, 1, 3)


@pytest.mark.parametrize("name", ["cp3", "cp4", "tucker2", "spatial", "tucker2-cp"])
@pytest.mark.parametrize("of", ["plain", "grouped"])
def test_neighbours_in_a_chain_are_alike_in_size(name, of):
    geometry = GEOMETRIES[of]
    kernel, (_, moments) = kernel_of(geometry), seen(geometry)
    ranks = half(name, geometry)
    factors = run(name, geometry, kernel, ranks, Metric(moments)).factors
    parts = SCHEMES[name].parts(geometry, ranks)
    for first, second, reader in zip(factors, factors[1:], parts[1:]):
        makes = np.sqrt(np.square(first).sum((1, 2, 3)))
        rows = second.reshape(reader.group, -1, reader.inp // reader.group, reader.kh * reader.kw)
        assert makes == pytest.approx(np.sqrt(np.square(rows).sum((1, 3))).reshape(-1), rel=1e-3)
    skewed = [factors[0] * 100, *factors[1:-1], factors[-1] / 100]
    for each, other in zip(evened(skewed, parts), factors):
        assert each == pytest.approx(other, rel=1e-2, abs=1e-6)
    whole = compose(factors, parts, geometry.group)
    again = compose(evened(skewed, parts), parts, geometry.group)
    assert again == pytest.approx(whole, abs=1e-5 * float(np.abs(whole).max()))


@pytest.mark.parametrize(("name", "of"), CASES)
def test_fewer_ranks_never_lose_more_of_the_outputs_than_without_the_metric(name, of):
    geometry = GEOMETRIES[of]
    kernel, (inputs, moments) = kernel_of(geometry), seen(geometry)
    ranks = half(name, geometry)
    parts = SCHEMES[name].parts(geometry, ranks)
    plain = run(name, geometry, kernel, ranks)
    found = run(name, geometry, kernel, ranks, Metric(moments))
    wanted = outputs(kernel, inputs)
    errors = []
    for factors, shift in ((plain.factors, 0), (found.factors, found.shift)):
        change = outputs(compose(factors, parts, geometry.group), inputs) + shift - wanted
        errors.append(np.linalg.norm(change) / np.linalg.norm(wanted - wanted.mean(axis=0)))
    assert errors[1] == pytest.approx(found.output_error, rel=1e-4)
    assert found.output_error <= Metric(moments).distance(
        kernel, compose(plain.factors, parts, geometry.group)
    )
    assert errors[1] <= errors[0]
    error = np.linalg.norm(kernel - compose(found.factors, parts, geometry.group))
    assert found.error == pytest.approx(error / np.linalg.norm(kernel), rel=1e-4)


@pytest.mark.parametrize(("name", "of"), [case for case in CASES if case[0] not in RANDOM])
def test_all_ranks_give_the_outputs_of_the_original(name, of):
    geometry = GEOMETRIES[of]
    kernel, (inputs, moments) = kernel_of(geometry), seen(geometry)
    ranks = SCHEMES[name].max_ranks(geometry)
    found = run(name, geometry, kernel, ranks, Metric(moments))
    limit = 0.2 if name.endswith(("-tpm", "-als")) else 1e-5
    parts = SCHEMES[name].parts(geometry, ranks)
    wanted = outputs(kernel, inputs)
    change = outputs(compose(found.factors, parts, geometry.group), inputs) + found.shift - wanted
    assert np.linalg.norm(change) <= limit * np.linalg.norm(wanted)


@pytest.mark.parametrize("name", ["channel", "tucker1-out", "cp2"])
def test_channel_schemes_reach_the_closed_form_optimum(name):
    """The data-aware SVD: that of W C^(1/2), its root and its values by LAPACK."""
    geometry = GEOMETRIES["plain"]
    kernel, (inputs, moments) = kernel_of(geometry), seen(geometry)
    covariance = np.cov(inputs[0].T, bias=True)
    seen_by = kernel.reshape(len(kernel), -1) @ sqrtm(covariance).real
    values = np.linalg.svd(seen_by, compute_uv=False)
    found = run(name, geometry, kernel, (4,), Metric(moments))
    assert found.output_error == pytest.approx(
        np.linalg.norm(values[4:]) / np.linalg.norm(values), rel=1e-4
    )


def test_the_channel_decomposition_is_that_of_zhang_et_al():
    """Zhang et al. 2016, section 3.1: principal components of the responses, and their mean."""
    geometry = GEOMETRIES["plain"]
    kernel, (inputs, moments) = kernel_of(geometry), seen(geometry)
    responses = outputs(kernel, inputs)
    mean = responses.mean(axis=0)
    vectors = eigh(np.cov(responses.T, bias=True))[1][:, ::-1][:, :4]
    wanted = (responses - mean) @ vectors @ vectors.T + mean
    found = run("channel", geometry, kernel, (4,), Metric(moments))
    parts = SCHEMES["channel"].parts(geometry, (4,))
    mine = outputs(compose(found.factors, parts), inputs) + found.shift
    assert np.abs(mine - wanted).max() < 1e-3 * np.abs(wanted).max()


def test_the_weights_error_of_the_whitened_kernel_is_the_output_error():
    for of in ("plain", "grouped"):
        geometry = GEOMETRIES[of]
        kernel, (inputs, moments) = kernel_of(geometry), seen(geometry)
        parts = SCHEMES["channel"].parts(geometry, (4,))
        for weights in (None, np.arange(1.0, geometry.T + 1)):
            metric = Metric(moments, weights=weights)
            white = metric.whiten(kernel, parts)
            centred = outputs(kernel, [x - x.mean(axis=0) for x in inputs])
            scaled = centred if weights is None else centred * np.sqrt(weights)
            wanted = np.mean(np.sum(scaled**2, axis=1))
            assert np.sum(white.astype(np.float64) ** 2) == pytest.approx(wanted, rel=1e-4)
            assert metric.lost(kernel) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("name", "of"), [case for case in CASES if case[0] not in RANDOM])
def test_whitening_is_undone_by_unwhitening(name, of):
    geometry, scheme = GEOMETRIES[of], SCHEMES[name]
    kernel, (_, moments) = kernel_of(geometry), seen(geometry, images=40)
    metric = Metric(moments, weights=np.linspace(0, 3, geometry.T))
    ranks = half(name, geometry)
    parts, group = scheme.parts(geometry, ranks), geometry.group
    white = scheme.decompose(metric.whiten(kernel, parts), group, ranks).factors
    back = compose(metric.unwhiten(white, kernel.shape, parts), parts, group)
    again = metric.whiten(back, parts)
    assert np.abs(again - compose(white, parts, group)).max() < 1e-3 * np.abs(again).max()


def test_what_parts_see():
    geometry = GEOMETRIES["plain"]
    ranks = {"spatial": (4,), "cp3": (4,), "cp4": (4,), "tucker2": (4, 4), "channel": (4,)}
    found = {name: seen_axes(SCHEMES[name].parts(geometry, rank)) for name, rank in ranks.items()}
    assert found == {
        "spatial": [(0, 1), (2,)],
        "cp3": [(0,), (1, 2)],
        "cp4": [(0,), (1,), (2,)],
        "tucker2": [(0,), (1, 2)],
        "channel": [(0, 1, 2)],
    }


def test_marginals_are_means_over_the_other_axes():
    x = patches(2 * 3 * 4).reshape(-1, 2, 3, 4)
    flat = x.reshape(len(x), -1)
    gram = flat.T @ flat / len(x)
    for axes, letters in (((0,), "s"), ((0, 1), "sd"), ((1, 2), "de"), ((2,), "e")):
        rest = [letter for letter in "sde" if letter not in letters]
        order = [0, *(1 + "sde".index(each) for each in (*rest, *letters))]
        rows = x.transpose(order).reshape(len(x), -1, np.prod([x.shape[1 + a] for a in axes]))
        wanted = np.einsum("nri,nrj->ij", rows, rows) / rows.shape[0] / rows.shape[1]
        assert np.allclose(marginal(gram, (2, 3, 4), axes), wanted)


def test_dead_inputs_and_few_images_keep_factors_small():
    geometry = GEOMETRIES["plain"]
    kernel, (inputs, _) = kernel_of(geometry), seen(geometry)
    x = inputs[0][:20].copy()
    x.reshape(20, 8, 3, 3)[:, 2] = 0
    moments = Moments(x.mean(axis=0)[None], (x.T @ x / 20)[None], 20, 20)
    for name in ("channel", "spatial", "tucker2", "cp3"):
        found = run(name, geometry, kernel, half(name, geometry), Metric(moments))
        plain = run(name, geometry, kernel, half(name, geometry))
        largest = max(np.abs(factor).max() for factor in found.factors)
        assert largest < 30 * max(np.abs(factor).max() for factor in plain.factors)
    dead = Moments(np.zeros((1, 72)), np.zeros((1, 72, 72)), 20, 20)
    found = run("spatial", geometry, kernel, (3,), Metric(dead))
    assert found.output_error == 0
    assert np.array_equal(found.factors[0], run("spatial", geometry, kernel, (3,)).factors[0])


def test_shrinkage_falls_with_the_samples_and_keeps_the_trace():
    covariance = np.diag(np.geomspace(1, 1e-12, 30))
    least = [np.linalg.eigvalsh(shrunk(covariance, n))[0] for n in (10, 100, 10**9)]
    assert least == sorted(least, reverse=True)
    assert least[-1] == pytest.approx(1e-6 * np.linalg.norm(covariance), rel=0.01)
    assert shrunk(covariance, 10).trace() == pytest.approx(covariance.trace())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: Moments(m.mean, m.gram[:, 1:], 5, 5), "Gram matrix of shape"),
        (lambda m: Moments(m.mean * np.nan, m.gram, 5, 5), "NaN"),
        (lambda m: Moments(m.mean, m.gram, 0, 0), "none"),
    ],
)
def test_moments_that_are_none_are_refused(change, told):
    with pytest.raises(DecomposeError, match=told):
        change(seen(GEOMETRIES["plain"])[1])


def test_a_metric_of_another_layer_is_refused():
    geometry = GEOMETRIES["plain"]
    _, moments = seen(GEOMETRIES["row"])
    with pytest.raises(DecomposeError, match="a layer: moments of 1 groups of 30 numbers"):
        run("channel", geometry, kernel_of(geometry), (4,), Metric(moments))
    _, moments = seen(geometry)
    with pytest.raises(DecomposeError, match="3 weights for 12 outputs"):
        metric = Metric(moments, weights=np.ones(3))
        run("channel", geometry, kernel_of(geometry), (4,), metric)


@pytest.mark.parametrize("name", ["spatial", "tucker2", "channel", "cp3"])
def test_another_kernel_is_wanted_where_the_inputs_are_no_longer_the_original_ones(name):
    geometry = GEOMETRIES["grouped"]
    kernel, (inputs, _) = kernel_of(geometry), seen(geometry)
    rng = np.random.default_rng(4)
    changed = [x @ (np.eye(36) + 0.2 * rng.standard_normal((36, 36))) for x in inputs]
    mean = np.stack([x.mean(axis=0) for x in changed])
    moments = Moments(mean, np.stack([x.T @ x / len(x) for x in changed]), 600, 10**12)
    wanted = []
    for x, z, block in zip(inputs, changed, np.split(kernel.reshape(12, -1), 2)):
        x, z = x - x.mean(axis=0), z - z.mean(axis=0)
        wanted.append(np.linalg.lstsq(z, x @ block.T, rcond=None)[0].T)
    wanted = np.concatenate(wanted).reshape(kernel.shape)
    ranks, scheme = half(name, geometry), SCHEMES[name]
    parts = scheme.parts(geometry, ranks)
    task = Task("a layer", name, kernel, 2, ranks, metric=Metric(moments), wanted=wanted)
    found, own = task.run(), run(name, geometry, kernel, ranks, Metric(moments))

    def lost(factors, shift):
        made = outputs(compose(factors, parts, 2), changed) + shift
        target = outputs(kernel, inputs)
        return np.linalg.norm(made - made.mean(axis=0) - target + target.mean(axis=0))

    assert lost(found.factors, found.shift) < lost(own.factors, own.shift)
    error = np.linalg.norm(kernel - compose(found.factors, parts, 2)) / np.linalg.norm(kernel)
    assert found.error == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize("name", ["spatial", "cp3", "cp4", "tucker2", "tucker2-cp", "channel"])
def test_polishing_goes_downhill(name):
    geometry, scheme = GEOMETRIES["grouped"], SCHEMES[name]
    kernel, (_, moments) = kernel_of(geometry), seen(geometry)
    ranks = half(name, geometry)
    parts = scheme.parts(geometry, ranks)
    metric = Metric(moments, weights=np.linspace(1, 3, geometry.T))
    start = scheme.decompose(kernel, 2, ranks).factors
    lost = [metric.distance(kernel, compose(start, parts, 2))]
    for steps in (1, 5, 40):
        found = polished(kernel, start, parts, metric, steps)
        lost.append(metric.distance(kernel, compose(found, parts, 2)))
    assert lost == sorted(lost, reverse=True)
    assert lost[-1] < 0.9 * lost[0]


def test_large_patches_are_polished_in_float32_and_alike_by_any_number_of_threads(monkeypatch):
    geometry, scheme = GEOMETRIES["grouped"], SCHEMES["spatial"]
    kernel, (_, moments) = kernel_of(geometry), seen(geometry)
    parts = scheme.parts(geometry, half("spatial", geometry))
    start = scheme.decompose(kernel, 2, half("spatial", geometry)).factors
    exact = polished(kernel, start, parts, Metric(moments))
    monkeypatch.setattr("caffesurgery.decompose.polish.LARGE", 4)
    monkeypatch.setattr("caffesurgery.decompose.polish._ROWS", 3)
    one, many = (polished(kernel, start, parts, Metric(moments), threads=t) for t in (1, 3))
    assert all(np.array_equal(a, b) for a, b in zip(one, many))
    lost = [Metric(moments).distance(kernel, compose(each, parts, 2)) for each in (exact, one)]
    assert lost[1] == pytest.approx(lost[0], rel=1e-3)


def test_the_slope_that_polishing_goes_down_is_that_of_differences():
    geometry, scheme = GEOMETRIES["plain"], SCHEMES["tucker2-cp"]
    ranks = half("tucker2-cp", geometry)
    factors = [
        np.random.default_rng(k).standard_normal(part.weight_shape)
        for k, part in enumerate(scheme.parts(geometry, ranks))
    ]
    groups = [part.group for part in scheme.parts(geometry, ranks)]
    slope = np.random.default_rng(9).standard_normal(geometry.weight_shape)
    found = polish._gradients(factors, polish._composed(factors, groups), groups, slope)
    for place, gradient in enumerate(found):
        step = np.random.default_rng(place).standard_normal(gradient.shape)
        values = []
        for by in (-1e-4, 1e-4):
            moved = [f + by * step if k == place else f for k, f in enumerate(factors)]
            values.append(np.sum(polish._composed(moved, groups)[-1] * slope))
        assert np.sum(gradient * step) == pytest.approx((values[1] - values[0]) / 2e-4, rel=1e-6)


def test_a_bound_on_the_norms_holds_under_a_metric():
    geometry = GEOMETRIES["plain"]
    kernel, (_, moments) = kernel_of(geometry), seen(geometry)
    for bound in (3.0, 5.0):
        aim = Aim(max_norm=bound)
        task = Task("a layer", "cp3", kernel, 1, (16,), aim=aim, metric=Metric(moments))
        assert task.run().norm_ratio <= bound * (1 + 1e-6)


def test_rank_rules_see_the_kernel_as_the_metric_does():
    geometry, scheme = GEOMETRIES["plain"], SCHEMES["channel"]
    kernel, (_, moments) = kernel_of(geometry), seen(geometry)
    sizes = Sizes(8, 8, 8, 8)
    plain = Candidate("a", scheme, geometry, sizes, True, lambda: kernel)
    metric = Metric(moments)
    candidate = replace(plain, metric=metric)
    assert plain.seen() is kernel
    for rule in ("error=0.3", "energy=0.9", "enc-map:macs=0.5", "fitness:speedup=2"):
        choices = [parse_rule(rule).allocate([one])["a"] for one in (plain, candidate)]
        assert choices[1].ranks and choices[1].ranks <= plain.max_ranks
        if rule == "error=0.3":
            ranks = choices[1].ranks
            errors = [
                run("channel", geometry, kernel, (rank,), metric).output_error
                for rank in (ranks[0], ranks[0] - 1)
            ]
            assert errors[0] <= 0.3 < errors[1]
            assert ranks < choices[0].ranks
    vbmf = [parse_rule("vbmf").allocate([one])["a"] for one in (plain, candidate)]
    assert vbmf[0] == vbmf[1]
