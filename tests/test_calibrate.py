"""compress --calibrate: the command and the Python call, on a tiny net as users have it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from calibrated import BLOCK, images
from nets import write_net
from tiny import D, W, _tiny_net, succeed, tiny  # noqa: F401

import caffesurgery
from caffesurgery.errors import DataError, NetError, PlanError, RankError, UsageError

SPATIAL = ("--method", "spatial", "--ranks", "ratio=0.5")


@pytest.fixture
def pictures(tiny):  # noqa: F811
    """40 images for the tiny net, in a file."""
    array = images(40, shape=(3, 16, 16))
    np.save("images.npy", array)
    return array


def test_the_command_fits_the_net_and_says_what_it_brought(pictures):
    told = succeed("compress", D, W, *SPATIAL, "--calibrate", "images.npy", "-o", "a", "--no-onnx",
                   "--format", "json").json["calibration"]  # fmt: skip
    assert (told["images"], told["held_out"]) == (32, 8)
    names = [stage["name"] for stage in told["stages"]]
    assert names[0] == "plain" and names[-3:] == ["refit", "statistics", "polish"]
    assert told["kept"] == min(s["divergence"] for s in told["stages"]) < 0.8 * told["plain"]
    assert {layer["name"] for layer in told["layers"]} >= {"conv1", "conv2"}
    assert 'made_from { name: "images.npy"' in open("a/plan.prototxt").read()
    table = succeed("compress", D, W, *SPATIAL, "--calibrate", "images.npy", "-o", "b").out
    assert "calibrated with 32 images" in table and "refit" in table


def test_the_same_seed_gives_the_same_weights_and_another_one_others(pictures):
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        succeed("compress", D, W, *SPATIAL, "--calibrate", "images.npy", "--calibration-images", 24,
                "--seed", seed, "-o", folder, "--no-onnx")  # fmt: skip
    one, same, other = (open(f"{folder}/{W}", "rb").read() for folder in "abc")
    assert one == same != other


def test_what_was_written_is_what_was_measured(pictures):
    model = caffesurgery.load(D, W)
    report = caffesurgery.compress(
        model, "out", "spatial", "ratio=0.5", calibrate=pictures, onnx=False
    )
    smaller = caffesurgery.load(f"out/{D}", f"out/{W}")
    count = len(pictures)
    held = pictures[np.random.default_rng([0, count]).permutation(count)[:8]]
    old, new = (
        np.concatenate([caffesurgery.run(net, {"data": pair})["prob"] for pair in held.reshape(
            4, 2, *held.shape[1:])]) for net in (model, smaller))  # fmt: skip
    divergence = float((old * np.log(old / new)).sum(1).mean())
    assert divergence == pytest.approx(report["calibration"]["kept"], rel=1e-3)


def test_batch_norms_come_into_the_caffemodel_and_the_report(tmp_path):
    net, weights = write_net(tmp_path / "net", BLOCK)
    model = caffesurgery.load(net, weights)
    levers = ("refit", "statistics")
    given = caffesurgery.Calibrator(images(60), levers=levers, memory=1 << 16)
    out = tmp_path / "out"
    report = caffesurgery.compress(model, out, "spatial", "ratio=0.4", calibrate=given, onnx=False)
    stages = {stage["name"]: stage for stage in report["calibration"]["stages"]}
    assert list(stages) == ["plain", "refit", "statistics"]
    assert report["calibration"]["spilled_bytes"] > 0
    written = caffesurgery.load(out / net.name, out / weights.name).weights
    changed = any(
        not np.array_equal(a.array(), b.array())
        for a, b in zip(model.weights.blobs("norm2"), written.blobs("norm2"))
    )
    assert changed == stages["statistics"]["kept"]


def test_never_worse_even_where_the_images_are_noise(tiny):  # noqa: F811
    noise = np.random.default_rng(0).standard_normal((20, 3, 16, 16)).astype(np.float32)
    report = caffesurgery.compress(
        caffesurgery.load(D, W), "out", "cp", "ratio=0.5", calibrate=noise, onnx=False
    )
    assert report["calibration"]["kept"] <= report["calibration"]["plain"]


def test_an_interrupt_leaves_nothing_behind(pictures, tmp_path, monkeypatch):
    spill = tmp_path / "spill"
    spill.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spill))
    given = caffesurgery.Calibrator(pictures, memory=1000)

    def interrupt(stage, item, share):
        if stage == "refit" and share > 0.5:
            assert list(spill.rglob("*.npy"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caffesurgery.compress(
            caffesurgery.load(D, W), "out", "cp", calibrate=given, onnx=False, progress=interrupt
        )
    assert not list(spill.iterdir()) and not Path("out").exists()


def test_a_net_with_labels_is_calibrated_without_them(pictures):
    shape = {"data": (3, 16, 16)}
    model = caffesurgery.load("train_val.prototxt", W, inputs=shape)
    report = caffesurgery.compress(
        model, "out", "spatial", "ratio=0.5", calibrate=pictures, onnx=False
    )
    assert report["calibration"]["measure"] == "fc4 (scores)"


def test_a_net_that_takes_one_number_of_images_only_is_given_that(tmp_path):
    text = BLOCK.replace("shape { dim: 1", "shape { dim: 6").replace(
        'layer { name: "prob" type: "Softmax" bottom: "fc"',
        'layer { name: "fixed" type: "Reshape" bottom: "fc" top: "fixed" reshape_param { '
        'shape { dim: 6 dim: 5 } } }\nlayer { name: "prob" type: "Softmax" bottom: "fixed"',
    )
    model = caffesurgery.load(*write_net(tmp_path / "net", text))
    given = ("spatial", "ratio=0.4")
    told = caffesurgery.compress(model, tmp_path / "out", *given, calibrate=images(40), onnx=False)[
        "calibration"
    ]
    assert (told["images"], told["held_out"]) == (30, 6) and told["kept"] < told["plain"]
    with pytest.raises(DataError, match="6 images at a time.*at least 30 images"):
        caffesurgery.compress(model, tmp_path / "o", *given, calibrate=images(20), onnx=False)


def test_what_cannot_be_is_refused(pictures, tmp_path):
    with pytest.raises(DataError, match="9 images to calibrate with; expected at least 16"):
        caffesurgery.Calibrator(pictures[:9])
    with pytest.raises(UsageError, match="unknown lever 'magic'"):
        caffesurgery.Calibrator(pictures, levers=("magic",))
    model = caffesurgery.load(D, W)
    with pytest.raises(DataError, match="resize them"):
        caffesurgery.compress(model, "o", "cp", calibrate=images(20, shape=(3, 12, 12)))
    vectors = 'input: "x" input_dim: 1 input_dim: 4 input_dim: 1 input_dim: 1 input: "y" ' \
        'input_dim: 1 input_dim: 4 input_dim: 1 input_dim: 1\n' \
        'layer { name: "s" type: "Eltwise" bottom: "x" bottom: "y" top: "s" }\n' \
        'layer { name: "fc" type: "InnerProduct" bottom: "s" top: "fc" ' \
        'inner_product_param { num_output: 4 } }'  # fmt: skip
    two = caffesurgery.load(*write_net(tmp_path / "two", vectors))
    with pytest.raises(NetError, match="one input N x C x H x W; this one has x, y"):
        caffesurgery.compress(two, tmp_path / "o", "svd", "fc=2", calibrate=images(20))


@pytest.mark.parametrize("method", ["spatial", "channel", "svd", "tucker2", "cp3"])
@pytest.mark.parametrize("kind", ["conv", "inner_product", "resblock"])
def test_golden_nets_stay_at_full_ranks_and_are_never_worse_with_fewer(
    shared, tmp_path, kind, method
):
    tried = 0
    for folder in sorted(shared("golden").glob(f"{kind}_*"))[:10]:
        model = caffesurgery.load(folder / "net.prototxt", folder / "net.caffemodel")
        shapes = [entry.tops[0] for entry in model.shapes.layers if not entry.bottoms]
        if len(shapes) != 1 or len(shapes[0]) != 4:
            continue
        seen = images(20, shape=shapes[0][1:])
        for rule in ("*=max", "ratio=0.4"):
            report = _golden(model, tmp_path / f"{folder.name}{rule[0]}", method, rule, seen)
            if report is None:
                continue
            tried += 1
            assert report["kept"] <= report["plain"]
            assert report["kept"] < 1e-8 or rule != "*=max", (folder.name, report["stages"])
    assert tried or (kind, method) in NOT_FOR


NOT_FOR = {("inner_product", "channel"), ("inner_product", "spatial"), ("inner_product", "cp3"),
           ("conv", "svd"), ("resblock", "svd")}  # fmt: skip


def _golden(model, out, method: str, rule: str, seen):
    try:
        return caffesurgery.compress(
            model, out, method, rule, calibrate=seen, onnx=False, allow_growth=True, jobs=1
        )["calibration"]
    except (PlanError, RankError):  # no layer that this method takes
        return None
