"""Training with torch: the runs of real Caffe, every ending, and going on to the same bits."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import caffesurgery
from caffesurgery.errors import FileError, TrainError, WeightsError
from caffesurgery.files import caffemodel
from caffesurgery.files.solverstate import read_state, write_state
from caffesurgery.train import torch as torch_trainer
from caffesurgery.train.job import Job, choose
from caffesurgery.train.solver import edited

torch = pytest.importorskip("torch", reason="the trainer that needs no Caffe needs torch")
pytest.importorskip("h5py", reason="the runs' images are in an HDF5 file")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

from compare_training import differences  # noqa: E402

NET = """name: "small"
layer { name: "data" type: "HDF5Data" top: "data" top: "label"
  hdf5_data_param { source: "none.txt" batch_size: 8 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 }
  param { lr_mult: 2 decay_mult: 0 }
  convolution_param { num_output: 6 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """net: "net.prototxt"
base_lr: 0.02 lr_policy: "multistep" gamma: 0.5 stepvalue: 5 stepvalue: 9 momentum: 0.9
weight_decay: 0.001 max_iter: 12 test_iter: 2 test_interval: 3 snapshot: 4 random_seed: 5
snapshot_prefix: "somewhere/small"
"""
RUNS = [
    *("adadelta", "adagrad", "adam", "nesterov", "rmsprop", "sgd_batchnorm", "sgd_exp_clip"),
    *("sgd_fixed", "sgd_frozen_conv1", "sgd_ignore_label", "sgd_inv", "sgd_multistep"),
    *("sgd_poly_itersize", "sgd_sigmoid", "sgd_step_l1"),
]


@pytest.fixture(name="small")
def _small(tmp_path):
    """A job that trains a small net on images of its own."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((40, 3, 6, 6)).astype(np.float32)
    labels = (images[:, 0].mean((1, 2)) > 0) + 2 * (images[:, 1].mean((1, 2)) > 0)
    np.savez(tmp_path / "images.npz", data=images, label=labels.astype(np.float32))
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    return Job(
        tmp_path / "solver.prototxt", tmp_path / "out", data={"data": tmp_path / "images.npz"}
    )


def train(job: Job, tick=None):
    return choose("torch").train(job, tick)


def changed(job: Job, **fields) -> Job:
    """The job with another solver."""
    path = job.solver.with_name("changed.prototxt")
    path.write_text(edited(job.solver, **fields))
    return replace(job, solver=path)


def blobs(path) -> dict[str, list[np.ndarray]]:
    model = caffemodel.read(path)
    return {name: [blob.array() for blob in model.blobs(name)] for name in model.names()}


@pytest.mark.parametrize("run", RUNS)
def test_training_follows_the_runs_of_real_caffe(run, shared, tmp_path):
    of_losses, of_weights = differences(shared("training", run), tmp_path)
    assert of_losses < 1e-3 and of_weights < 1e-3, (of_losses, of_weights)


def test_a_run_that_goes_on_ends_in_the_same_bits(small):
    ticks = []
    whole = train(small, ticks.append)
    assert (whole.ending, whole.iteration) == ("done", 12)
    assert whole.weights.name == "snapshot_iter_12.caffemodel"
    assert set(whole.metrics) == {"test/accuracy", "test/loss"}
    assert ticks[-1].iteration == 12 and ticks[-1].metrics == whole.metrics
    kept = whole.weights.read_bytes(), whole.state.read_bytes()
    for iteration in (4, 8):
        state = small.folder / f"snapshot_iter_{iteration}.solverstate"
        again = train(replace(small, state=state))
        assert (again.weights.read_bytes(), again.state.read_bytes()) == kept
        assert again.metrics == whole.metrics


def test_states_are_those_that_caffe_reads(small):
    outcome = train(small)
    state = read_state(outcome.state)
    assert (state.iteration, state.current_step) == (12, 2)
    assert Path(state.weights) == outcome.weights.resolve()
    shapes = [array.shape for array in state.history]
    conv = [(6, 3, 3, 3), (6,)]
    assert shapes == [*conv, (6,), (6,), (1,), (6,), (6,), (4, 96), (4,)]
    assert not any(array.any() for array in state.history[2:5])  # statistics have no momentum
    copy = outcome.state.with_name("copy.solverstate")
    write_state(copy, 12, state.weights, state.history, 2)
    assert copy.read_bytes() == outcome.state.read_bytes()


def test_training_goes_on_from_a_snapshot_of_real_caffe(tmp_path):
    """Adam, from the .solverstate that Caffe wrote half-way to the one that it wrote at the end."""
    folder = Path(__file__).parent / "data/training/micro"
    state = folder / "caffe_iter_2.solverstate"
    ended = train(Job(folder / "solver.prototxt", tmp_path, state=state))
    real, mine = read_state(folder / "caffe_iter_4.solverstate"), read_state(ended.state)
    assert (mine.iteration, mine.current_step) == (real.iteration, real.current_step) == (4, 2)
    pairs = [*zip(mine.history, real.history)]
    pairs += zip(blobs(ended.weights)["ip"], blobs(folder / "caffe_iter_4.caffemodel")["ip"])
    for met, expected in pairs:
        assert met.shape == expected.shape
        np.testing.assert_allclose(met, expected, rtol=1e-5, atol=1e-9)
    told, again = read_state(state), tmp_path / "again.solverstate"
    write_state(again, 2, Path(told.weights).name, told.history, told.current_step)
    assert again.read_bytes() == state.read_bytes()


def test_ctrl_c_ends_with_a_snapshot_to_go_on_from(small):
    def press(tick):
        if tick.iteration == 6:
            os.kill(os.getpid(), signal.SIGINT)

    whole = train(small)
    before = signal.getsignal(signal.SIGINT)
    stopped = train(changed(small, display=1), press)
    assert signal.getsignal(signal.SIGINT) is before
    assert stopped.ending == "interrupted" and 6 <= stopped.iteration < 12
    kept = whole.weights.read_bytes()
    again = train(replace(small, state=stopped.state))
    assert again.weights.read_bytes() == kept


def test_a_loss_that_is_no_number_keeps_the_last_good_snapshot(small):
    job = changed(small, snapshot=1, lr_policy="exp", gamma=100, stepvalue=None)
    ended = train(job)
    assert ended.ending == "diverged" and 1 < ended.iteration < 12
    assert f"last good weights are {ended.weights}" in ended.message
    assert "base_lr 10 times smaller" in ended.message
    assert all(np.isfinite(blob).all() for layer in blobs(ended.weights).values() for blob in layer)
    assert read_state(ended.state).iteration <= ended.iteration


def test_labels_outside_of_the_classes_are_named(small):
    path = small.data["data"]
    arrays = dict(np.load(path))
    arrays["label"][3] = 7
    np.savez(path, **arrays)
    with pytest.raises(TrainError, match=r"layer 'accuracy'.*label 7 .*'ip' has 4 classes"):
        train(small)


def test_layers_that_nobody_knows_are_named(small):
    net = small.solver.with_name("net.prototxt")
    net.write_text(NET.replace('type: "ReLU"', 'type: "Sparkle"'))
    with pytest.raises(TrainError, match=r"net.prototxt:9 \(layer 'relu'\).*'Sparkle'"):
        train(small)


def test_a_net_without_a_loss_is_refused(small):
    net = small.solver.with_name("net.prototxt")
    net.write_text(NET.rsplit("layer {", 1)[0])
    with pytest.raises(TrainError, match="no layer is a loss"):
        train(small)


def test_data_for_a_layer_that_is_not_there_is_refused(small):
    with pytest.raises(TrainError, match="'dota', which is no data layer; did you mean 'data'"):
        train(replace(small, data={**small.data, "dota": small.data["data"]}))


def test_tests_may_have_other_data_than_training(small):
    rng = np.random.default_rng(1)
    other = small.solver.with_name("other.npz")
    np.savez(other, data=rng.standard_normal((16, 3, 6, 6)).astype("f4"), label=np.zeros(16, "f4"))
    both = train(small)
    apart = train(replace(small, data={**small.data, "TEST:data": other}))
    assert apart.weights.read_bytes() == both.weights.read_bytes()
    assert apart.metrics != both.metrics


def test_a_state_of_another_solver_is_refused(small):
    state = train(small).state
    with pytest.raises(TrainError, match="holds 9 blobs of history.* needs 18"):
        train(replace(changed(small, type="Adam"), state=state))


def test_without_torch_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(torch_trainer, "find_spec", lambda name: None)
    with pytest.raises(TrainError, match=r'pip install "caffesurgery\[torch\]"'):
        choose("torch")


def test_choosing_trainers_imports_no_torch():
    import subprocess

    code = "import sys; from caffesurgery.train.job import choose; choose('torch'); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_two_processes_lose_what_one_does(small):
    """Batch statistics and dropout too are those of the whole batch."""
    ticks: dict[int, list] = {1: [], 2: []}
    job = changed(small, display=1, max_iter=6, stepvalue=[3])
    ends = {}
    for count, seen in ticks.items():
        one = replace(job, processes=count, folder=small.folder / str(count))
        ends[count] = train(one, seen.append)
    alone, both = ([t.loss for t in seen if t.loss is not None] for seen in ticks.values())
    assert len(both) == len(alone) >= 6
    assert both == pytest.approx(alone, rel=1e-5)
    mine, theirs = (
        np.concatenate(
            [blob.ravel() for layer in blobs(ends[n].weights).values() for blob in layer]
        )
        for n in ends
    )  # all in one: the gradient of a bias before a BatchNorm is nothing but rounding
    assert np.linalg.norm(mine - theirs) < 1e-5 * np.linalg.norm(theirs)
    assert ends[2].metrics == pytest.approx(ends[1].metrics, rel=1e-5)


def test_a_batch_is_shared_equally_or_not_at_all(small):
    from caffesurgery.train.torch.session import Session

    with pytest.raises(TrainError, match="batch of 8 cannot be shared equally by 3 processes"):
        Session(small, rank=1, of=3)


@pytest.mark.parametrize("half", ("bfloat16", "float16"))
def test_mixed_precision_trains_about_the_same(small, half, monkeypatch):
    from caffesurgery.train.torch import precision

    monkeypatch.setattr(precision, "half_type", lambda device: getattr(torch, half))
    full, mixed = [], []
    train(changed(small, display=1), full.append)
    outcome = train(replace(changed(small, display=1), mixed=True), mixed.append)
    assert outcome.ending == "done"
    losses = [[tick.loss for tick in seen if tick.loss] for seen in (full, mixed)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05) and losses[1] != losses[0]


def test_gradients_that_float16_cannot_hold_are_left_out():
    from caffesurgery.train.torch.precision import Precision

    precision = Precision(torch.device("cpu"), False)
    assert precision.unscaled(torch.tensor([np.inf])) and precision.scale == 1
    precision.half, precision.scale = torch.float16, 8.0
    assert not precision.unscaled(torch.tensor([np.inf])) and precision.scale == 4
    gradients = torch.tensor([4.0])
    assert precision.unscaled(gradients) and gradients.item() == 1


def test_a_solver_without_snapshots_leaves_the_last_two(small):
    outcome = train(changed(small, snapshot=None))
    found = sorted(path.name for path in small.folder.iterdir())
    names = [
        f"snapshot_iter_{n}.{kind}" for n in (10, 12) for kind in ("caffemodel", "solverstate")
    ]
    assert found == names and outcome.weights.name == names[2]


def test_a_full_disk_ends_with_the_last_good_snapshot(small, monkeypatch):
    from caffesurgery.files import solverstate

    def write_state(path, *args, **kwargs):
        if "iter_8" in str(path):
            raise FileError(f"{path}: cannot be written (No space left on device)")
        return real(path, *args, **kwargs)

    from caffesurgery.train.torch import session

    real = solverstate.write_state
    monkeypatch.setattr(session, "write_state", write_state)
    ended = train(small)
    assert (ended.ending, ended.iteration) == ("failed", 8)
    assert ended.weights.name == "snapshot_iter_4.caffemodel"
    assert "No space left" in ended.message


def test_a_disk_too_full_for_a_report_still_says_how_training_ended(small):
    resource = pytest.importorskip("resource", reason="limits the size of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        report = caffesurgery.train_net(
            small.solver, small.folder, trainer="torch", data=small.data
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (report["ending"], report["iteration"]) == ("failed", 4)
    assert "snapshot_iter_4.caffemodel: cannot be written (File too large)" in report["message"]
    assert "; no report is there: " in report["message"]
    assert list(small.folder.iterdir()) == []


def test_weights_of_another_net_are_refused(small):
    weights = train(small).weights
    net = small.solver.with_name("net.prototxt")
    net.write_text(NET.replace("num_output: 6", "num_output: 5"))
    with pytest.raises(WeightsError, match="layer 'conv'.*6x3x3x3|expected to be 5x3x3x3"):
        train(replace(small, weights=weights))


def test_layers_without_weights_begin_anew_and_are_named(small):
    weights = train(small).weights
    net = small.solver.with_name("net.prototxt")
    net.write_text(NET.replace('"ip"', '"head"'))
    assert "no weights were given: head" in train(replace(small, weights=weights)).message


@pytest.mark.skipif(torch.cuda.device_count() > 7, reason="this machine has that many GPUs")
def test_a_gpu_that_is_not_there_is_named(small):
    for gpus in ((7,), (0, 7)):
        with pytest.raises(TrainError, match=r"GPU [07] is not there: torch sees \d GPU\(s\)"):
            train(replace(small, gpus=gpus))
    with pytest.raises(TrainError, match="3 processes for 2 GPU"):
        train(replace(small, gpus=(0, 1), processes=3))
