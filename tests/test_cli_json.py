"""The JSON of the command line: every documented key is there, and every key is documented."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tiny import CP, DEPLOY, D, W, _tiny_net, succeed, tiny  # noqa: F401

from caffesurgery.files.resources import resource

pytestmark = pytest.mark.usefixtures("tiny")

INSPECT = {"net", "file", "phase", "batch", "inputs", "layers", "totals", "notes"}
LAYER = {"name", "type", "params", "macs"}
INSPECT_LAYER = LAYER | {"line", "bottoms", "tops", "shapes", "blobs"}
PLANNED = {"net", "method", "ranks", "layers", "kept", "totals", "notes"}
PLANNED_LAYER = LAYER | {"method", "ranks", "new_params", "new_macs"}
DONE_LAYER = PLANNED_LAYER | {"error", "new_layers"}
TOTALS = {"params", "macs", "new_params", "new_macs"}
COMPARE = {"images", "source", "blobs", "accuracy"}
BLOB = {"name", "shape", "max_abs", "relative", "frobenius", "agreement"}
EXPORT = {
    "path", "opset", "inputs", "outputs", "nodes", "parameters", "bytes", "dynamic_batch",
    "fixed_because", "left_out", "unused", "data", "custom",
}  # fmt: skip


def test_inspect_prints_the_documented_json():
    found = succeed("inspect", D, W, "--format", "json").json
    assert INSPECT <= set(found)
    assert all(INSPECT_LAYER <= set(layer) for layer in found["layers"])
    by_name = {layer["name"]: layer for layer in found["layers"]}
    assert by_name["conv2"] == {
        "name": "conv2", "type": "Convolution", "line": 15, "bottoms": ["conv1"],
        "tops": ["conv2"], "shapes": [[2, 24, 8, 8]], "blobs": [[24, 8, 3, 3], [24]],
        "params": 24 * 8 * 9 + 24, "macs": 24 * 8 * 9 * 64,
    }  # fmt: skip
    assert found["inputs"] == {"data": [2, 3, 16, 16]} and found["batch"] == 2
    assert found["totals"] == {
        key: sum(layer[key] for layer in found["layers"]) for key in ("params", "macs")
    }


def test_inspect_takes_phase_batch_and_input():
    shape = ("--input", "data=3,16,16", "--format", "json")
    test = succeed("inspect", "train_val.prototxt", W, *shape).json
    train = succeed("inspect", "train_val.prototxt", *shape, "--phase", "train").json
    assert (test["phase"], test["batch"]) == ("TEST", 4)
    assert (train["phase"], train["batch"]) == ("TRAIN", 8)
    assert {layer["type"] for layer in test["layers"]} - {"Accuracy"} == {
        layer["type"] for layer in train["layers"]
    }
    again = succeed("inspect", D, "--batch", 7, "--format", "json").json
    assert again["layers"][1]["shapes"] == [[7, 16, 8, 8]]
    assert again["totals"] == test["totals"]


def test_plan_apply_and_compress_print_the_documented_json():
    planned = succeed("plan", D, W, *CP, "-o", "plan.prototxt", "--format", "json").json
    applied = succeed("apply", D, W, "plan.prototxt", "-o", "a", "--format", "json").json
    compressed = succeed("compress", D, W, *CP, "-o", "b", "--format", "json").json
    for report, keys in (
        (planned, PLANNED_LAYER | {"why"}),
        (applied, DONE_LAYER),
        (compressed, DONE_LAYER),
    ):
        assert PLANNED <= set(report) and set(report["totals"]) == TOTALS
        assert report["method"] == "cp" and report["ranks"] == "ratio=0.5"
        assert [layer["name"] for layer in report["layers"]] == ["conv1", "conv2", "fc3", "fc4"]
        assert all(keys <= set(layer) for layer in report["layers"])
        assert report["totals"] == compressed["totals"]
    assert applied["layers"] == compressed["layers"]
    assert applied["layers"][1]["new_layers"] == ["conv2_s", "conv2_dd", "conv2_t"]
    assert COMPARE <= set(compressed["comparison"])
    assert compressed == json.loads(Path("b", "report.json").read_bytes())
    assert compressed["files"] == {
        path.name: path.stat().st_size
        for path in sorted(Path("b").iterdir())
        if path.name != "report.json"
    }


def test_totals_are_those_of_the_written_net():
    report = succeed("compress", D, W, *CP, "-o", "b", "--no-onnx", "--format", "json").json
    written = succeed("inspect", f"b/{D}", f"b/{W}", "--format", "json").json
    assert written["totals"] == {key: report["totals"][f"new_{key}"] for key in ("params", "macs")}


@pytest.mark.parametrize(
    "method, rule, layer, ranks",
    [
        ("cp3", "conv2=10", "conv2", {"rank": 10}),
        ("svd", "fc4=3", "fc4", {"rank": 3}),
        ("spatial", "conv2=6", "conv2", {"rank": 6}),
        ("channel", "conv2=4", "conv2", {"rank": 4}),
        ("tucker2", "conv2=4x6", "conv2", {"in": 4, "out": 6}),
        ("tucker2-cp", "conv2=4x6x8", "conv2", {"in": 4, "out": 6, "core": 8}),
        ("tucker1-in", "conv2=4", "conv2", {"in": 4}),
        ("tucker1-out", "conv2=6", "conv2", {"out": 6}),
        ("tucker2", "fc3=5x7", "fc3", {"in": 5, "out": 7}),
    ],
)
def test_ranks_are_named_as_documented(method, rule, layer, ranks):
    out = ("-o", "o", "--format", "json")
    report = succeed("compress", D, W, "--method", method, "--ranks", rule, "--no-onnx", *out).json
    assert [(one["name"], one["method"], one["ranks"]) for one in report["layers"]] == [
        (layer, method, ranks)
    ]


def test_ranks_and_explain_print_the_documented_json():
    rule = ("--method", "cp", "--rule", "enc-model:macs=0.5", "--keep", "first")
    found = succeed("ranks", D, W, *rule, "--format", "json").json
    assert set(found) == {"net", "method", "rule", "seed", "layers", "totals", "notes"}
    assert [layer["name"] for layer in found["layers"]] == ["conv1", "conv2", "fc3", "fc4"]
    first, *others = found["layers"]
    assert (first["method"], first["ranks"], first["why"]) == (None, None, "--keep first")
    assert sum(PLANNED_LAYER | {"measured", "why"} <= set(layer) for layer in others) >= 2
    assert found["totals"]["new_macs"] <= 0.5 * found["totals"]["macs"]
    wanted = ("plan", D, W, *CP, "-o", "explained.prototxt")
    planned = succeed(*wanted, "--explain", "--format", "json").json
    for layer in planned["layers"]:
        explain = layer["explain"]
        assert set(explain) == {"measured", "full", "lower", "here", "higher"}
        here = explain["here"]
        assert (here["ranks"], here["macs"]) == (list(layer["ranks"].values()), layer["new_macs"])
        steps = [explain[key] for key in ("lower", "here", "higher") if explain[key]]
        errors, macs = ([step[key] for step in steps] for key in ("least_error", "macs"))
        assert errors == sorted(errors, reverse=True) and macs == sorted(macs)
    assert "one higher" in succeed(*wanted, "--explain", "--force").out


def test_restore_export_compare_and_zoo_list_print_the_documented_json():
    succeed("compress", D, W, *CP, "-o", "small", "--no-onnx")
    small = ("small/" + D, "small/" + W)
    restored = succeed("restore", *small, "-o", "dense", "--format", "json").json
    assert {"net", "layers", "totals", "notes"} <= set(restored)
    assert restored["layers"][1]["from"] == ["conv2_s", "conv2_dd", "conv2_t"]
    assert all(LAYER | {"from", "new_params"} <= set(layer) for layer in restored["layers"])
    exported = succeed("export", D, W, "-o", "x.onnx", "--format", "json").json
    assert EXPORT <= set(exported)
    assert exported["inputs"] == {"data": ["batch", 3, 16, 16]}
    assert exported["bytes"] == Path("x.onnx").stat().st_size
    compared = succeed("compare", D, W, *small, "--format", "json").json
    assert COMPARE <= set(compared) and BLOB <= set(compared["blobs"][0])
    assert compared["accuracy"] == {}
    listed = succeed("zoo", "list", "--format", "json").json
    keys = {"name", "net", "input", "layers", "params", "macs"}
    assert all(keys <= set(net) for net in listed["nets"])
    assert {net["name"]: net["params"] for net in listed["nets"]}["alexnet"] == 60_965_224


def test_a_layer_of_an_unknown_type_is_carried_and_what_hangs_on_it_is_null():
    Path(D).write_text(DEPLOY.replace('"Pooling"', '"FancyPooling"'))
    found = succeed("inspect", D, W, "--format", "json").json
    by_name = {layer["name"]: layer for layer in found["layers"]}
    assert by_name["pool2"]["shapes"] == [None] and by_name["conv2"]["macs"] > 0
    assert by_name["fc3"]["blobs"] is None and by_name["fc3"]["macs"] is None
    (note,) = found["notes"]
    assert note.startswith("layer 'pool2' has the unknown type 'FancyPooling'")
    table = succeed("inspect", D, W).out
    assert re.search(r"^ fc3 +InnerProduct +unknown +\? +\?$", table, re.MULTILINE)
    report = succeed("compress", D, W, *CP, "-o", "o", "--format", "json").json
    assert [layer["name"] for layer in report["layers"]] == ["conv1", "conv2"]
    assert report["comparison"] is None and "net.onnx" not in report["files"]
    (note,) = report["notes"]
    assert note.startswith("no net.onnx, and nothing compared: o/deploy.prototxt:")


def test_every_json_key_is_documented():
    succeed("plan", D, W, *CP, "-o", "plan.prototxt")
    np.save("images.npy", np.random.default_rng(0).random((4, 3, 16, 16), np.float32))
    np.save("labels.npy", np.arange(4))
    form = ("--format", "json")
    labels = ("--images", "images.npy", "--labels", "labels.npy")
    np.save("pixels.npy", np.zeros((2, 3, 16, 16)))
    smaller = ("--int8", "--images", "pixels.npy", "--ort", "--check-mobile")
    reports = [
        succeed("inspect", D, W, *form).json,
        succeed("export", D, W, "-o", "small.onnx", *smaller, *form).json,
        succeed("bench", "small.onnx", "--runs", 1, "--loads", 1, *form).json,
        succeed("plan", D, W, *CP, "-o", "p", *form).json,
        succeed("compress", D, W, *CP, "-o", "small", *form).json,
        succeed("restore", "small/" + D, "small/" + W, "-o", "dense", *form).json,
        succeed("export", D, W, "-o", "x.onnx", *form).json,
        succeed("compare", D, W, "small/" + D, "small/" + W, *labels, *form).json,
        succeed("zoo", "list", *form).json,
        succeed("export", "--list-ops", *form).json,
    ]
    documented = set(re.findall(r"`(\w+)`", resource("docs", "json.md").read_text("utf-8")))
    documented |= {"rank", "in", "out"}
    names = {
        "files",
        "inputs",
        "outputs",
        "operators",
    }  # objects whose keys are names, not words of ours
    used: set[str] = set()

    def gather(value):
        for key, item in value.items() if isinstance(value, dict) else ():
            used.add(key)
            gather(item if key not in names else None)
        for item in value if isinstance(value, list) else ():
            gather(item)

    gather(reports)
    assert used <= documented, sorted(used - documented)


def test_json_names_in_any_encoding():
    Path(D).write_bytes(DEPLOY.replace('"conv1"', '"卷积"').encode("gbk"))
    found = succeed("inspect", D, "--format", "json").json
    name = found["layers"][1]["name"]
    assert name.encode("utf-8", "surrogateescape") == "卷积".encode("gbk")
    assert r"\udc" in succeed("inspect", D).out


def test_list_ops_takes_its_format_before_and_behind_it():
    before = succeed("export", "--format", "json", "--list-ops").json
    assert succeed("export", "--list-ops", "--format", "json").json == before
    types = {layer["type"] for layer in before["layers"]}
    assert types >= {"Convolution", "DetectionOutput"}
    assert "layer types" in succeed("export", "--list-ops").out


def test_methods_lists_every_scheme_and_policy():
    from caffesurgery.decompose import SCHEMES
    from caffesurgery.surgery.methods import known_methods

    listed = succeed("methods", "--format", "json").json
    by_name = {one["name"]: one for one in listed["methods"]}
    assert set(by_name) == set(SCHEMES)
    assert set(by_name) | {one["name"] for one in listed["policies"]} == set(known_methods())
    assert by_name["cp4-tpm"]["weights"] == "R*S/g + R*D + R*E + T*R/g"
    assert by_name["cp4-tpm"]["layers"][1] == {
        "suffix": "_v", "kernel": "D x 1", "depthwise": True
    }  # fmt: skip
    table = succeed("methods").out
    assert all(one["equations"] in table for one in listed["methods"])
    assert "paper 000, Algorithm 1" in table and "policy cp-als" in table
