"""`cost` and `calibrate`: what they print, what they say of what they do not know."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_timing import log_of
from timings import zoo
from tiny import BODY, CP, DEPLOY, D, W, _tiny_net, succeed, tiny  # noqa: F401

import caffesurgery
from caffesurgery.files.resources import resource
from caffesurgery.timing import load_profile, predict

pytestmark = pytest.mark.usefixtures("tiny")

REPORT = {"net", "file", "phase", "batch", "profile", "layers", "totals", "notes"}
LAYER = {"name", "type", "params", "macs", "bytes", "columns", "activations", "ms"}


def test_cost_prints_the_documented_json():
    found = succeed("cost", D, W, "--format", "json").json
    assert set(found) == REPORT and all(set(layer) == LAYER for layer in found["layers"])
    conv2 = next(layer for layer in found["layers"] if layer["name"] == "conv2")
    columns = 2 * 16 * 9 * 64
    assert conv2["columns"] == columns and conv2["activations"] == 4 * 2 * 24 * 64
    blobs = 2 * 16 * 64 + 2 * 24 * 64 + (24 * 8 * 9 + 24)
    assert conv2["bytes"] == 4 * (blobs + 2 * columns)
    inspected = succeed("inspect", D, W, "--format", "json").json
    for key in ("params", "macs"):
        assert found["totals"][key] == inspected["totals"][key]
    assert found["totals"]["unknown"] == 0
    assert found["totals"]["ms"] == pytest.approx(sum(one["ms"] for one in found["layers"]))
    assert found["profile"]["name"] == "caffe-cpu-avx512"
    assert "ms are those of profile caffe-cpu-avx512: caffe, 1 thread" in found["notes"][-1]


def test_more_images_cost_more_time_and_columns_but_no_more_macs():
    one, many = (
        succeed("cost", D, "--batch", n, "--format", "json").json["totals"] for n in (1, 256)
    )
    assert many["columns"] == 256 * one["columns"] and many["macs"] == one["macs"]
    assert 50 * one["ms"] < many["ms"] < 256 * one["ms"]


def test_vs_sets_chains_beside_what_they_replaced():
    succeed("compress", D, W, *CP, "-o", "small", "--no-onnx")
    found = succeed("cost", D, W, "--vs", f"small/{D}", "--format", "json").json
    by_name = {layer["name"]: layer for layer in found["layers"]}
    assert by_name["conv2"]["new_layers"] == ["conv2_s", "conv2_dd", "conv2_t"]
    assert by_name["relu2"]["new_layers"] == ["relu2"] and found["vs"]["only_second"] == []
    alone = succeed("cost", f"small/{D}", "--format", "json").json["totals"]
    assert found["vs"]["totals"] == alone
    assert alone["ms"] == pytest.approx(sum(one["new_ms"] for one in found["layers"]))
    ratio = found["totals"]["macs"] / alone["macs"]
    assert found["vs"]["times_smaller"]["macs"] == pytest.approx(ratio)
    table = succeed("cost", D, W, "--vs", f"small/{D}").out
    assert re.search(r"conv2 +_s _dd _t ", table)


def test_a_layer_of_an_unknown_type_is_counted_as_unknown():
    Path(D).write_text(DEPLOY.replace('"Pooling"', '"FancyPooling"'))
    found = succeed("cost", D, "--format", "json").json
    by_name = {layer["name"]: layer for layer in found["layers"]}
    assert by_name["pool2"]["ms"] is None and by_name["fc3"]["columns"] is None
    assert found["totals"]["unknown"] == sum(one["ms"] is None for one in found["layers"]) > 3
    (note,) = (note for note in found["notes"] if note.startswith("not in the total"))
    assert note.startswith(
        "not in the total, of unknown type, or behind one: pool2 (FancyPooling), fc3 (InnerProduct)"
    )
    assert re.search(r"^ pool2 .* \?$", succeed("cost", D).out, re.MULTILINE)


def test_layers_whose_time_is_not_in_their_shapes_are_named():
    train = "train_val.prototxt"
    found = succeed("cost", train, "--input", "data=3,16,16", "--format", "json").json
    note = next(note for note in found["notes"] if note.startswith("not in the total"))
    assert "whose time is its own: data (ImageData)" in note or "(Data)" in note


def test_a_profile_of_another_maker_is_used_and_its_gaps_are_told():
    terms = {"gemm": {"model": "linear", "ns": {"mac": 0.5}}}
    profile = {
        "format": "caffesurgery timing profile", "version": 1, "name": "phone", "runtime": "caffe",
        "machine": "a phone", "threads": 4, "terms": terms,
    }  # fmt: skip
    Path("phone.json").write_text(json.dumps(profile))
    found = succeed("cost", D, "--profile", "phone.json", "--format", "json").json
    by_name = {layer["name"]: layer for layer in found["layers"]}
    assert by_name["fc4"]["ms"] is None and by_name["relu3"]["ms"] is None
    notes = " ".join(found["notes"])
    assert "without a term in the profile: conv1 (Convolution)" in notes
    assert "phone: caffe, 4 thread(s), a phone" in notes
    terms["relu"] = {"model": "linear", "ns": {"element": 0.5}}
    Path("phone.json").write_text(json.dumps(profile))
    notes = succeed("cost", D, "--profile", "phone.json", "--format", "json").json["notes"]
    assert "the profile has no 'bias': counted at the speed of 'relu'" in notes


def test_the_same_from_python():
    model = caffesurgery.load(D, W)
    found = caffesurgery.estimate(model, load_profile())
    assert found == succeed("cost", D, W, "--format", "json").json
    assert caffesurgery.estimate(model, vs=model)["vs"]["times_smaller"]["ms"] == 1


def test_calibrate_makes_a_profile_from_caffe_s_log():
    shapes = zoo("googlenet")
    names = [entry.layer.name for entry in shapes.layers]
    times = {n: 2 * one.ms for n, one in zip(names, predict(shapes, load_profile()))}
    text = shapes.net.doc.text.replace("dim: 10", "dim: 1")
    Path("time.log").write_text(log_of(shapes, text, times))
    made = ("calibrate", "-o", "mine.json", "--from-caffe-log", "time.log", "--machine", "a board")
    report = succeed(*made, "--threads", 2, "--format", "json").json
    assert report["machine"] == "a board" and report["threads"] == 2 and report["name"] == "mine"
    assert abs(report["fit"]["total_error"]) < 0.02
    net = str(resource("models", "googlenet", "deploy.prototxt"))
    found = succeed("cost", net, "--batch", 1, "--profile", "mine.json", "--format", "json").json
    assert found["totals"]["ms"] == pytest.approx(sum(times.values()), rel=0.02)
    table = succeed(*made, "--force").out
    assert "mine" in table and "im2col" in table


def test_calibrate_measures_this_machine():
    report = succeed("calibrate", "-o", "here.json", "--quick", "--format", "json").json
    assert report["runtime"] == "caffesurgery" and report["threads"] == 1
    assert report["fit"]["layers"] > 60 and report["fit"]["order"] > 0.9
    profile = load_profile("here.json")
    assert {"gemm", "thin", "gemv", "im2col", "max_pool", "lrn", "relu", "softmax"} <= set(
        profile.terms
    )
    found = succeed("cost", D, "--profile", "here.json", "--format", "json").json
    assert found["totals"]["unknown"] == 0 and 0 < found["totals"]["ms"] < 100


def test_calibrate_measures_onnxruntime():
    done = ("--runtime", "onnxruntime", "--quick", "--format", "json")
    report = succeed("calibrate", "-o", "here.json", *done).json
    assert report["runtime"] == "onnxruntime" and report["fit"]["order"] > 0.8
    assert {"conv", "depthwise", "ragged", "gemm", "gemv"} <= set(load_profile("here.json").terms)
    found = succeed("cost", D, "--profile", "here.json", "--format", "json").json
    by_name = {layer["name"]: layer["ms"] for layer in found["layers"]}
    assert by_name["relu1"] == 0 and by_name["conv1"] > 0  # done with the convolution


def test_every_key_of_the_reports_of_cost_is_documented():
    Path("net.prototxt").write_text(DEPLOY)
    assert BODY in DEPLOY
    report = succeed("cost", D, W, "--vs", "net.prototxt", "--format", "json").json
    documented = set(re.findall(r"`(\w+)`", resource("docs", "json.md").read_text("utf-8")))
    for part in (report, report["layers"][0], report["totals"], report["profile"], report["vs"]):
        assert set(part) <= documented, set(part) - documented
    assert set(report["profile"]["fit"]) <= documented
