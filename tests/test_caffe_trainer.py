"""The user's Caffe as a trainer: its log, its endings, what it leaves, and what it never touches.

Most tests run a small stand-in that prints real log lines; those with the real binary find it
through CAFFE_BIN and skip without.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import protos
import pytest
from fakenet import SOLVER, _fake_caffe, _real_caffe  # noqa: F401
from fakenet import TRAIN_NET as NET
from nets import write_net

from caffesurgery.errors import FileError, SurgeryError, TrainError, WeightsError
from caffesurgery.files import caffemodel
from caffesurgery.files.solverstate import read_state
from caffesurgery.net.net import parse_net, read_net
from caffesurgery.train.caffe.log import Log
from caffesurgery.train.caffe.run import CaffeTrainer
from caffesurgery.train.check import require_weights, trained_shapes
from caffesurgery.train.freeze import frozen
from caffesurgery.train.job import Job, choose, trainers
from caffesurgery.train.snapshots import snapshots


@pytest.fixture(name="tiny")
def _tiny(fake_caffe):
    """A job on a tiny net, for the stand-in."""
    return Job(Path("solver.prototxt"), Path("out"), Path("start.caffemodel"))


def train(job: Job, how: str, monkeypatch, tick=None):
    monkeypatch.setenv("FAKE_CAFFE", how)
    return CaffeTrainer().train(job, tick)


def test_done(tiny, monkeypatch):
    ticks = []
    before = Path("solver.prototxt").read_bytes()
    found = train(tiny, "done", monkeypatch, ticks.append)
    assert (found.ending, found.iteration) == ("done", 12)
    assert found.metrics == {"test/accuracy": pytest.approx(8 / 12, 1e-4), "test/loss": 2.5}
    assert found.loss == pytest.approx(3 - 11 / 12, 1e-4)
    assert found.weights == Path("out/snapshot_iter_12.caffemodel")
    assert found.weights.read_bytes() == Path("start.caffemodel").read_bytes()
    assert read_state(found.state).iteration == 12
    assert [tick.iteration for tick in ticks][-1] == 11 and ticks[-1].lr == 0.01
    assert ticks[-1].seconds_left is not None and ticks[0].max_iterations == 12
    assert ticks[-1].metrics["loss"] == found.loss
    written = Path("out/caffe_solver.prototxt").read_text()
    assert written == SOLVER.replace('"mine"', f'"{Path("out/snapshot").absolute()}"')
    assert Path("solver.prototxt").read_bytes() == before and not list(Path().glob("mine*"))
    flags = Path("out/caffe.log").read_text().splitlines()[0]
    assert f"in {Path().absolute()}" in flags and "-weights" in flags


@pytest.mark.parametrize(
    "how, ending, said",
    [
        ("disk", "failed", "the disk is full"),
        ("memory", "failed", "lower batch_size"),
        ("layer", "failed", "no layer type 'Fancy'"),
        ("shape", "failed", "layer 'ip' has another shape in the weights"),
        ("gpu", "failed", "solver_mode: CPU"),
        ("odd", "failed", "Caffe says: Check failed: nobody knows this"),
        ("library", "failed", "lacks a library"),
        ("crash", "failed", "it crashed (SIGSEGV)"),
        ("large", "failed", "ulimit -f"),
        ("silent", "failed", "Caffe ended without saying so"),
        ("killed", "killed", "killed (SIGKILL)"),
        ("nan", "diverged", "ten times smaller"),
    ],
)
def test_every_other_ending_keeps_the_last_good_snapshot(how, ending, said, tiny, monkeypatch):
    found = train(tiny, how, monkeypatch)
    assert found.ending == ending and said in found.message, found.message
    assert "@ " not in found.message and "\n" not in found.message
    if how == "library":
        assert found.weights is None and found.iteration == 0
    else:
        assert found.weights == Path("out/snapshot_iter_4.caffemodel")
        assert found.iteration == 4 and "iteration 4" in found.message


def test_a_snapshot_that_was_cut_off_is_not_taken(tiny, monkeypatch):
    found = train(tiny, "cut", monkeypatch)
    assert found.ending == "killed" and found.iteration == 4
    assert [snapshot.iteration for snapshot in snapshots(Path("out"))] == [4]


def test_ctrl_c_is_passed_on_and_leaves_a_snapshot(tiny, monkeypatch):
    def press(tick):
        if tick.iteration == 5:
            os.kill(os.getpid(), signal.SIGINT)

    found = train(tiny, "wait", monkeypatch, press)
    assert found.ending == "interrupted" and 6 <= found.iteration < 12
    assert found.state == Path(f"out/snapshot_iter_{found.iteration}.solverstate")
    again = train(Job(tiny.solver, tiny.folder, state=found.state), "done", monkeypatch)
    assert (again.ending, again.iteration) == ("done", 12)
    assert "-snapshot" in Path("out/caffe.log").read_text()


def test_without_a_main_thread_it_trains_too(tiny, monkeypatch):
    found = []
    work = threading.Thread(target=lambda: found.append(train(tiny, "done", monkeypatch)))
    work.start()
    work.join()
    assert found[0].ending == "done"


def test_caffe_ends_with_us_even_when_we_are_killed(tiny):
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux ends the children of a killed process")
    code = (
        "from pathlib import Path; from caffesurgery.train.job import Job;"
        "from caffesurgery.train.caffe.run import CaffeTrainer;"
        "CaffeTrainer().train(Job(Path('solver.prototxt'), Path('out'), Path('start.caffemodel')))"
    )
    environment = {**os.environ, "FAKE_CAFFE": "wait"}
    ours = subprocess.Popen([sys.executable, "-c", code], env=environment)
    log = Path("out/caffe.log")
    while not (log.exists() and "Iteration 1," in log.read_text()):
        assert ours.poll() is None
        time.sleep(0.01)
    ours.kill()
    ours.wait()
    caffe = re.search(r" as (\d+)", log.read_text())[1]
    status = Path(f"/proc/{caffe}/status")
    while status.exists() and "(zombie)" not in status.read_text():
        time.sleep(0.01)


def test_logs_of_older_and_forked_versions():
    log = Log(100)
    lines = (
        "I0425 10:13:21.205826  9167 solver.cpp:208] Iteration 20, lr = 0.01",
        "I0425 10:13:21.206111  9167 solver.cpp:65] Iteration 20, loss = 6.5",
    )
    assert [log.feed(line) for line in lines][0].iteration == 20
    assert (log.loss, log.lr) == (6.5, 0.01)
    mark = "I0907 11:07:00.1  162 solver.cpp:312] "
    log.feed(f"{mark}Iteration 40 (8 iter/s, 2s/20 iter), 0.3/6ep, loss = 1.5")
    log.feed(f"{mark}Iteration 40, lr = 0.005, m = 0.9, wd = 0.0005, gs = 1")
    assert (log.iteration, log.loss, log.lr) == (40, 1.5, 0.005)
    log.feed(f"{mark}Snapshotting to a b_iter_40.caffemodel")
    assert log.snapshots == ["a b_iter_40.caffemodel"]
    log.feed(f"{mark}Iteration 40, Testing net (#1)")
    for value in ("0.5", "0.25", "-nan"):
        told = log.feed(f"{mark}    Test net output #0: top = {value}")
    assert told.metrics["test1/top"] == 0.5 and told.metrics["test1/top[1]"] == 0.25
    assert math.isnan(told.metrics["test1/top[2]"]) and told.tested == 40 and not log.diverged
    log.feed("Iteration 60, loss = 1.#QNAN")
    assert log.diverged and log.finite == 40


def test_weights_are_held_to_the_shapes_of_the_data_too(monkeypatch, shared):
    pytest.importorskip("h5py", reason="the reference data are HDF5")
    monkeypatch.chdir(shared("training"))
    net = read_net("sgd_fixed/train.prototxt")
    wide = parse_net(net.doc.text.replace("num_output: 16", "num_output: 18"), "train.prototxt")
    weights = caffemodel.read("sgd_fixed/init.caffemodel")
    assert require_weights(net, weights, trained_shapes(net, Path())) == []
    with pytest.raises(WeightsError, match=r"layer 'conv2'\): blob 0 is expected to be 18x6x3x3"):
        require_weights(wide, weights, trained_shapes(wide, Path()))


def test_a_failing_listener_does_not_leave_caffe_behind(tiny, monkeypatch):
    def fail(tick):
        raise ZeroDivisionError

    begun = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        train(tiny, "wait", monkeypatch, fail)
    assert time.monotonic() - begun < 60
    assert "Optimization" not in Path("out/caffe.log").read_text()


def test_snapshots_that_nobody_asked_for_are_two_at_most(tiny, monkeypatch):
    Path("solver.prototxt").write_text(SOLVER.replace("snapshot: 4", ""))
    found = train(tiny, "done", monkeypatch)
    assert found.ending == "done"
    assert [snapshot.iteration for snapshot in snapshots(Path("out"))] == [10, 12]


def test_a_state_that_was_moved_finds_its_weights_beside_it(tiny, monkeypatch):
    train(tiny, "killed", monkeypatch)
    Path("moved").mkdir()
    for end in ("solverstate", "caffemodel"):
        shutil.move(f"out/snapshot_iter_4.{end}", "moved")
    job = Job(tiny.solver, Path("second"), state=Path("moved/snapshot_iter_4.solverstate"))
    assert train(job, "done", monkeypatch).ending == "done"
    there = Path("moved/snapshot_iter_4.caffemodel").absolute()
    assert read_state("second/begun_from.solverstate").weights == str(there)
    there.unlink()
    with pytest.raises(FileError, match="are gone"):
        train(job, "done", monkeypatch)


def test_gradients_are_not_handed_on(tiny, monkeypatch):
    net = protos.message_class("NetParameter")()
    net.ParseFromString(Path("start.caffemodel").read_bytes())
    for blob in net.layer[0].blobs:
        blob.diff.extend([1.0] * len(blob.data))
    Path("diffs.caffemodel").write_bytes(net.SerializeToString())
    monkeypatch.setenv("FAKE_WEIGHTS", str(Path("diffs.caffemodel").absolute()))
    found = train(tiny, "done", monkeypatch)
    clean, before = caffemodel.read(found.weights), caffemodel.read("diffs.caffemodel")
    for mine, theirs in zip(clean.layers, before.layers):
        assert (mine.name, mine.type) == (theirs.name, theirs.type)
        for one, other in zip(mine.blobs, theirs.blobs):
            assert other.has_diff and not one.has_diff
            np.testing.assert_array_equal(one.array(), other.array())


@pytest.mark.parametrize(
    "change, said",
    [
        ({"processes": 2}, "several processes: name several GPUs"),
        ({"mixed": True}, "mixed precision"),
        ({"data": {"data": Path("x.npz")}}, "change the source in the prototxt"),
        ({"weights": Path("none.caffemodel")}, "no such file"),
        ({"state": Path("start.caffemodel")}, "expected a .solverstate"),
    ],
)
def test_what_cannot_begin(change, said, tiny, monkeypatch):
    with pytest.raises(SurgeryError, match=said):
        train(Job(**{**vars(tiny), **change}), "done", monkeypatch)


def test_missing_data_are_named_with_layer_and_path(tiny, monkeypatch):
    Path("net.prototxt").write_text(
        'layer { name: "pics" type: "Data" top: "data" top: "label"\n'
        '  data_param { source: "gone_lmdb" batch_size: 4 } }\n' + NET.split("\n", 4)[4]
    )
    with pytest.raises(TrainError) as error:
        train(tiny, "done", monkeypatch)
    assert "net.prototxt:1 (layer 'pics'): source 'gone_lmdb' is not there" in str(error.value)


def test_weights_of_another_net(tiny, monkeypatch):
    write_net(Path(), NET.replace('"ip"', '"fc"'), "other")
    job = Job(tiny.solver, tiny.folder, Path("other.caffemodel"))
    with pytest.raises(WeightsError, match=r"none of the layers of net.prototxt \(ip\), but of fc"):
        train(job, "done", monkeypatch)
    Path("net.prototxt").write_text(NET.replace("num_output: 3", "num_output: 4"))
    with pytest.raises(WeightsError, match="blob 0 is expected to be 4x6, the weights hold 3x6"):
        train(tiny, "done", monkeypatch)


def test_layers_that_begin_untrained_are_said(tiny, monkeypatch):
    added = (
        'layer { name: "new" type: "InnerProduct" bottom: "data" top: "new"\n'
        "  inner_product_param { num_output: 2 } }\n"
    )
    Path("net.prototxt").write_text(NET + added)
    assert "begin untrained" in train(tiny, "done", monkeypatch).message.replace("began", "begin")


def test_without_caffe_the_alternative_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("CAFFE_BIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "caffe" in trainers()
    with pytest.raises(TrainError, match="no 'caffe' on the PATH; name the binary with --caffe"):
        choose("caffe")
    with pytest.raises(TrainError, match="no program that can be run"):
        choose("caffe", caffe=tmp_path / "none")


@pytest.fixture(name="real")
def _real(real_caffe):
    return CaffeTrainer()


@pytest.fixture(name="run")
def _run(real, shared, tmp_path, monkeypatch):
    """Runs a reference training in a copy of its folder, with what ``change`` edits."""
    root = tmp_path / "training"
    root.mkdir()
    for name in ("data.h5", "data.txt"):
        shutil.copy(shared("training") / name, root)
    monkeypatch.chdir(root)

    def run(name, change=lambda text: text, **job):
        if not Path(name).exists():
            shutil.copytree(shared("training") / name, name, copy_function=shutil.copyfile)
        solver = Path(name, "solver.prototxt")
        solver.write_text(change(solver.read_text()))
        job.setdefault("weights", Path(name, "init.caffemodel") if "state" not in job else None)
        return real.train(Job(solver=solver, folder=Path("out"), **job))

    return run


def blobs(path) -> dict:
    model = caffemodel.read(path)
    return {name: [blob.array() for blob in model.blobs(name)] for name in model.names()}


def test_real_caffe_trains_to_the_reference_weights(run, shared):
    found = run("sgd_multistep")
    assert (found.ending, found.iteration) == ("done", 30), found.message
    reference = blobs(shared("training") / "sgd_multistep/final.caffemodel")
    for name, arrays in blobs(found.weights).items():
        for one, other in zip(arrays, reference[name]):
            assert np.linalg.norm(one - other) <= 1e-3 * np.linalg.norm(other)
    assert read_state(found.state).iteration == 30 and read_state(found.state).current_step == 2


def test_real_caffe_goes_on_from_its_own_snapshot(run):
    whole = run("nesterov")
    state = Path("out/snapshot_iter_27.solverstate")
    again = run("nesterov", state=state)
    assert (again.ending, again.iteration) == ("done", 30)
    for name, arrays in blobs(whole.weights).items():
        # HDF5 data begin anew after a restart, so that the last updates see other images
        assert all(one.shape == two.shape for one, two in zip(arrays, blobs(again.weights)[name]))


def test_real_caffe_leaves_frozen_layers_as_they_are(run):
    def freeze(text):
        net = Path("sgd_fixed/train.prototxt")
        net.write_text(frozen(read_net(net), ["conv1"]))
        return text

    found = run("sgd_fixed", freeze)
    before, after = blobs("sgd_fixed/init.caffemodel"), blobs(found.weights)
    for name, arrays in after.items():
        same = [np.array_equal(one, other) for one, other in zip(arrays, before[name])]
        assert all(same) if name == "conv1" else not any(same), name


@pytest.mark.parametrize(
    "change, ending, said",
    [
        (("base_lr: 0.01", "base_lr: 1e20"), "diverged", "ten times smaller"),
        (("solver_mode: CPU", "solver_mode: GPU"), "failed", "solver_mode: CPU"),
        (('"fixed"', '"plateau"'), "failed", "no such solver type or lr_policy"),
        (("momentum", "momentun"), "failed", "does not know the field 'momentun'"),
    ],
)
def test_real_caffe_and_its_endings(change, ending, said, run):
    found = run("sgd_fixed", lambda text: text.replace(*change))
    assert found.ending == ending and said in found.message, found.message


def test_real_caffe_is_stopped_by_ctrl_c(real, run, monkeypatch):
    plain = real.train

    pressed = []

    def press(tick):
        if tick.iteration >= 200 and not pressed:
            pressed.append(os.kill(os.getpid(), signal.SIGINT))

    monkeypatch.setattr(real, "train", lambda job: plain(job, press))
    found = run("sgd_fixed", lambda text: text.replace("max_iter: 30", "max_iter: 20000"))
    assert found.ending == "interrupted", found.message
    assert found.iteration >= 200 and read_state(found.state).iteration == found.iteration
