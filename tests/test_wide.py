"""Chains of layers whose patches are too large for a covariance, found by their outputs."""

from importlib import import_module

import numpy as np
import pytest
from calibrated import sample
from test_calibration import smaller

from caffesurgery.calibration import Levers, fit, wide
from caffesurgery.calibration.chains import Chain, Ends
from caffesurgery.decompose import SCHEMES, Geometry, compose

FIT = import_module("caffesurgery.calibration.fit")
ENDS = Ends(True, False)


def chain_of(kernel, group, scheme, rank):
    parts = SCHEMES[scheme].parts(Geometry.of(kernel.shape, group), (rank,))
    return Chain(tuple("ab"), parts, group, kernel, None)


def case(group=1, count=4000):
    """A grouped 1 x 1 layer, correlated inputs and its outputs: (kernel, x, y), x (C, N)."""
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((12, 10, 1, 1)).astype(np.float32)
    mixing = rng.standard_normal((10 * group, 10 * group)) * np.geomspace(1, 0.02, 10 * group)
    x = (mixing @ rng.standard_normal((10 * group, count)) + 1).astype(np.float32)
    blocks = zip(np.split(kernel, group), np.split(x, group))
    return kernel, x, np.concatenate([block[:, :, 0, 0] @ part for block, part in blocks])


def made_by(kernel, x, group):
    blocks = zip(np.split(kernel, group), np.split(x, group))
    return np.concatenate([block[:, :, 0, 0] @ part for block, part in blocks])


def lost(kernel, x, y, group) -> float:
    off = made_by(kernel, x, group) - y
    return float(np.square(off - off.mean(1, keepdims=True)).sum())


def nothing(chain):
    return [np.zeros(part.weight_shape, np.float32) for part in chain.parts]


@pytest.mark.parametrize("group", [1, 2])
def test_of_many_images_the_chain_is_the_best_of_its_rank(group):
    """By LAPACK: the principal components of the outputs."""
    kernel, x, y = case(group)
    chain = chain_of(kernel, group, "channel", 4 * group)
    sums = wide.output_sums([y.T[None, None].transpose(0, 3, 2, 1)], 1, group)
    factors = wide.leading_chain(chain, sums, 10**6, ENDS)
    found = lost(compose(factors, chain.parts, group), x, y, group)
    best = 0.0
    for part in np.split(y - y.mean(1, keepdims=True), group):
        best += float((np.linalg.svd(part.astype(np.float64), compute_uv=False)[4:] ** 2).sum())
    assert found == pytest.approx(best, rel=0.02)


def test_of_no_images_it_is_the_truncated_svd():
    kernel, x, y = case()
    chain = chain_of(kernel, 1, "channel", 4)
    sums = wide.output_sums([y[None, :, :1, None]], 1, 1)
    factors = wide.leading_chain(chain, sums, 1, Ends(True, False))
    found = compose(factors, chain.parts, 1) - kernel
    best = np.linalg.svd(kernel[:, :, 0, 0], compute_uv=False)[4:]
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(best), rel=1e-4)


def test_outputs_that_count_more_are_met_better():
    kernel, x, y = case()
    weights = np.where(np.arange(12) < 3, 100.0, 1.0)
    chain = chain_of(kernel, 1, "channel", 3)
    sums = wide.output_sums([y[None, :, :, None]], 1, 1)
    found = [
        made_by(compose(wide.leading_chain(chain, sums, 10**6, ends), chain.parts, 1), x, 1) - y
        for ends in (ENDS, Ends(True, False, weights))
    ]
    alike, weighted = (np.square(off[:3] - off[:3].mean(1, keepdims=True)).sum() for off in found)
    assert weighted < 0.5 * alike


@pytest.mark.parametrize("names", [("third",), ("first", "second", "third")])
def test_a_fit_takes_it_where_the_patches_are_too_large(monkeypatch, names):
    old, blobs, new, others, chains = smaller("channel", 0.3, names)
    given = (old, new, blobs, others, chains, sample(60), sample(20, 1), Levers(statistics=False))
    monkeypatch.setattr(FIT, "LARGEST", 1)
    found = fit(*given, jobs=2)
    with monkeypatch.context() as patch:
        patch.setattr(wide, "_LARGEST", 0)
        alone = fit(*given)
    first = {layer.name: layer.after for layer in found.layers}
    second = {layer.name: layer.after for layer in alone.layers}
    assert all(first[name] < 0.97 * second[name] for name in names[:1])
    assert all(one.after <= one.before for one in found.layers if one.before is not None)


def test_where_it_is_worse_all_stays_as_it_was(monkeypatch):
    old, blobs, new, others, chains = smaller("channel", 0.3, ("third",))
    given = (old, new, blobs, others, chains, sample(60), sample(20, 1), Levers(statistics=False))
    monkeypatch.setattr(FIT, "LARGEST", 1)
    with monkeypatch.context() as patch:
        patch.setattr(wide, "_LARGEST", 0)
        alone = fit(*given)
    monkeypatch.setattr(FIT, "leading_chain", lambda chain, *_: nothing(chain))
    found = fit(*given)
    assert found.layers == alone.layers
    for index, arrays in alone.blobs.items():
        assert all(np.array_equal(a, b) for a, b in zip(arrays, found.blobs[index]))
    (first,) = (k for k, e in enumerate(new(1).layers) if e.layer.name == chains["third"].layers[0])
    assert np.array_equal(found.blobs.get(first, others[first])[0], others[first][0])


def test_large_patches_of_which_there_are_few_go_by_the_outputs_too(monkeypatch):
    old, blobs, new, others, chains = smaller("channel", 0.3, ("third",))
    told = []
    monkeypatch.setattr(
        FIT, "leading_chain", lambda *given: told.append(given) or wide.leading_chain(*given)
    )

    def third(count):
        levers = Levers(statistics=False)
        found = fit(old, new, blobs, others, chains, sample(count), sample(20, 1), levers)
        return next(one for one in found.layers if one.name == "third")

    by_patches = third(1)  # 42 patches of 72 numbers
    monkeypatch.setattr(FIT, "LARGE", 1)
    by_outputs = third(1)
    assert len(told) == 1
    assert by_outputs.after < 1.05 * by_patches.after and by_outputs.what == "refit"
    assert third(4) and len(told) == 1
