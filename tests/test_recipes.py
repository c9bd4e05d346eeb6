"""Solvers by recipes of the papers: their numbers, for a net and its images, as Caffe reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import caffesurgery
from caffesurgery.errors import UsageError
from caffesurgery.train.recipes import RECIPES, Counts, recipe, settings
from caffesurgery.train.solver import learning_rate, read_solver

MODELS = Path(__file__).resolve().parent.parent / "models"
IMAGENET = {"images": 1_281_167, "test_images": 50_000}


@pytest.fixture(name="alexnet")
def _alexnet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train_val.prototxt").write_text((MODELS / "alexnet/train_val.prototxt").read_text())
    return "train_val.prototxt"


def test_alexnet_by_the_recipe_of_paper_000(alexnet):
    report = caffesurgery.make_solver(alexnet, "out/s.prototxt", "etri", **IMAGENET)
    solver = read_solver("out/s.prototxt")
    each = -(-1_281_167 // 256)
    assert report["iterations_per_epoch"] == each and report["batch"] == 256
    assert (solver.base_lr, solver.momentum, solver.weight_decay) == (0.001, 0.9, 0.0005)
    assert solver.max_iter == 15 * each and solver.snapshot == each
    rates = [learning_rate(solver, epoch * each) for epoch in (0, 4.99, 5, 10)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5], rel=1e-6)
    (test,) = solver.tests
    assert test.iterations == 1000 and solver.test_interval == each
    assert solver.train.path == Path(alexnet) and solver.snapshot_prefix == "out/s"
    sources = {row["name"]: row["source"] for row in report["settings"]}
    assert "Table 3" in sources["base_lr"] and "Table 3" in sources["max_iter"]
    assert f"# {sources['stepsize']}" in Path("out/s.prototxt").read_text()


def test_settings_of_the_etri_recipe_are_those_of_the_papers_table(shared):
    table = json.loads(shared("papers", "tables.json").read_text())["etri_cp_svd"]["training"]
    etri = recipe("etri")
    assert etri.base_lr == table["init_lr"]["vgg16"] == table["init_lr"]["googlenet"]
    assert (etri.momentum, etri.weight_decay) == (table["momentum"], table["weight_decay"])
    assert etri.epochs == table["epochs_each_iteration"]
    assert (etri.gamma, etri.step) == (0.1, 5) and table["lr_decay"] == "x0.1 every 5 epochs"


def test_two_passes_train_an_epoch_at_one_rate(alexnet):
    caffesurgery.make_solver(alexnet, "s.prototxt", "two-pass", mode="cpu", **IMAGENET)
    solver = read_solver("s.prototxt")
    assert solver.lr_policy == "fixed" and solver.max_iter == -(-1_281_167 // 256)
    assert solver.solver_mode == "CPU" and solver.stepsize == 0


def test_a_larger_batch_is_reached_by_iter_size(alexnet):
    options = {"epochs": 2.5, "base_lr": 0.002, **IMAGENET}
    report = caffesurgery.make_solver(alexnet, "s.prototxt", "samsung", batch=512, **options)
    solver = read_solver("s.prototxt")
    each = -(-1_281_167 // 512)
    assert solver.iter_size == 2 and report["batch"] == 512 and solver.snapshot == each
    assert solver.max_iter == -(-5 * each // 2) and solver.base_lr == 0.002
    sources = {row["name"]: row["source"] for row in report["settings"]}
    assert sources["base_lr"] == "as asked" and sources["max_iter"] == "2.5 epochs, as asked"


def test_counts_come_from_the_data_themselves(shared, tmp_path, monkeypatch):
    pytest.importorskip("h5py", reason="the reference data are HDF5")
    monkeypatch.chdir(shared("training"))
    path = tmp_path / "s.prototxt"
    report = caffesurgery.make_solver("sgd_fixed/train.prototxt", path, "etri", mode="cpu")
    assert (report["images"], report["iterations_per_epoch"]) == (400, 20)
    assert report["test_images"] == 400  # its only data layer is of both phases


def test_without_test_images_there_are_no_tests_and_it_is_said(alexnet):
    report = caffesurgery.make_solver(alexnet, "s.prototxt", images=1000)
    assert "say --test-images" in report["notes"][-1]
    assert read_solver("s.prototxt").tests == ()


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_of_a_recipe_has_a_source(name):
    rows = {row.name: row.source for row in settings(recipe(name), Counts(1000, 10), "n", "p")}
    for field in ("base_lr", "momentum", "weight_decay", "max_iter"):
        assert rows[field], field


def test_unknown_words():
    with pytest.raises(UsageError, match="unknown recipe 'etrii'; did you mean 'etri'"):
        recipe("etrii")
    with pytest.raises(UsageError, match="unknown mode 'tpu'"):
        settings(recipe("etri"), Counts(10, 1), "n", "p", mode="tpu")
    with pytest.raises(UsageError, match="above 0"):
        settings(recipe("etri"), Counts(10, 1), "n", "p", epochs=0)
