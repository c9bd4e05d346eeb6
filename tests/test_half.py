"""Half precision: close to Caffe's outputs, half the bytes, and safe where float16 is not."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
from conftest import shared, shared_root
from onnxnets import input_layer, layer, model_bytes, net_and_weights, relative, run

from caffesurgery.export.half import to_half
from caffesurgery.export.onnx import build
from caffesurgery.files import caffemodel
from caffesurgery.net.net import read_net

GOLDEN = sorted(path.name for path in shared_root().glob("golden/*_*"))
ROUNDED_APART = ("argmax_",)
"""Cases where float16 makes values equal that were not, and another of them is the largest."""

CHAIN = (
    input_layer(data=(2, 3, 8, 8))
    + layer("Convolution", "data", "c", "convolution_param { num_output: 4 kernel_size: 3 }")
    + layer("LRN", "c", "n", "lrn_param { local_size: 3 alpha: 0.5 }")
    + layer("InnerProduct", "n", "f", "inner_product_param { num_output: 200 }")
    + layer("Softmax", "f", "prob")
)


def written(model) -> bytes:
    stream = io.BytesIO()
    model.write(stream)
    return stream.getvalue()


@pytest.mark.parametrize("ends", [False, True])
def test_golden_cases_equal_caffe_to_the_precision_of_half(ends):
    if not GOLDEN:
        shared("golden")
    for case in GOLDEN[::3]:
        if case.startswith(ROUNDED_APART):
            continue
        folder = shared("golden", case)
        data = np.load(folder / "io.npz")
        feeds = {key[3:]: data[key] for key in data if key.startswith("in:")}
        weights = caffemodel.read(folder / "net.caffemodel")
        made = build(read_net(folder / "net.prototxt"), weights)
        model = to_half(made.model, halve_ends=ends)
        model.check()
        wanted = np.float16 if ends else np.float32
        found = run(written(model), {name: x.astype(wanted) for name, x in feeds.items()})
        for key in (key for key in data if key.startswith("out:")):
            out = found[made.outputs[key[4:]]]
            assert out.dtype == wanted, case
            assert relative(out.astype(np.float32), data[key]) < 2e-3, case


def test_weights_take_half_the_bytes_and_lrn_and_softmax_stay_in_float32(tmp_path):
    made = build(*net_and_weights(CHAIN, tmp_path))
    model = to_half(made.model)
    assert len(written(model)) < 0.56 * len(model_bytes(made))
    kinds = model.kinds()
    for node in model.nodes:
        kind = "float32" if node.op in ("LRN", "Softmax") else "float16"
        if node.op != "Cast":
            assert {kinds[name] for name in (node.inputs[0], *node.outputs)} == {kind}
    assert (model.inputs[0].kind, model.outputs[0].kind) == ("float32", "float32")
    assert sum(node.op == "Cast" for node in model.nodes) == 4
    stored = onnx.load_from_string(written(model)).graph.initializer
    assert {tensor.data_type for tensor in stored if len(tensor.dims) > 1} == {10}


def test_values_that_half_cannot_hold_are_kept_in_float32(tmp_path):
    text = input_layer(data=(2, 3, 4, 4)) + layer(
        "Power", "data", "p", "power_param { scale: 1e5 }"
    )
    text += layer("Power", "p", "q", "power_param { scale: 1e-9 }")
    made = build(*net_and_weights(text, tmp_path))
    x = np.ones((2, 3, 4, 4), np.float32)
    found = run(written(to_half(made.model)), {"data": x})
    assert np.allclose(found["q"], 1e-4, rtol=1e-5)


def test_an_activation_beyond_half_survives_in_lrn(tmp_path):
    text = input_layer(data=(1, 4, 2, 2)) + layer("LRN", "data", "n", "lrn_param { alpha: 1 }")
    x = np.full((1, 4, 2, 2), 1000, np.float32)  # the square of 1000 is no float16
    made = build(*net_and_weights(text, tmp_path))
    expected = run(model_bytes(made), {"data": x})["n"]
    found = run(written(to_half(made.model)), {"data": x})["n"]
    assert np.isfinite(found).all() and relative(found, expected) < 1e-3


def test_a_blob_kept_between_is_an_output_in_float32(tmp_path):
    made = build(*net_and_weights(CHAIN, tmp_path), keep_blobs=["c", "n"])
    model = to_half(made.model)
    model.check()
    found = run(written(model), {"data": np.ones((2, 3, 8, 8), np.float32)})
    assert {name: x.dtype for name, x in found.items()} == dict.fromkeys(
        ("prob", "c", "n"), np.float32
    )
