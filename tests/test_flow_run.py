"""Flows carried out, with a trainer that only pretends: what is cut, frozen, kept, rolled back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from flows import FLOW, Pretender, write_files
from tiny import tree

import caffesurgery
from caffesurgery.errors import DataError, FlowError, TrainError
from caffesurgery.flow import journal, run
from caffesurgery.flow.read import parse_flow
from caffesurgery.flow.run import finetune
from caffesurgery.flow.sensitivity import sensitivity
from caffesurgery.flow.training import at_home
from caffesurgery.net.net import read_net


@pytest.fixture(autouse=True, name="folder")
def _folder(tmp_path, monkeypatch):
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def flow_of(added="", **changes):
    text = FLOW
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return parse_flow(text + added, "flow.prototxt")


def layers_in(folder="flow.out", net="deploy"):
    return [layer.name for layer in read_net(f"{folder}/{net}.prototxt").layers]


CUT = ["conv1_sdd", "conv1_t", "conv2_s", "conv2_dd", "conv2_t", "fc3_ud", "fc3_vt"]


def test_an_iterative_flow_leaves_a_net_its_plan_and_its_report():
    before = {name: data for name, data in tree(Path()).items()}
    pretender = Pretender()
    report = finetune(flow_of(), trainer=pretender)
    out = Path("flow.out")
    assert (
        sorted(path.name for path in out.iterdir())
        == sorted(["journal.json", *report["files"]])
        == sorted(
            "deploy.caffemodel deploy.prototxt journal.json plan.prototxt report.json "
            "train_val.prototxt".split()
        )
    )
    assert set(CUT) <= set(layers_in()) and set(CUT) <= set(layers_in(net="train_val"))
    model = caffesurgery.load(out / "deploy.prototxt", out / "deploy.caffemodel")
    assert report["totals"]["new_macs"] == model.shapes.macs < report["totals"]["macs"]
    assert json.loads((out / "report.json").read_text()) == report
    plan = caffesurgery.read_plan(out / "plan.prototxt")
    assert [entry.name for entry in plan.layers] == ["conv1", "conv2", "fc3", "fc4"]
    assert [job.seed for job in pretender.jobs] == [3000, 7000, 11000, 15000]
    assert [solver.max_iter for solver in pretender.solvers] == [4] * 4
    assert {solver.snapshot for solver in pretender.solvers} == {2}
    assert all(not solver.tests for solver in pretender.solvers)
    assert [dict(job.data) for job in pretender.jobs] == [
        {"data": Path("train.npz").absolute()}
    ] * 4
    now = tree(Path())
    assert {name: now[name] for name in before} == before


def test_the_report_tells_each_step():
    report = finetune(flow_of(), trainer=Pretender())
    steps = report["steps"]
    assert [step["kind"] for step in steps] == (
        ["evaluate"] + ["cut", "evaluate", "train", "evaluate"] * 4
    )
    assert report["before"] == steps[0]["metrics"] and report["after"] == steps[-1]["metrics"]
    assert all(set(step["metrics"]) == {"top1", "loss"} for step in steps[::2])
    assert [step["cut"][0]["name"] for step in steps if step["cut"]] == [
        "conv1", "conv2", "fc3", "fc4",
    ]  # fmt: skip
    macs = [step["macs"] for step in steps]
    assert macs == sorted(macs, reverse=True) and macs[0] > macs[-1]


def test_cuts_are_fitted_to_images():
    changes, apart = {"iterations: 4 snapshot: 2": "iterations: 0"}, {}
    for name, more in {"plain": "", "fitted": 'calibrate { images: "train.npz" }'}.items():
        flow = flow_of(f'scheme: one_shot {more} output: "{name}"', **changes)
        finetune(flow, trainer=Pretender())
        first, other = (
            caffesurgery.load(Path(folder, "deploy.prototxt"), Path(folder, "deploy.caffemodel"))
            for folder in ("", name)
        )
        compared = caffesurgery.compare(first, other, images="test.npz").as_dict()
        apart[name] = compared["blobs"][0]["frobenius"]
    assert apart["fitted"] < apart["plain"]


@pytest.mark.parametrize(
    "freeze, expected",
    [
        ("none", [set(), set(), set()]),
        ("decomposed", [set(), {"conv1_sdd", "conv1_t"}, set(CUT[:5])]),
        (
            "others",
            [
                {"conv2", "fc3", "fc4"},
                {"conv1_sdd", "conv1_t", "fc3", "fc4"},
                {*CUT[:5], "fc4"},
            ],
        ),
    ],
)
def test_layers_are_frozen_as_in_section_3_5(freeze, expected):
    pretender = Pretender()
    finetune(flow_of(f'freeze: {freeze} keep: "last"'), trainer=pretender)
    assert pretender.frozen == expected
    rates = {layer.name: layer.specs for layer in read_net("flow.out/train_val.prototxt").layers}
    assert all(spec.lr_mult > 0 for specs in rates.values() for spec in specs)


def test_two_passes_restore_train_and_cut_again_at_the_same_ranks():
    pretender = Pretender()
    flow = flow_of('scheme: two_pass every: 2 layers: "conv*" keep_steps: true')
    report = finetune(flow, trainer=pretender)
    cuts = [step["cut"] for step in report["steps"] if step["cut"]]
    assert (
        len(cuts) == 2
        and [[one["ranks"] for one in cut] for cut in cuts]
        == [[one["ranks"] for one in cuts[0]]] * 2
    )
    assert cuts[0][1]["error"] != cuts[1][1]["error"]
    dense, last = pretender.solvers
    assert {"conv1", "conv2"} <= {layer.name for layer in dense.train.read().layers}
    assert pretender.frozen == [set(), set(CUT[:5])]
    assert sorted(path.name for path in Path("flow.out/steps").iterdir()) == [
        "01-cut", "03-restore", "04-train", "04-train.work", "06-cut", "08-train", "08-train.work",
    ]  # fmt: skip


def test_ranks_may_be_chosen_again_before_each_cut(monkeypatch):
    asked = []
    plan = caffesurgery.api.plan
    monkeypatch.setattr(run.api, "plan", lambda *a, **k: asked.append((a[1:], k)) or plan(*a, **k))
    changes = {'"ratio=0.7"': '"uniform:macs=0.6"'}
    report = finetune(
        flow_of('choose_ranks: each_step pin: "conv2=3" keep: "last"', **changes),
        trainer=Pretender(),
    )
    assert report["totals"]["new_macs"] <= 0.6 * report["totals"]["macs"]
    first, *again = asked
    amount = f"uniform:macs={int(0.6 * report['totals']['macs'])}"
    assert [args[1] for args, _ in again] == [amount] * len(again) and len(again) == 3
    assert [args[2] for args, _ in again] == [["conv1", "fc3"], ["fc3"], ["fc3"]]
    ranks = {layer["name"]: layer["ranks"] for layer in report["layers"]}
    assert ranks["conv2"] == {"rank": 3}


def test_a_group_under_the_floor_is_tried_again_and_then_left_dense(monkeypatch):
    scores = iter([0.9, 0.8, 0.85, 0.5, 0.6, 0.5, 0.65, 0.5, 0.86, 0.5, 0.87])
    monkeypatch.setattr(run.evaluation, "evaluate", lambda *a: {"top1": next(scores)})
    flow = flow_of('stop { max_drop: 0.1 tries: 1 } layers: "conv1,conv2,fc3,fc4"')
    report = finetune(flow, trainer=Pretender())
    judged = [step for step in report["steps"] if step["decision"] != "go on"]
    assert [(one["of"], one["try"], one["decision"]) for one in judged] == [
        (["conv2"], 1, "try again"), (["conv2"], 2, "leave dense"),
    ]  # fmt: skip
    assert report["after"] == {"top1": 0.87}
    ranks = [
        s["cut"][0]["ranks"]["rank"] for s in report["steps"] if s["cut"] and "conv2" in s["of"]
    ]
    assert ranks == [7, 9]
    assert [layer["name"] for layer in report["layers"]] == ["conv1", "fc3", "fc4"]
    assert "conv2" in layers_in() and "conv1_t" in layers_in()


def test_a_flow_is_over_within_its_budget():
    report = finetune(flow_of("budget { macs: 0.8 }"), trainer=Pretender())
    assert [layer["name"] for layer in report["layers"]] == ["conv1"]
    assert report["within_budget"] is True and report["steps"][-1]["decision"] == "enough"


def test_a_training_that_diverges_keeps_the_last_good_net():
    with pytest.raises(TrainError, match="diverged.*at iteration 1.*a smaller base_lr") as caught:
        finetune(flow_of(), trainer=Pretender(endings={2: "diverged"}))
    assert str(caught.value).endswith("flow.out/steps/05-cut/deploy.caffemodel")
    report = finetune(flow_of(), resume=True, trainer=Pretender())
    assert len(report["layers"]) == 4
    again = finetune(
        flow_of("stop { floor: 0 tries: 1 }"), "other", trainer=Pretender(endings={1: "diverged"})
    )
    assert again["steps"][3]["decision"] == "try again"


@pytest.mark.parametrize("ending", ["failed", "killed"])
def test_other_endings_say_what_the_trainer_said(ending):
    with pytest.raises(TrainError, match=f"ended as '{ending}' .*the loss is NaN"):
        finetune(flow_of(), trainer=Pretender(endings={1: ending}))


def test_an_interrupted_flow_says_how_to_go_on():
    with pytest.raises(FlowError, match="finetune flow.prototxt -o there --resume`"):
        finetune(flow_of(), "there", trainer=Pretender(endings={2: "interrupted"}))
    whole = finetune(flow_of(), trainer=Pretender())
    went_on = finetune(flow_of(), "there", resume=True, trainer=Pretender())
    assert whole["layers"] == went_on["layers"]
    data = [Path(name, "deploy.caffemodel").read_bytes() for name in ("flow.out", "there")]
    assert data[0] == data[1]


def test_a_flow_stopped_after_any_step_ends_in_the_same_net(monkeypatch):
    flow = flow_of("scheme: hybrid every: 2")
    finetune(flow, "whole", trainer=Pretender())
    expected = Path("whole/deploy.caffemodel").read_bytes()
    write, count = journal.write, [0]

    def stopping(changed, folder):
        count[0] += 1
        if count[0] % 2:
            raise KeyboardInterrupt
        write(changed, folder)

    monkeypatch.setattr(journal, "write", stopping)
    Path("cut").mkdir()
    for times in range(40):
        try:
            finetune(flow, "cut", resume=times > 1, trainer=Pretender())
            break
        except FlowError as error:
            assert "--resume" in str(error)
    assert times > 5 and Path("cut/deploy.caffemodel").read_bytes() == expected


def test_only_one_process_works_on_a_flow(monkeypatch):
    fcntl = pytest.importorskip("fcntl", reason="locks of POSIX")

    def busy(handle, how):
        raise BlockingIOError

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", busy)
        with pytest.raises(FlowError, match="flow.out: another process is at work on this flow"):
            finetune(flow_of(), trainer=Pretender())
    assert finetune(flow_of(), resume=True, trainer=Pretender())["layers"]


def test_a_finished_flow_has_nothing_left_to_do():
    report = finetune(flow_of(), trainer=Pretender())
    before = tree(Path("flow.out"))
    assert finetune(flow_of(), resume=True, trainer=None) == report
    assert tree(Path("flow.out")) == before


def test_going_on_refuses_what_has_changed():
    with pytest.raises(FlowError):
        finetune(flow_of(), trainer=Pretender(endings={1: "interrupted"}))
    with pytest.raises(FlowError, match="a flow was begun here; go on with it with --resume"):
        finetune(flow_of(), trainer=Pretender())
    with pytest.raises(FlowError, match="changed since: field train, field seed; put that back"):
        changed = {"iterations: 4": "iterations: 5"}
        finetune(flow_of("seed: 1", **changed), resume=True, trainer=Pretender())
    with np.load("test.npz") as held:
        np.savez("test.npz", images=held["images"] + 1, labels=held["labels"])
    Path("solver.prototxt").write_text(Path("solver.prototxt").read_text() + "# more\n")
    with pytest.raises(FlowError) as caught:
        finetune(flow_of(), resume=True, trainer=Pretender())
    assert "solver of train (solver.prototxt), images of evaluate (test.npz)" in str(caught.value)


def test_where_a_flow_cannot_be_begun_or_gone_on_with():
    with pytest.raises(FlowError, match="journal.json: no such file, so no flow was begun"):
        finetune(flow_of(), resume=True, trainer=Pretender())
    Path("flow.out").mkdir()
    Path("flow.out/mine.txt").write_text("mine")
    with pytest.raises(FlowError, match="flow.out: is not empty"):
        finetune(flow_of(), trainer=Pretender())
    Path("flow.out/journal.json").write_text("{")
    with pytest.raises(FlowError, match="cannot be read as the journal of a flow"):
        finetune(flow_of(), resume=True, trainer=Pretender())
    Path("plan.prototxt").write_bytes(Path("deploy.prototxt").read_bytes())
    with pytest.raises(FlowError, match="plan.prototxt is the name of more than one file"):
        finetune(flow_of(**{'"deploy.prototxt"': '"plan.prototxt"'}), "p", trainer=Pretender())


def test_relative_paths_of_data_stay_true_in_a_copy(folder, monkeypatch):
    text = Path("train_val.prototxt").read_text()
    mean = 'width: 8 } transform_param { mean_file: "mean.npy" } }'
    Path("train_val.prototxt").write_text(text.replace("width: 8 } }", mean, 1))
    np.save("mean.npy", np.zeros(3))
    assert 'mean_file: "mean.npy"' in at_home(read_net("train_val.prototxt"), Path("."))
    Path("below").mkdir()
    monkeypatch.chdir("below")
    found = at_home(read_net("../train_val.prototxt"), Path(".."))
    assert f'mean_file: "{folder / "mean.npy"}"' in found


def test_a_batch_of_its_own_is_set_in_a_copy():
    pretender = Pretender()
    changes = {"iterations: 4": "epochs: 2 batch: 15"}
    finetune(flow_of("keep_steps: true", **changes), trainer=pretender)
    assert [solver.max_iter for solver in pretender.solvers] == [8] * 4
    assert "batch_size: 15" in Path("flow.out/steps/03-train.work/train_val.prototxt").read_text()
    assert "batch_size: 15" not in Path("flow.out/train_val.prototxt").read_text()


def test_recipes_become_solvers_for_the_epochs_of_each_training():
    pretender = Pretender()
    text = FLOW.replace(
        'train { solver: "solver.prototxt" iterations: 4 snapshot: 2 }',
        'train { recipe: "etri" epochs: 2 } group { layers: "conv*" train { base_lr: 0.002 '
        "batch: 30 iterations: 7 } }",
    )
    finetune(parse_flow(text, "flow.prototxt"), trainer=pretender)
    made = pretender.solvers
    assert [one.base_lr for one in made] == pytest.approx([0.002, 0.001, 0.001])
    assert [(one.stepsize, one.max_iter, one.snapshot) for one in made] == (
        [(10, 7, 1)] + [(30, 12, 2)] * 2
    )
    assert {(one.lr_policy, one.momentum) for one in pretender.solvers} == {("step", 0.9)}


@pytest.mark.parametrize("name, iterations", [("caffe", 6), ("torch", 12)])
def test_epochs_are_counted_by_the_images_of_all_gpus(name, iterations):
    pretender = Pretender(name)
    asked = 'trainer { name: "torch" gpu: 0 gpu: 1 } layers: "conv1"'
    flow = flow_of(asked, **{"iterations: 4": "epochs: 2"})
    finetune(flow, trainer=pretender)
    assert [solver.max_iter for solver in pretender.solvers] == [iterations]


def test_nets_are_evaluated_on_the_data_layers_own_images():
    text = FLOW.replace('evaluate { images: "test.npz" }', "")
    given = parse_flow(text + 'data { phase: TEST source: "test.npz" }', "flow.prototxt")
    assert (
        finetune(given, trainer=Pretender())["before"]
        == (finetune(flow_of(), "other", trainer=Pretender())["before"])
    )
    with pytest.raises(DataError, match="train_val.prototxt: has no layer with data of its own"):
        finetune(parse_flow(text, "flow.prototxt"), "third", trainer=Pretender())


def test_sensitivity_cuts_and_trains_each_layer_alone(monkeypatch):
    scores = {"conv1": 0.85, "conv2": 0.6, "fc3": 0.95, "fc4": 0.88}

    def evaluate(flow, model, progress=None):
        names = {layer.name for layer in model.net.layers}
        gone = [name for name in scores if name not in names]
        return {"top1": scores[gone[0]] if gone else 0.9}

    monkeypatch.setattr(run.evaluation, "evaluate", evaluate)
    pretender = Pretender()
    losses = sensitivity(flow_of("budget { macs: 0.1 }"), "losses.json", rank=3, trainer=pretender)
    assert losses == pytest.approx({"conv1": 0.05, "conv2": 0.3, "fc3": 0, "fc4": 0.02})
    assert json.loads(Path("losses.json").read_text()) == losses
    assert len(pretender.jobs) == 4
    assert sensitivity(flow_of("budget { macs: 0.1 }"), "again.json", trainer=None) == losses
    model = caffesurgery.load("deploy.prototxt", "deploy.caffemodel")
    planned = caffesurgery.plan(
        model, "cp", "sensitivity:average=6,fc=4,losses=losses.json", allow_growth=True
    )
    ranks = {entry.name: entry.ranks[0] for entry in planned.layers}
    assert ranks["conv2"] > ranks["conv1"]


def test_a_net_with_its_own_data_needs_no_deploy_and_no_images():
    h5py = pytest.importorskip("h5py", reason="data in HDF5 need the extra")
    text = Path("train_val.prototxt").read_text()
    for phase in ("train", "test"):
        with np.load(f"{phase}.npz") as held, h5py.File(f"{phase}.h5", "w") as file:
            file["data"], file["label"] = held["images"], held["labels"].astype(np.float32)
        Path(f"{phase}.txt").write_text(f"{phase}.h5\n")
        memory = f"memory_data_param {{ batch_size: {10 if phase == 'train' else 20} channels: 3 "
        memory += "height: 8 width: 8 }"
        assert memory in text
        source = f'hdf5_data_param {{ source: "{phase}.txt" batch_size: 10 }}'
        text = text.replace(memory, source).replace('"MemoryData"', '"HDF5Data"')
    Path("train_val.prototxt").write_text(text)
    own = FLOW.replace('data { phase: TRAIN source: "train.npz" }\n', "")
    own = own.replace('evaluate { images: "test.npz" }\n', "")
    with_deploy = finetune(parse_flow(own, "flow.prototxt"), trainer=Pretender())
    alone = parse_flow(own.replace('deploy: "deploy.prototxt"\n', ""), "flow.prototxt")
    report = finetune(alone, "alone", trainer=Pretender())
    for moment in ("before", "after"):
        assert report[moment] == pytest.approx(with_deploy[moment], rel=1e-5)
    assert not Path("alone/deploy.prototxt").exists()
