"""Smaller forms, ORT format, accelerators and measurements of exported nets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import shared
from tiny import D, W, _tiny_net, run, succeed, tiny  # noqa: F401

import caffesurgery
from caffesurgery.errors import FileError, SurgeryError, VerifyError
from caffesurgery.export.reading import read_graph
from caffesurgery.verify.bench import bench, percentile
from caffesurgery.verify.frames import as_frames
from caffesurgery.verify.mobile import check_mobile

pytestmark = pytest.mark.usefixtures("tiny")

TRANSFORM = ("--preprocess", "--mean", "104,117,123", "--crop", "--resize", "20x20")


def images(count=6, side=20, channels=3, name="images.npz"):
    random = np.random.default_rng(0)
    made = random.integers(0, 256, (count, channels, side, side)).astype(np.uint8)
    np.savez(name, images=made, labels=random.integers(0, 10, count))
    return made


def infer(path, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def test_every_form_is_written_and_measured_against_float32():
    made = images()
    Path("names.txt").write_text("".join(f"class {i}\n" for i in range(10)))
    report = succeed(
        "export", D, W, "-o", "o/net.onnx", *TRANSFORM, "--labels", "names.txt", "--fp16", "--int8",
        "--images", "images.npz", "--ort", "--check-mobile", "--format", "json",
    ).json  # fmt: skip
    names = [f"net{kind}" for kind in ("", ".fp16", ".int8")]
    files = [name + suffix for name in names for suffix in (".onnx", ".ort")]
    assert set(report["files"]) == {*files, "net.required_operators.config"}
    assert set(report["files"]) == {path.name for path in Path("o").iterdir()}
    rows = {row["precision"]: row for row in report["variants"]}
    assert rows["float32"]["relative"] == 0
    assert 0 < rows["float16"]["relative"] < 2e-2 and 0 < rows["int8"]["relative"] < 0.5
    assert rows["float32"]["bytes"] > rows["float16"]["bytes"] > rows["int8"]["bytes"]
    assert all(row["bytes"] == Path(row["file"]).stat().st_size for row in rows.values())
    assert all(0 <= row["top1"] <= row["top5"] <= 1 for row in rows.values())
    frames = as_frames(made, "rgb")
    exact = infer("o/net.onnx", {"image": frames})[0]
    for name in files:
        assert np.abs(infer(f"o/{name}", {"image": frames})[0] - exact).max() < 0.2, name
    metadata = {e.key: e.value for e in onnx.load("o/net.int8.onnx").metadata_props}
    assert metadata["labels"].splitlines()[9] == "class 9"
    assert json.loads(metadata["outputs"]) == {"prob": {"classes": 10, "probabilities": True}}


def test_one_form_alone_is_the_file_that_was_named():
    report = succeed("export", D, W, "-o", "half.onnx", "--fp16", "--format", "json").json
    assert report["files"] == {"half.onnx": Path("half.onnx").stat().st_size}
    assert [row["file"] for row in report["variants"]] == [None, "half.onnx"]
    assert report["variants"][0]["top1"] is None
    types = {t.data_type for t in onnx.load("half.onnx").graph.initializer if len(t.dims) > 1}
    assert types == {onnx.TensorProto.FLOAT16}
    x = np.zeros((1, 3, 16, 16), np.float32)
    assert infer("half.onnx", {"data": x})[0].dtype == np.float32
    succeed("export", D, W, "-o", "ends.onnx", "--fp16", "--fp16-io")
    assert infer("ends.onnx", {"data": x.astype(np.float16)})[0].dtype == np.float16
    table = succeed("export", D, W, "-o", "half.onnx", "--fp16", "--force").out
    assert "float32     not kept" in table


def test_images_are_prepared_before_a_model_without_preprocessing_inside():
    images()
    given = ("--images", "images.npz", "--int8", "--format", "json")
    inside = succeed("export", D, W, "-o", "in.onnx", *TRANSFORM, *given).json["variants"][1]
    outside = succeed("export", D, W, "-o", "out.onnx", *TRANSFORM[1:], *given).json["variants"][1]
    assert inside["relative"] == pytest.approx(outside["relative"], rel=1e-3)
    assert inside["top1"] == outside["top1"]
    assert onnx.load("out.onnx").graph.input[0].name == "data"
    images(side=16)
    succeed("export", D, W, "-o", "raw.onnx", *given)


def test_weights_are_quantised_by_channel_and_softmax_is_not():
    images(side=16)
    succeed("export", D, W, "-o", "q.onnx", "--int8", "--images", "images.npz")
    graph = onnx.load("q.onnx").graph
    sizes = {t.name: list(t.dims) for t in graph.initializer}
    scales = [sizes[n.input[1]] for n in graph.node if n.op_type == "DequantizeLinear"]
    assert [16] in scales and [24] in scales
    kinds = {t.data_type for t in graph.initializer if len(t.dims) > 1}
    assert kinds == {onnx.TensorProto.INT8}
    made_by = {out: node for node in graph.node for out in node.output}
    assert made_by["prob"].op_type == "Softmax"


def test_weights_apart_count_as_part_of_a_form():
    images(side=16)
    apart = ("--external-data", "--format", "json")
    report = succeed("export", D, W, "-o", "h.onnx", "--fp16", *apart).json
    assert set(report["files"]) == {"h.onnx", "h.onnx.data"}
    assert report["variants"][1]["bytes"] == sum(report["files"].values())
    given = ("--int8", "--images", "images.npz")
    assert list(succeed("export", D, W, "-o", "i.onnx", *given, *apart).json["files"]) == ["i.onnx"]


def test_a_fixed_batch_is_filled_up_and_what_fills_it_does_not_count():
    images(count=5, side=16)
    whole = ("--int8", "--images", "images.npz", "--format", "json")
    fixed = succeed("export", D, W, "-o", "f.onnx", "--batch", 4, *whole).json["variants"]
    free = succeed("export", D, W, "-o", "g.onnx", *whole).json["variants"]
    assert fixed[0]["top1"] == free[0]["top1"]
    assert fixed[1]["agreement"] * 5 == pytest.approx(round(fixed[1]["agreement"] * 5))


def test_the_transform_of_a_train_val_goes_inside():
    text = Path("train_val.prototxt").read_text()
    data = 'data_param { source: "test_lmdb"'
    assert data in text
    transform = "transform_param { crop_size: 16 mean_value: 100 scale: 0.5 } "
    Path("tv.prototxt").write_text(text.replace(data, transform + data))
    succeed("export", D, W, "-o", "x.onnx", "--preprocess-from", "tv.prototxt")
    metadata = {e.key: e.value for e in onnx.load("x.onnx").metadata_props}
    assert metadata["preprocessing"] == "rgb to bgr; centre 16x16; minus 100; times 0.5"
    succeed("export", "tv.prototxt", W, "-o", "y.onnx", "--preprocess")
    again = {e.key: e.value for e in onnx.load("y.onnx").metadata_props}
    assert again["preprocessing"] == metadata["preprocessing"]


def test_python_has_all_of_it():
    made = images()
    model = caffesurgery.load(D, W)
    wanted = caffesurgery.preprocessing(model, mean=[104, 117, 123], resize="16x16")
    report = caffesurgery.export_for_phones(
        model, "p.onnx", preprocess=wanted, labels=[f"c{i}" for i in range(10)], test_images=made,
        mobile=True,
    )  # fmt: skip
    assert report["variants"][0]["agreement"] == 1 and report["operators"] == {}
    assert [row["name"] for row in caffesurgery.check_mobile("p.onnx")] == [
        row["name"] for row in report["mobile"]
    ]
    found = caffesurgery.bench(["p.onnx"], runs=1, loads=1, inputs={"image": (1, 30, 40, 3)})
    assert found["models"][0]["inputs"] == {"image": [1, 30, 40, 3]}


def test_accelerators_are_judged_as_onnx_runtimes_own_checker_does():
    from onnxruntime.tools.mobile_helpers import usability_checker as theirs

    images()
    succeed(
        "export", D, W, "-o", "o/net.onnx", *TRANSFORM, "--int8", "--fp16", "--images",
        "images.npz",
    )  # fmt: skip
    succeed("export", D, W, "-o", "o/fixed.onnx", "--batch", 1)
    for path in Path("o").glob("*.onnx"):
        model = onnx.shape_inference.infer_shapes(onnx.load(path))
        found = {one.name: one for one in check_mobile(path)}
        checks = {
            "NNAPI": lambda m: theirs.check_nnapi_partitions(m, True),
            "CoreML (ML Program)": lambda m: theirs.check_coreml_partitions(
                m, True, "coreml_supported_mlprogram_ops.md"
            ),
        }
        for name, check in checks.items():
            expected, one = check(model), found[name]
            assert (one.nodes, one.supported, one.pieces) == (
                expected.num_nodes, expected.num_supported_nodes, expected.num_partitions,
            )  # fmt: skip
            assert one.verdict == expected.suitability().name.lower()
    one = {one.name: one for one in check_mobile("o/fixed.onnx")}["NNAPI"]
    assert one.sentence == f"worth using: it can run {one.nodes} of {one.nodes} nodes in one piece"
    assert "export --batch 1" in {a.name: a for a in check_mobile("o/net.onnx")}["NNAPI"].advice


def test_nodes_are_read_with_what_hangs_on_them():
    succeed("export", D, W, "-o", "x.onnx")
    graph = {node.op: node for node in read_graph("x.onnx")}
    assert graph["Softmax"].after == () and graph["Softmax"].open
    assert graph["MaxPool"].name in {a for node in read_graph("x.onnx") for a in node.after}
    for data in (b"", b"\x08\x07", b"not a model"):
        Path("bad.onnx").write_bytes(data)
        with pytest.raises(FileError, match="bad.onnx: not an ONNX model"):
            read_graph("bad.onnx")


def test_models_are_measured_in_turns_with_ratios_to_the_first():
    succeed("export", D, W, "-o", "a.onnx", "--ort")
    succeed("export", D, W, "-o", "b.onnx", "--batch", 3)
    arguments = ("bench", "a.onnx", "b.onnx", "a.ort", "--runs", 7, "--threads", 2, "--loads", 1)
    found = succeed(*arguments, "--format", "json").json
    assert (found["threads"], found["runs"]) == (2, 7)
    first, second, third = found["models"]
    assert first["inputs"] == {"data": [1, 3, 16, 16]} and second["inputs"]["data"][0] == 3
    assert set(first["ratios"].values()) == {1.0}
    for row in (first, second, third):
        assert 0 < row["forward_ms"] <= row["forward_p90_ms"] and 0 < row["load_ms"]
        assert row["ratios"]["load"] == pytest.approx(first["load_ms"] / row["load_ms"], abs=1e-3)
        assert row["bytes"] == Path(row["path"]).stat().st_size
    table = succeed(*arguments).out
    assert table.startswith("2 threads, 7 forward passes each, in turns\n") and "p90 ms" in table


def test_memory_grows_with_the_weights():
    net = 'input: "data" input_shape { dim: 1 dim: 2000 }' + "".join(
        f'layer {{ name: "f{i}" type: "InnerProduct" bottom: "{"data" if not i else f"f{i - 1}"}" '
        f'top: "f{i}" inner_product_param {{ num_output: 2000 }} }}'
        for i in range(2)
    )
    from nets import write_net

    prototxt, weights = write_net(Path("big"), net.encode())[:2]
    succeed("export", prototxt, weights, "-o", "big.onnx")
    succeed("export", D, W, "-o", "a.onnx")
    big, small = bench(["big.onnx", "a.onnx"], runs=1, loads=1)
    assert big.startup_bytes > small.startup_bytes + 20e6
    assert big.running_bytes >= big.startup_bytes > 0


def test_the_ninetieth_percentile_is_that_of_the_sorted_values():
    assert percentile([5, 1, 3, 2, 4], 0.9) == 5
    assert percentile(range(1, 11), 0.9) == 9
    assert percentile([7], 0.9) == 7


def test_bench_says_which_file_cannot_be_run():
    succeed("export", D, W, "-o", "a.onnx")
    for wrong, message in (
        (["a.onnx", "none.onnx"], "none.onnx: no such file"),
        (["a.onnx", W], f"{W}: ONNX Runtime cannot run it"),
        ([], "nothing to measure"),
    ):
        with pytest.raises(VerifyError, match=message):
            bench(wrong, runs=1, loads=1)
    with pytest.raises(
        VerifyError, match="(?s)a.onnx: ONNX Runtime cannot run it.*Got: 4 Expected"
    ):
        bench(["a.onnx"], runs=1, loads=1, inputs={"data": (1, 4, 16, 16)})


def test_images_of_another_kind_are_refused():
    model = caffesurgery.load(D, W)
    frames = caffesurgery.preprocessing(model, mean=0)
    for given, preprocess, message in (
        (np.zeros((2, 3, 9, 9), np.uint8), frames, "images of 3 x 9 x 9 for the input image"),
        (np.zeros((2, 3, 16, 16), np.float32), frames, "frames are uint8"),
        (np.zeros((2, 3, 20, 20), np.uint8), None, "which takes 3 x 16 x 16"),
    ):
        with pytest.raises(SurgeryError, match=message):
            caffesurgery.export_for_phones(
                model, "x.onnx", precisions=("int8",), images=given, preprocess=preprocess
            )
    assert not Path("x.onnx").exists()


def test_squeezenet_keeps_its_accuracy_in_half_and_in_eight_bits():
    import cv2

    folder = shared("data", "squeezenet")
    stored = np.load(shared("data", "imagenet_sample", "images300.npz"))
    data, at = stored["jpeg"], stored["offsets"]
    pixels = [cv2.imdecode(data[at[i] : at[i + 1]], 1)[..., ::-1] for i in range(0, 300, 10)]
    made = np.stack(pixels).transpose(0, 3, 1, 2)
    np.savez("test.npz", images=made[6:], labels=stored["labels"][::10][6:])
    model = caffesurgery.load(folder / "deploy.prototxt", folder / "squeezenet_v1.0.caffemodel")
    wanted = caffesurgery.preprocessing(model, folder / "train_val.prototxt")
    report = caffesurgery.export_for_phones(
        model, "s.onnx", precisions=("float32", "float16", "int8"), preprocess=wanted,
        images=np.ascontiguousarray(made[:6]), test_images="test.npz",
    )  # fmt: skip
    full, half, eight = report["variants"]
    assert full["top5"] > 0.7 and half["relative"] < 0.01 and eight["relative"] < 0.5
    assert half["agreement"] >= 0.9 and eight["agreement"] >= 0.75
    assert abs(eight["top5"] - full["top5"]) <= 0.13
    assert full["bytes"] / eight["bytes"] > 3.5 and full["bytes"] / half["bytes"] > 1.9
