"""Flow files: what they say, and what is said of those that say it wrong."""

from __future__ import annotations

import re

import pytest
from flows import FLOW, write_files

from caffesurgery.errors import FlowError, NetError
from caffesurgery.flow.flow import Images, Stop, TrainerChoice, Training
from caffesurgery.flow.read import parse_flow, read_flow


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_short_flow_has_the_schemas_defaults(folder):
    flow = read_flow("flow.prototxt")
    assert (flow.scheme, flow.every, flow.order, flow.freeze) == (
        "iterative",
        1,
        "in_order",
        "none",
    )
    assert (
        flow.every == 1 and flow.choose_ranks == "once" and flow.layers == ("*",) and flow.seed == 0
    )
    assert flow.train == Training("solver.prototxt", iterations=4, snapshot=2)
    assert flow.evaluate == Images("test.npz") and flow.metric == "top1"
    assert flow.stop == Stop() and flow.trainer == TrainerChoice() and flow.output == "flow.out"
    assert flow.nets == ("deploy.prototxt", "train_val.prototxt")
    assert parse_flow(FLOW + "scheme: two_pass").freeze == "decomposed"
    assert parse_flow(FLOW + "scheme: two_pass freeze: none").freeze == "none"


def test_a_long_flow_says_everything(folder):
    flow = parse_flow(
        FLOW.replace('train { solver: "solver.prototxt" iterations: 4', 'train { recipe: "etri"')
        .replace("snapshot: 2 }", "epochs: 1.5 batch: 8 images: 60 }")
        .replace('"test.npz"', '"test.npz" metric: "top5" samples: 20 scale: 0.5')
        + """scheme: hybrid  choose_ranks: each_step  layers: "conv*, fc3"  keep: "first"
        pin: "conv2=4" pin: "fc3=2" method_for: "fc*=svd"  high_effort: true  max_norm: 20
        group { layers: "conv1,conv2" train { base_lr: 0.001 } }  freeze: others
        budget { macs: 0.5 params: 1000 }  finish { epochs: 2 }  seed: 3  output: "there"
        trainer { name: "torch" gpu: 0 gpu: 1 processes: 2 mixed: true }
        stop { max_drop: 0.02 tries: 3 raise: 1.5 otherwise: end }  input { name: "x" dim: 3 }
        calibrate { images: "train.npz" samples: 50 }"""
    )
    assert flow.train == Training(recipe="etri", epochs=1.5, batch=8, images=60)
    assert flow.finish == Training(recipe="etri", epochs=2, batch=8, images=60)
    assert flow.groups[0].layers == ("conv1", "conv2")
    assert flow.groups[0].train == Training(base_lr=0.001)
    assert flow.layers == ("conv*", "fc3") and flow.pin == "conv2=4,fc3=2"
    assert flow.budget == (("macs", 0.5), ("params", 1000))
    assert flow.stop == Stop(None, 0.02, 3, 1.5, "end")
    assert flow.trainer == TrainerChoice("torch", "", (0, 1), 2, True)
    assert flow.evaluate == Images("test.npz", "", "top5", 20, scale=0.5)
    assert flow.calibrate == Images("train.npz", samples=50)
    assert flow.files()["images of calibrate"] == "train.npz"
    assert (flow.seed, flow.output, flow.inputs) == (3, "there", (("x", (3,)),))


def test_paths_are_beside_the_flow_or_here(folder, monkeypatch):
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    flow = read_flow("../flow.prototxt")
    assert flow.weights == "../deploy.caffemodel" and flow.output == "../flow.out"
    (folder / "deploy.caffemodel").rename(folder / "elsewhere" / "deploy.caffemodel")
    assert read_flow("../flow.prototxt").weights == "deploy.caffemodel"


WRONG = [
    ("method:", "methods:", r"f:5\S*: Flow has no field 'methods'; did you mean 'method'"),
    ('"cp"', '"cpp"', r"f:5\S*: .*unknown method 'cpp'; did you mean"),
    ('"ratio=0.7"', '"ratio=7"', r"f:6\S*: --ranks ratio=7"),
    ("iterations: 4", 'iterations: "4"', r"f:7\S*: iterations is .*expected a whole number"),
    ("iterations: 4", "iterations: -4", r"f:7\S*: iterations is -4, expected 0 or more"),
    ("iterations: 4", "iterations: 4 epochs: 1", r"f:7\S*: both epochs and iterations"),
    ('solver: "solver.prototxt"', "", r"f:7\S*: Training has neither solver nor recipe"),
    ('"solver.prototxt"', '"none"', r"f:7\S*: solver: there is no none"),
    ('solver: "solver.prototxt"', 'recipe: "etry"', "no recipe 'etry'; did you mean 'etri'"),
    ('solver: "solver.prototxt" iterations: 4', 'recipe: "etri"', "give epochs or iterations"),
    ('"test.npz"', '"test.npz" metric: "top2"', r"f:8\S*: no metric 'top2'"),
    ('"deploy.caffemodel"', '"gone"', r"f:3\S*: weights: there is no gone"),
    ('train_val: "train_val.prototxt"', "", r"Flow has no train_val"),
    ('method: "cp"', "", "Flow has no method, expected what --method"),
]  # fmt: skip
ADDED = [
    ("scheme: Iterative", "expected one of iterative, one_shot, hybrid, two_pass"),
    ("scheme: one_shot every: 2", "scheme one_shot cuts all at once; leave every out"),
    ("optimise { epochs: 1 }", "optimise is a part of scheme: two_pass only"),
    ('group { layers: "conv1" } every: 2', "both group and every"),
    ("every: 0", "every is 0, expected 1 or more"),
    ("stop { tries: 2 }", "Stop has neither floor nor max_drop"),
    ("stop { floor: 70 }", "floor is 70, expected 0 to 1"),
    ("stop { floor: 0.7 raise: 1 }", "raise is 1, expected more than 1"),
    ('trainer { name: "keras" }', "no trainer 'keras'; known: caffe, torch"),
    ("version: 2", "version 2, this program reads version 1"),
    ("budget { macs: 0 }", "macs is 0"),
    ("seed: -1", "seed is -1, expected 0 or more"),
    ("data { phase: TRAIN }", "Data has no source"),
    ('calibrate { images: "train.npz" metric: "top1" }', "metric: calibration looks at images"),
]


@pytest.mark.parametrize("old, new, says", WRONG, ids=[case[1][:20] for case in WRONG])
def test_what_is_wrong_is_said_with_its_line(folder, old, new, says):
    assert old in FLOW
    with pytest.raises((FlowError, NetError), match=says):
        parse_flow(FLOW.replace(old, new), "f")


@pytest.mark.parametrize("added, says", ADDED, ids=[case[0] for case in ADDED])
def test_what_does_not_go_together_is_refused(folder, added, says):
    with pytest.raises((FlowError, NetError), match=re.escape(says)) as caught:
        parse_flow(FLOW + added, "f")
    assert str(caught.value).startswith("f")


@pytest.mark.parametrize("name, what", [("solver", "a solver"), ("train_val", "a net or a plan")])
def test_other_files_are_no_flows(folder, name, what):
    with pytest.raises(FlowError, match=f"this is {what}, expected a flow"):
        read_flow(f"{name}.prototxt")
