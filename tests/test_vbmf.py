"""Variational Bayes: the rank at the true minimum, on real unfoldings and on planted ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_ranks import candidate

from caffesurgery.decompose.truncated import gram
from caffesurgery.errors import UsageError
from caffesurgery.files.caffemodel import read
from caffesurgery.ranks import Choice, large, parse_rule
from caffesurgery.ranks.evbmf import FreeEnergy, compatible, estimate, minimum
from caffesurgery.ranks.large import Beyond, by_leading, estimate_of
from caffesurgery.ranks.spectrum import Spectrum, prepared, spectrum, spectrum_of


def unfolded(kernel, how):
    if how in ("T", "matrix"):
        return kernel.reshape(len(kernel), -1)
    if how == "S":
        return kernel.transpose(1, 0, 2, 3).reshape(kernel.shape[1], -1)
    return kernel.reshape(-1, kernel.shape[2] * kernel.shape[3]).T


@pytest.fixture(scope="module")
def unfoldings():
    """Every (expected, matrix) of the reference; grouped layers are numbered from 1."""
    from conftest import shared

    found, models = [], {}
    for entry in json.loads(shared("ranks", "vbmf_expected.json").read_text())["unfoldings"]:
        path = shared(*entry["model"].split("/"))
        if path not in models:
            models[path] = read(path)
        weights = models[path]
        name, number = entry["layer"], ""
        if name not in weights:
            name, _, number = name.rpartition("_")
        kernel = weights.blobs(name)[0].array()
        if entry["unfolding"] == "matrix":
            kernel = kernel.reshape(entry["shape"])
        if number:
            each = int(np.prod(entry["shape"]) // kernel[0].size)
            kernel = kernel[(int(number) - 1) * each : int(number) * each]
        matrix = unfolded(kernel, entry["unfolding"])
        assert list(matrix.shape) == entry["shape"]
        found.append((entry, matrix))
    return found


def noisy(rows, columns, rank, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    return (signal + noise * rng.standard_normal((rows, columns))).astype(np.float32)


def test_the_rank_is_that_of_the_global_minimum_on_every_real_unfolding(unfoldings):
    assert len(unfoldings) == 354
    wrong = [
        (entry["layer"], entry["unfolding"])
        for entry, matrix in unfoldings
        if estimate(spectrum(matrix)).rank != entry["rank_global"]
    ]
    assert wrong == []


def test_compat_gives_the_rank_of_the_public_code(unfoldings):
    known = [(e, m) for e, m in unfoldings if e["rank_public_code"] is not None]
    assert len(known) == 319
    for entry, matrix in known:
        assert compatible(spectrum(matrix, dead=0.0)) == entry["rank_public_code"], entry


def test_the_rank_changes_neither_with_scale_nor_with_transposition(unfoldings):
    for entry, matrix in unfoldings[::9]:
        for scale in (0.01, 1000, 1e-25, 1e20):
            assert estimate(spectrum(matrix * np.float32(scale))).rank == entry["rank_global"]
        assert estimate(spectrum(matrix.T)).rank == entry["rank_global"]


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (60, 60), (9, 3000), (1, 5)])
def test_no_noise_variance_has_a_lower_free_energy(shape):
    matrix = noisy(*shape, min(5, *shape), noise=2.0)
    found = spectrum(matrix)
    energy = FreeEnergy(found)

    def value(u):
        signals = np.array([np.count_nonzero(energy.squares * u > energy.threshold)])
        return energy.values(np.array([u]), signals)[0]

    least = value(energy.noise(1.0) / estimate(found).noise)
    tried = np.geomspace(1, 100, 4000)
    assert least <= min(value(u) for u in tried) + 1e-9


def test_a_planted_rank_and_its_noise_are_found():
    found = estimate(spectrum(noisy(80, 300, 12)))
    assert found.rank == 12
    assert found.noise == pytest.approx(0.01, rel=0.05)
    assert 0.99 < found.energy < 1


def test_noise_alone_has_rank_zero_and_no_noise_the_rank_it_has():
    rng = np.random.default_rng(1)
    assert estimate(spectrum(rng.standard_normal((50, 400)).astype(np.float32))).rank == 0
    assert estimate(spectrum(np.zeros((4, 9), np.float32))).rank == 0
    assert estimate(spectrum(noisy(30, 70, 7, noise=0.0))).rank == 7


def test_large_matrices_with_little_noise_are_looked_at_in_float64():
    for noise in (0.3, 3e-5):
        found = spectrum(noisy(400, 500, 30, noise))
        assert estimate(found).rank == 30
        assert estimate(found).noise == pytest.approx(noise**2, rel=0.05)


def test_dead_filters_are_left_out():
    matrix = noisy(40, 120, 6)
    alive = estimate(spectrum(matrix)).rank
    matrix = np.vstack([matrix, 1e-9 * matrix[:5]])
    found = spectrum(matrix)
    assert (estimate(found).rank, found.dead) == (alive, (5, 0))


def noisy_candidate(scheme, rank=4, group=1, noise=0.05):
    one = candidate(scheme=scheme, T=32, S=24, group=group)
    T, S, D, E = one.geometry.weight_shape
    rng = np.random.default_rng(3)
    shapes = ((rank, T), (rank, S), (rank, D), (rank, E))
    kernel = np.einsum("rt,rs,rd,re->tsde", *(rng.standard_normal(shape) for shape in shapes))
    kernel += noise * rng.standard_normal(kernel.shape)
    return one, kernel.astype(np.float32)


def allocated(scheme, rule="vbmf", **more):
    from dataclasses import replace

    one, kernel = noisy_candidate(scheme, **more)
    return parse_rule(rule).allocate([replace(one, kernel=lambda: kernel)])["conv"]


@pytest.mark.parametrize(
    "scheme, ranks, measured",
    [
        ("cp3", (4,), {"T": 4, "S": 4, "D": 4}),
        ("tucker2", (4, 4), {"S": 4, "T": 4}),
        ("channel", (4,), {"matrix": 4}),
        ("tucker1-in", (4,), {"matrix": 4}),
    ],
)
def test_each_scheme_asks_its_own_unfoldings(scheme, ranks, measured):
    choice = allocated(scheme)
    assert (choice.ranks, choice.measured) == (ranks, measured)
    assert choice.why.startswith("vbmf: ")


def test_the_groups_get_the_largest_rank_among_them_each():
    choice = allocated("tucker2", group=2)
    assert all(rank % 2 == 0 and rank >= 8 for rank in choice.ranks)
    assert "in a group" in choice.why


def test_weaken_goes_part_of_the_way_from_the_full_rank():
    choice = allocated("channel", "vbmf:weaken=0.75")
    assert choice.ranks == (32 - 0.75 * (32 - 4),)
    assert isinstance(allocated("channel", "vbmf:compat"), Choice)
    with pytest.raises(UsageError, match="expected a share above 0 and at most 1"):
        parse_rule("vbmf:weaken=2")


def test_layers_of_noise_zeros_or_full_rank_are_left_alone_with_the_reason():
    assert "nothing but noise" in allocated("channel", rank=0).why
    assert "weights are zero" in allocated("channel", rank=0, noise=0.0).why
    assert "full rank" in allocated("cp2", "vbmf:weaken=0.01").why


@pytest.fixture(scope="module")
def from_a_part():
    """A function from a matrix to (the estimate from a part of its spectrum, that from all)."""

    def both(matrix):
        ready = prepared(matrix)
        total = gram(ready.matrix, wide=False)
        return by_leading(total, ready), estimate(spectrum_of(ready, total))

    return both


def wide_noise(rank, strength, rows=1000, columns=1300, seed=0):
    """Noise, and ``rank`` squares of ``strength`` times the least that the theory can tell."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((rows, columns), np.float32)
    sides = (rng.standard_normal((size, rank), np.float32) for size in (rows, columns))
    left, right = (np.linalg.qr(side)[0] for side in sides)
    least = 2.5129 * np.sqrt(rows * columns)
    return matrix + left * np.sqrt(least * np.float32(strength)) @ right.T


@pytest.mark.parametrize(
    "rank, strength",
    [
        (0, 1.0),
        (30, np.geomspace(1.1, 100, 30)),
        (24, np.linspace(0.8, 1.3, 24)),
        (40, np.repeat([200, 1.15], 20)),
    ],
)
def test_the_leading_part_of_a_spectrum_gives_the_rank_of_all_of_it(from_a_part, rank, strength):
    part, whole = from_a_part(wide_noise(rank, strength))
    assert part.rank == whole.rank
    assert part.noise == pytest.approx(whole.noise, rel=1e-4)
    assert part.energy == pytest.approx(whole.energy, rel=1e-4, abs=1e-9)


def test_high_ranks_and_matrices_without_noise_need_the_whole_spectrum(from_a_part):
    assert from_a_part(wide_noise(400, np.geomspace(2, 2000, 400)))[0] is None
    exact = noisy(800, 900, 20, noise=0.0)
    assert from_a_part(exact)[0] is None
    assert estimate_of(exact)[0].rank >= 20


def test_more_signals_than_were_looked_at_are_not_ruled_out():
    """Where some of the unseen eigenvalues make the free energy lower, nothing is claimed."""
    rows, columns, seen = 1000, 1300, 3
    squares = np.concatenate([np.geomspace(9e4, 5e4, seen), np.full(200, 1e4), np.full(797, 10.0)])
    part = Spectrum(squares[:seen], columns, more=rows - seen, rest=float(squares[seen:].sum()))
    beyond = Beyond(squares, np.ones(rows), columns)
    energy = FreeEnergy(part)
    precision, rank = minimum(energy)
    least = energy.values(np.array([precision]), np.array([rank]))[0]
    assert estimate(Spectrum(squares, columns)).rank == 203
    assert not beyond.is_higher(energy, least)
    assert beyond.signals() == 203


def test_a_large_matrix_goes_by_its_leading_part_at_any_scale(monkeypatch):
    monkeypatch.setattr(large, "PARTIAL", 900)
    monkeypatch.setattr(large, "spectrum_of", None)  # all of the spectrum is not asked for
    matrix = wide_noise(12, 4.0)
    for given in (matrix, matrix.T * np.float32(1e-25), matrix * np.float32(1e20)):
        assert estimate_of(given)[0].rank == 12
    found = estimate_of(matrix * 4)[0].noise / 16
    assert found == pytest.approx(1.0, rel=0.05)


def test_blobs_that_lie_askew_in_their_file_are_read_in_pieces():
    matrix = noisy(40, 90, 6)
    data = np.frombuffer(b"abc" + matrix.tobytes(), np.float32, matrix.size, 3).reshape(40, 90)
    assert not data.flags.aligned
    assert estimate_of(data)[0].rank == 6
    assert np.allclose(gram(data, wide=False), gram(matrix, wide=False), rtol=1e-6)
