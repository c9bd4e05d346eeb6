"""What commands do and leave: files, chosen layers, plans, restoring, comparing, the zoo."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from nets import write_net
from tiny import CP, DEPLOY, PLAN, D, W, _tiny_net, run, succeed, tiny, tree  # noqa: F401

from caffesurgery.cli.commands import cli
from caffesurgery.files import caffemodel
from caffesurgery.net.net import read_net

pytestmark = pytest.mark.usefixtures("tiny")


# -- the files that are left


def test_compress_leaves_exactly_the_documented_files(tiny):  # noqa: F811
    before = tree(tiny)
    also = ("--also", "train_val.prototxt")
    succeed("compress", D, W, *CP, *also, "-o", "deep/er/out")
    after = tree(tiny)
    made = {name for name in after if name not in before}
    assert made == {"deep", "deep/er", "deep/er/out"} | {
        f"deep/er/out/{name}"
        for name in (D, W, "train_val.prototxt", "net.onnx", "plan.prototxt", "report.json")
    }
    assert {name: after[name] for name in before} == before
    assert Path("deep/er/out").stat().st_mode == Path("deep").stat().st_mode


def test_no_onnx_leaves_it_out_and_compares_nothing():
    out = ("--no-onnx", "-o", "o", "--format", "json")
    report = succeed("compress", D, W, *CP, *out).json
    assert report["comparison"] is None
    assert set(os.listdir("o")) == {D, W, "plan.prototxt", "report.json"}


def test_also_is_rewritten_in_the_same_way():
    succeed("compress", D, W, *CP, "--no-onnx", "--also", "train_val.prototxt", "-o", "o")
    rewritten, deploy = read_net("o/train_val.prototxt"), read_net(f"o/{D}")
    chain = ["conv2_s", "conv2_dd", "conv2_t"]
    for net in (rewritten, deploy):
        assert [layer.name for layer in net.layers if layer.name.startswith("conv2")] == chain
    text, old = (Path(folder, "train_val.prototxt").read_text() for folder in ("o", "."))
    assert text.startswith(old[: old.index("layer {\n")])
    assert text.endswith(old[old.index('layer { name: "accuracy"') :])
    shape = ("--input", "data=3,16,16")
    succeed("inspect", "o/train_val.prototxt", f"o/{W}", *shape, "--phase", "train")


def test_a_train_val_can_be_compressed_itself():
    shape = ("--input", "data=3,16,16")
    succeed("compress", "train_val.prototxt", W, *CP, *shape, "-o", "o")
    assert set(os.listdir("o")) == {
        "train_val.prototxt", W, "net.onnx", "plan.prototxt", "report.json"
    }  # fmt: skip


def test_nothing_is_overwritten_without_force(tiny):  # noqa: F811
    commands = (
        ("plan", D, W, *CP, "-o", "plan.prototxt"),
        ("apply", D, W, "edited.prototxt", "-o", "a"),
        ("compress", D, W, *CP, "-o", "b"),
        ("restore", f"b/{D}", f"b/{W}", "-o", "c"),
        ("export", D, W, "-o", "net.onnx"),
        ("zoo", "write", "lenet", "-o", "z"),
    )
    for command in commands:
        succeed(*command)
    before = tree(tiny)
    for command in commands:
        done = run(*command)
        assert done.code == 1 and "already there" in done.err and "--force" in done.err
        assert done.out == ""
    assert tree(tiny) == before
    Path("b", "mine.txt").write_text("kept")
    for command in commands:
        succeed(*command, "--force")
    assert tree(tiny) == {**before, "b/mine.txt": b"kept"}


def test_force_replaces_the_inputs_themselves():
    succeed("compress", D, W, *CP, "--no-onnx", "-o", "apart")
    succeed("compress", D, W, *CP, "--no-onnx", "-o", ".", "--force")
    for name in (D, W, "plan.prototxt"):
        assert Path(name).read_bytes() == Path("apart", name).read_bytes()


def test_two_runs_give_the_same_bytes():
    also = ("--also", "train_val.prototxt", "--seed", "3")
    for folder in ("one", "two"):
        succeed("compress", D, W, *CP, *also, "-o", folder)
    assert tree(Path("one")) == tree(Path("two"))
    for folder in ("z1", "z2", "z3"):
        succeed("zoo", "write", "lenet", "-o", folder, "--seed", len(folder + folder[1:]))
    assert tree(Path("z1")) == tree(Path("z2"))


# -- what is decomposed


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("conv1", ["conv1"]),
        ("conv*", ["conv1", "conv2"]),
        ("fc4, conv2", ["conv2", "fc4"]),
        ("*[13]", ["conv1", "fc3"]),
        ("*", ["conv1", "conv2", "fc3", "fc4"]),
    ],
)
def test_layers_takes_names_and_patterns(pattern, names):
    form = ("--layers", pattern, "-o", "p", "--format", "json")
    report = succeed("plan", D, W, *CP, *form).json
    assert [layer["name"] for layer in report["layers"]] == names


def test_layers_that_would_grow_are_left_alone_unless_allowed():
    form = ("--method", "cp", "--ranks", "conv1=6,conv2=max", "--format", "json", "--no-onnx")
    small = succeed("compress", D, W, *form, "-o", "a").json
    assert [layer["name"] for layer in small["layers"]] == ["conv1"]
    kept = {one["name"]: one["why"] for one in small["kept"]}
    assert "times its MACs" in kept["conv2"] and "no rank given" in kept["fc3"]
    grown = succeed("compress", D, W, *form, "-o", "b", "--allow-growth").json
    assert [layer["name"] for layer in grown["layers"]] == ["conv1", "conv2"]
    assert grown["totals"]["new_macs"] > grown["totals"]["macs"]


def test_a_plan_edited_by_hand_is_carried_out():
    succeed("plan", D, W, *CP, "-o", "plan.prototxt")
    text = Path("plan.prototxt").read_text()
    edited = re.sub(r'(?s)("conv2"\n  method: )"cp3"\n  rank: \d+', r'\1"spatial"\n  rank: 4', text)
    edited = re.sub(r'(?s)layer \{\n  name: "fc4".*?\n\}\n', "# not fc4\n", edited)
    assert edited != text
    Path("plan.prototxt").write_text(edited)
    report = succeed("apply", D, W, "plan.prototxt", "-o", "o", "--format", "json").json
    done = {layer["name"]: (layer["method"], layer["ranks"]) for layer in report["layers"]}
    assert list(done) == ["conv1", "conv2", "fc3"] and done["conv2"] == ("spatial", {"rank": 4})
    assert set(os.listdir("o")) == {D, W, "plan.prototxt"}
    assert "conv2_v" in caffemodel.read(f"o/{W}") and "fc4" in caffemodel.read(f"o/{W}")


def test_apply_does_what_compress_planned():
    succeed("compress", D, W, *CP, "-o", "a", "--no-onnx")
    succeed("apply", D, W, "a/plan.prototxt", "-o", "b")
    for name in (D, W):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()


@pytest.mark.parametrize("method", ["cp", "tucker2", "spatial"])
def test_restore_gives_a_net_that_computes_the_same(method):
    rule = ("--method", method, "--ranks", "ratio=0.5", "--no-onnx")
    succeed("compress", D, W, *rule, "-o", "small")
    small, dense = (("/".join(pair) for pair in ((f, D), (f, W))) for f in ("small", "dense"))
    small, dense = list(small), list(dense)
    succeed("restore", *small, "-o", "dense")
    assert [layer.name for layer in read_net(dense[0]).layers] == [
        layer.name for layer in read_net(D).layers
    ]
    found = succeed("compare", *small, *dense, "--format", "json").json
    assert found["blobs"][0]["relative"] < 1e-4
    assert succeed("compare", D, W, *dense, "--format", "json").json["blobs"][0]["relative"] > 1e-3


def test_compare_counts_the_accuracy_of_both_nets():
    succeed("compress", D, W, *CP, "-o", "o", "--no-onnx")
    images = np.random.default_rng(0).integers(0, 255, (20, 3, 20, 20), np.uint8)
    np.savez("set.npz", images=images, labels=np.arange(20) % 10)
    prepare = ("--mean", "100,110,120", "--scale", "0.01", "--bgr", "--crop")
    given = ("--images", "set.npz", *prepare, "--blob", "prob", "--blob", "conv2")
    nets = (D, W, f"o/{D}", f"o/{W}")
    found = succeed("compare", *nets, *given, "--format", "json").json
    assert found["images"] == 20 and set(found["accuracy"]) == {"first", "second"}
    assert set(found["accuracy"]["first"]) == {"top1", "top5"}
    assert [blob["name"] for blob in found["blobs"]] == ["prob", "conv2"]
    table = succeed("compare", *nets, *given).out
    assert re.search(r"first: top1 \d\.\d+, top5 \d\.\d+\n  second: top1", table)


def test_compare_says_that_outputs_are_not_finite():
    np.save("nan.npy", np.full((8, 3, 16, 16), np.nan, np.float32))
    table = succeed("compare", D, W, D, W, "--images", "nan.npy").out
    assert "prob: NaN or infinite values: 80 in the first net, 80 in the second" in table


def test_layers_that_share_weights_take_the_ranks_of_either():
    blob = "input_shape { dim: 1 dim: 8 dim: 9 dim: 9 }"
    layers = "".join(
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
        'param { name: "w" } convolution_param { num_output: 8 kernel_size: 3 bias_term: false } }'
        for name, bottom in (("left", "a"), ("right", "b"))
    )
    net = write_net(Path("."), f'input: "a" {blob} input: "b" {blob} {layers}', "twin")
    form = ("--method", "cp", "--ranks", "right=5", "--no-onnx", "--format", "json")
    report = succeed("compress", *net, *form, "-o", "o").json
    assert [(layer["name"], layer["ranks"]) for layer in report["layers"]] == [
        ("left", {"rank": 5}), ("right", {"rank": 5})
    ]  # fmt: skip


def test_names_in_any_encoding_go_through_the_whole_job():
    net = write_net(Path("."), DEPLOY.replace('"conv1"', '"卷积"').encode("gbk"), "gbk")
    succeed("compress", *net, *CP, "-o", "small", "--no-onnx")
    name = read_net(Path("small", net[0])).layers[1].name
    assert name.encode("utf-8", "surrogateescape") == "卷积_sdd".encode("gbk")
    succeed("apply", *net, "small/plan.prototxt", "-o", "again")
    assert Path("small", net[1]).read_bytes() == Path("again", net[1]).read_bytes()
    succeed("restore", *(Path("small", path) for path in net), "-o", "dense")
    assert [layer.name for layer in read_net(Path("dense", net[0])).layers] == [
        layer.name for layer in read_net(net[0]).layers
    ]


# -- zoo and demo


def test_zoo_write_prints_the_files_that_it_wrote():
    done = succeed("zoo", "write", "lenet", "-o", "z", "--seed", "5")
    paths = done.out.split()
    assert sorted(paths) == sorted(str(path) for path in Path("z").iterdir())
    weights = next(path for path in paths if path.endswith(".caffemodel"))
    succeed("inspect", "z/deploy.prototxt", weights)


def test_demo_goes_through_the_main_job(tiny, monkeypatch):  # noqa: F811
    from caffesurgery.cli import demo

    def small_zoo(name, folder, force=False, progress=None):
        assert name == "alexnet"
        write_net(folder, DEPLOY)
        (folder / W).rename(folder / "alexnet.caffemodel")
        (folder / "train_val.prototxt").write_bytes(Path("train_val.prototxt").read_bytes())

    monkeypatch.setattr(demo.zoo, "write", small_zoo)
    monkeypatch.setattr(demo, "RANKS", "conv1=6,conv2=10,fc3=4")
    before = tree(tiny)
    done = succeed("demo", "-o", "kept")
    assert "whole net" in done.out and "seconds." in done.out
    assert {D, "train_val.prototxt", "net.onnx"} <= set(os.listdir("kept/compressed"))
    assert [line[:20] for line in done.err.splitlines() if line.startswith("$")] == [
        "$ caffesurgery zoo w", "$ caffesurgery compr"
    ]  # fmt: skip
    assert "already there" in run("demo", "-o", "kept").err
    succeed("demo")
    assert {name for name in tree(tiny) if not name.startswith("kept")} == set(before)


def test_a_plan_holds_what_its_page_says():
    assert PLAN.startswith("version: 1")
    succeed("apply", D, W, "edited.prototxt", "-o", "o")


@pytest.mark.parametrize(
    "line, spread",
    [
        ("N W --also a b -o D", "N W --also a --also b -o D"),
        ("--also a N W -o D", "--also a N W -o D"),
        ("N W -o D --also a b c", "N W -o D --also a --also b --also c"),
        ("N W --force --also a", "N W --force --also a"),
        ("N --also a b W", "N --also a --also b W"),
    ],
)
def test_repeatable_options_take_several_values(line, spread):

    assert cli.commands["compress"]._spread(line.split()) == spread.split()
