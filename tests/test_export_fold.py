"""Smaller graphs: what folds into the layer before, what stays, and that both compute the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnxnets import input_layer, layer, model_bytes, net_and_weights, relative, run

from caffesurgery.export.onnx import build


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


CONV = "convolution_param { num_output: 6 kernel_size: 3 group: 3 %s }"
NORM = layer("BatchNorm", "c", "c", name="bn") + layer(
    "Scale", "c", "c", "scale_param { bias_term: true }", name="scale"
)
IMAGE = input_layer(data=(2, 3, 8, 8))
BRANCHES = (
    IMAGE
    + layer("Convolution", "data", "a", CONV % "")
    + layer("Convolution", "data", "b", "convolution_param { num_output: 2 kernel_size: 3 }")
    + layer("Concat", "a b", "c")
)

# text, operators with folding, operators without
CASES = {
    "in-place chain": (
        IMAGE
        + layer("Convolution", "data", "c", CONV % "")
        + NORM
        + layer("ReLU", "c", "c", name="r"),
        ["Conv", "Relu"],
        ["Conv", "BatchNormalization", "Mul", "Add", "Relu"],
    ),
    "no bias": (
        IMAGE + layer("Convolution", "data", "c", CONV % "bias_term: false") + NORM,
        ["Conv"],
        ["Conv", "BatchNormalization", "Mul", "Add"],
    ),
    "deconvolution": (
        IMAGE + layer("Deconvolution", "data", "c", CONV % "stride: 2") + NORM,
        ["ConvTranspose"],
        ["ConvTranspose", "BatchNormalization", "Mul", "Add"],
    ),
    "inner product": (
        IMAGE + layer("InnerProduct", "data", "c", "inner_product_param { num_output: 5 }") + NORM,
        ["Flatten", "Gemm"],
        ["Flatten", "Gemm", "BatchNormalization", "Mul", "Add"],
    ),
    "transposed inner product": (
        IMAGE
        + layer(
            "InnerProduct", "data", "c", "inner_product_param { num_output: 5 transpose: true }"
        )
        + NORM,
        ["Flatten", "Gemm"],
        ["Flatten", "Gemm", "BatchNormalization", "Mul", "Add"],
    ),
    "after concat": (
        BRANCHES + NORM,
        ["Conv", "Conv", "Concat"],
        ["Conv", "Conv", "Concat", "BatchNormalization", "Mul", "Add"],
    ),
    "a part that cannot take it": (
        BRANCHES.replace('"Concat" bottom: "a"', '"Concat" bottom: "data"').replace(
            "kernel_size: 3", "kernel_size: 1"
        )
        + NORM,
        ["Conv", "Conv", "Concat", "BatchNormalization"],
        ["Conv", "Conv", "Concat", "BatchNormalization", "Mul", "Add"],
    ),
    "read twice": (
        IMAGE
        + layer("Convolution", "data", "c", CONV % "")
        + layer("BatchNorm", "c", "n")
        + layer("Eltwise", "c n", "e"),
        ["Conv", "BatchNormalization", "Add"],
        ["Conv", "BatchNormalization", "Add"],
    ),
    "a number for all": (
        IMAGE
        + layer("Convolution", "data", "c", CONV % "")
        + layer("Power", "c", "p", "power_param { scale: 2 shift: 1 }"),
        ["Conv"],
        ["Conv", "Mul", "Add"],
    ),
    "norm first": (
        IMAGE.replace("data", "c") + NORM + layer("ReLU", "c", "r"),
        ["BatchNormalization", "Relu"],
        ["BatchNormalization", "Mul", "Add", "Relu"],
    ),
    "a factor over rows": (
        IMAGE
        + layer("Convolution", "data", "c", CONV % "")
        + layer("Scale", "c", "s", "scale_param { axis: 2 num_axes: 1 }"),
        ["Conv", "Mul"],
        ["Conv", "Mul"],
    ),
    "shared weights": (
        IMAGE
        + layer("Convolution", "data", "a", CONV % "" + 'param { name: "w" } param { name: "b" }')
        + layer(
            "Convolution",
            "data",
            "c",
            CONV % "stride: 2" + 'param { name: "w" } param { name: "b" }',
        )
        + NORM,
        ["Conv", "Conv"],
        ["Conv", "Conv", "BatchNormalization", "Mul", "Add"],
    ),
    "equal branches": (
        IMAGE
        + layer("ReLU", "data", "a")
        + layer("ReLU", "data", "b")
        + layer("Eltwise", "a b", "c"),
        ["Relu", "Add"],
        ["Relu", "Add"],
    ),
    "swallowed": (
        IMAGE
        + layer("ReLU", "data", "a")
        + layer("TanH", "data", "b")
        + layer("Silence", "a", "", name="s"),
        ["Tanh"],
        ["Tanh"],
    ),
}


def made(text, tmp_path, **options):
    net, weights = net_and_weights(text, tmp_path)
    return build(net, weights, **options)


@pytest.mark.parametrize("case", CASES)
def test_what_folds_computes_the_same_with_fewer_nodes(case, tmp_path):
    text, folded, plain = CASES[case]
    net, weights = net_and_weights(text, tmp_path)
    small, large = build(net, weights), build(net, weights, fold=False)
    assert [node.op for node in small.model.nodes] == folded
    assert [node.op for node in large.model.nodes] == plain
    small.model.check()
    feeds = {name: random(2, 3, 8, 8) for name in ("data", "c")}
    found, expected = (run(model_bytes(each), feeds) for each in (small, large))
    assert found.keys() == expected.keys() and found
    for name in found:
        assert relative(found[name], expected[name]) < 1e-5


# onnxslim takes a factor over rows for one over channels, which changes what is computed
@pytest.mark.parametrize("case", [case for case in CASES if case != "a factor over rows"])
def test_the_simplifiers_find_nothing_to_take_out(case, tmp_path):
    slim = pytest.importorskip("onnxslim")
    simple = pytest.importorskip("onnxsim")
    data = model_bytes(build(*net_and_weights(CASES[case][0], tmp_path), batch=2))
    nodes = len(onnx.load_from_string(data).graph.node)
    assert len(slim.slim(onnx.load_from_string(data)).graph.node) >= nodes
    assert len(simple.simplify(onnx.load_from_string(data))[0].graph.node) >= nodes


def test_a_kept_blob_keeps_its_value_where_folding_would_change_it(tmp_path):
    text = IMAGE + layer("Convolution", "data", "c", CONV % "") + layer("BatchNorm", "c", "n")
    net, weights = net_and_weights(text, tmp_path)
    model = build(net, weights, keep_blobs=["c"])
    assert [node.op for node in model.model.nodes] == ["Conv", "BatchNormalization"]
    assert [node.op for node in build(net, weights).model.nodes] == ["Conv"]


def test_folded_weights_keep_their_names_and_the_file_its_own(tmp_path):
    text, _, _ = CASES["in-place chain"]
    net, weights = net_and_weights(text, tmp_path)
    before = weights.blobs("c")[0].array().copy()
    stored = build(net, weights).model.initializers
    assert set(stored) == {"c.weight", "c.bias"}
    assert not np.array_equal(stored["c.weight"], before)
    assert np.array_equal(weights.blobs("c")[0].array(), before)


@pytest.mark.parametrize("batch", [None, 2])
def test_a_permute_of_single_pixels_joins_the_reshape_behind_it(batch, tmp_path):
    text = input_layer(data=(2, 6, 1, 1))
    order = "permute_param { order: 0 order: 2 order: 3 order: 1 }"
    text += layer("Permute", "data", "last", order)
    text += layer("Flatten", "last", "flat")
    text += layer("Reshape", "flat", "back", "reshape_param { shape { dim: 0 dim: 3 dim: 2 } }")
    text += layer("Flatten", "back", "row") + layer("Sigmoid", "row", "found")
    made = build(*net_and_weights(text, tmp_path), batch=batch)
    assert [node.op for node in made.model.nodes] == ["Reshape", "Sigmoid"]
    feeds = {"data": np.random.default_rng(0).random((2, 6, 1, 1), np.float32)}
    expected = 1 / (1 + np.exp(-feeds["data"].reshape(2, 6)))
    assert relative(run(model_bytes(made), feeds)["found"], expected) < 1e-6


def test_a_reshape_back_goes_and_a_kept_one_stays(tmp_path):
    text = input_layer(data=(2, 6, 4)) + layer("Sigmoid", "data", "cube")
    text += layer("Flatten", "cube", "flat")
    text += layer("Reshape", "flat", "back", "reshape_param { shape { dim: 0 dim: 6 dim: 4 } }")
    text += layer("TanH", "back", "found")
    net = net_and_weights(text, tmp_path)
    assert [node.op for node in build(*net).model.nodes] == ["Sigmoid", "Tanh"]
    kept = build(*net, keep_blobs=["back"])
    feeds = {"data": np.random.default_rng(0).random((2, 6, 4), np.float32)}
    outputs = run(model_bytes(kept), feeds)
    assert outputs["back"].shape == (2, 6, 4)
    assert relative(np.tanh(outputs["back"]), outputs["found"]) < 1e-6
