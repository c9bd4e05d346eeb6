"""`solver` and `train`: what they print and leave, and how they exit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fakenet import _fake_caffe, _real_caffe  # noqa: F401
from tiny import run, succeed

import caffesurgery
from caffesurgery.errors import FileError
from caffesurgery.files import caffemodel
from caffesurgery.files.resources import resource
from caffesurgery.train.solver import read_solver

TRAIN = ("train", "--solver", "solver.prototxt", "--weights", "start.caffemodel", "--trainer",
         "caffe", "-o", "out")  # fmt: skip


def documented() -> set[str]:
    return set(re.findall(r"`([\w/]+)`", resource("docs", "json.md").read_text("utf-8")))


def test_a_solver_is_written_and_its_settings_printed(fake_caffe):
    made = ("solver", "net.prototxt", "--images", 40, "--epochs", 3, "--mode", "cpu")
    report = succeed(*made, "-o", "s.prototxt", "--format", "json").json
    assert set(report) | set(report["settings"][0]) <= documented()
    values = {row["name"]: row["value"] for row in report["settings"]}
    solver = read_solver("s.prototxt")
    for name in ("base_lr", "max_iter", "stepsize", "snapshot", "solver_mode"):
        assert values[name] == getattr(solver, name)
    done = succeed(*made, "-o", "t.prototxt")
    assert "Table 3: every 5 epochs" in done.out and "wrote t.prototxt" in done.err
    assert Path("t.prototxt").read_text() == Path("s.prototxt").read_text().replace('"s"', '"t"')


def test_training_reports_what_it_reached(fake_caffe):
    report = succeed(*TRAIN, "--format", "json").json
    assert set(report) | set(report["tests"][0]) <= documented()
    assert report == json.loads(Path("out/report.json").read_text())
    assert (report["ending"], report["iteration"], report["max_iter"]) == ("done", 12, 12)
    assert [test["iteration"] for test in report["tests"]] == [0, 4, 8]
    assert report["metrics"] == report["tests"][-1]["metrics"]
    assert set(report["metrics"]) == {"test/accuracy", "test/loss"}
    assert report["weights"] == "out/trained.caffemodel"
    assert caffemodel.read("out/trained.caffemodel").names() == ["ip"]
    table = succeed(*TRAIN, "--force").out
    assert "trained by caffe: done at iteration 12 of 12" in table and "test/accuracy" in table


@pytest.mark.parametrize(
    "how, ending, said",
    [
        ("nan", "diverged", "try a base_lr ten times smaller"),
        ("killed", "killed", "killed (SIGKILL)"),
        ("disk", "failed", "the disk is full"),
    ],
)
def test_other_endings_exit_with_1(how, ending, said, fake_caffe, monkeypatch):
    monkeypatch.setenv("FAKE_CAFFE", how)
    done = run(*TRAIN, "--format", "json")
    assert done.code == 1 and done.json["ending"] == ending
    assert f"caffesurgery: training {ending}: " in done.err and said in done.err
    assert "go on with --resume out/snapshot_iter_4.solverstate" in done.err
    monkeypatch.setenv("FAKE_CAFFE", "done")
    again = ("train", "--solver", "solver.prototxt", "--resume", "out", "-o", "out")
    assert "done at iteration 12" in succeed(*again, "--trainer", "caffe").out


def test_a_used_folder_is_refused_before_anything_runs(fake_caffe):
    succeed(*TRAIN)
    log = Path("out/caffe.log").read_bytes()
    assert run(*TRAIN).code == 1
    with pytest.raises(FileError, match="already there"):
        caffesurgery.train_net("solver.prototxt", "out", "start.caffemodel", trainer="caffe")
    assert Path("out/caffe.log").read_bytes() == log


def test_threads_are_the_users_for_caffe_and_one_for_us(monkeypatch):
    from caffesurgery.workers import processors, threads

    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "CAFFESURGERY_SET_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = threads.users_environment()
    threads.one_thread()
    import os

    assert os.environ["OMP_NUM_THREADS"] == "1" and os.environ["MKL_NUM_THREADS"] == "3"
    assert threads.users_environment() == before
    assert threads.users_threads() == processors()
    worker = threads.one_thread_environment()
    assert worker["MKL_NUM_THREADS"] == "1" and worker["CAFFESURGERY_SET_THREADS"] == ""
    monkeypatch.setenv("CAFFESURGERY_SET_THREADS", "MKL_NUM_THREADS")
    assert threads.users_threads() is None  # the user has said how many
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "CAFFESURGERY_SET_THREADS"):
        monkeypatch.delenv(name)


def test_recipes_are_taken_by_real_caffe(real_caffe, shared, tmp_path, monkeypatch):
    monkeypatch.chdir(shared("training"))
    for recipe in ("etri", "samsung", "two-pass"):
        path, out = tmp_path / f"{recipe}.prototxt", tmp_path / recipe
        made = ("solver", "sgd_fixed/train.prototxt", "--recipe", recipe, "--images", 400)
        succeed(*made, "--test-images", 100, "--epochs", 1, "--mode", "cpu", "-o", path)
        begin = ("--solver", path, "--weights", "sgd_fixed/init.caffemodel")
        report = succeed("train", *begin, "--trainer", "caffe", "-o", out, "--format", "json").json
        assert (report["ending"], report["iteration"]) == ("done", 20)
        assert [test["iteration"] for test in report["tests"]] == [0, 20]
