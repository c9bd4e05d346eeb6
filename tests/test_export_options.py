"""What an export may decide: open sizes, operators of one's own, weights apart, provenance."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest
from onnxnets import (
    input_layer,
    layer,
    model_bytes,
    net_and_weights,
    relative,
    run,
    write_weights,
)

from caffesurgery.errors import ExportError, FileError
from caffesurgery.export.catalogue import layer_catalogue
from caffesurgery.export.onnx import build, export_onnx
from caffesurgery.files import caffemodel
from caffesurgery.net.layers import known_types
from caffesurgery.net.net import parse_net, read_net


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


CONV = "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }"

# layers over 'data' (and 's', a larger map of it) that hold for every height and width
ANY_SIZE = {
    "max pooling": layer("Pooling", "data", "y", "pooling_param { kernel_size: 3 stride: 2 }"),
    "padded max pooling": layer(
        "Pooling", "data", "y", "pooling_param { kernel_size: 3 stride: 2 pad: 1 }"
    ),
    "mean pooling": layer(
        "Pooling", "data", "y", "pooling_param { pool: AVE kernel_size: 4 stride: 3 }"
    ),
    "padded mean pooling": layer(
        "Pooling", "data", "y", "pooling_param { pool: AVE kernel_size: 4 stride: 2 pad: 1 }"
    ),
    "pooling rounded down": layer(
        "Pooling", "data", "y",
        "pooling_param { pool: AVE kernel_size: 3 stride: 3 pad: 1 round_mode: FLOOR }",
    ),
    "global pooling and a classifier": layer("Convolution", "data", "c", CONV)
    + layer("Pooling", "c", "p", "pooling_param { pool: AVE global_pooling: true }")
    + layer("InnerProduct", "p", "y", "inner_product_param { num_output: 5 }"),
    "crop": layer(
        "Deconvolution", "data", "d", "convolution_param { num_output: 2 kernel_size: 4 stride: 2 }"
    )
    + layer("Crop", "d data", "y", "crop_param { axis: 2 offset: 1 }"),
    "interpolation": layer("Interp", "data", "y", "interp_param { zoom_factor: 3 pad_end: -1 }"),
    "interpolation to a size": layer("Interp", "data", "y", "interp_param { height: 9 width: 5 }"),
    "flattened maps": layer("Permute", "data", "p", "permute_param { order: 0 order: 2 order: 3 }")
    + layer("Flatten", "p", "f")
    + layer("Reshape", "f", "y", "reshape_param { shape { dim: 0 dim: -1 dim: 3 } }"),
    "normalisation": layer("MVN", "data", "m")
    + layer("LRN", "m", "l", "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 }")
    + layer("Softmax", "l", "y"),
    "joined": layer("Convolution", "data", "c", CONV)
    + layer("Concat", "data c", "j")
    + layer("Slice", "j", "a b", "slice_param { slice_point: 5 }")
    + layer("Upsample", "b", "y"),
}  # fmt: skip


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("case", ANY_SIZE)
def test_a_net_with_open_sizes_computes_what_a_fixed_one_does(case, opset, tmp_path):
    net, weights = net_and_weights(input_layer(data=(1, 3, 13, 16)) + ANY_SIZE[case], tmp_path)
    opened = build(net, weights, opset=opset, dynamic_size=True)
    opened.model.check()
    assert opened.model.inputs[0].dims == ("batch", 3, "height", "width")
    for height, width in ((13, 16), (14, 12), (9, 17), (20, 21)):
        x = {"data": random(2, 3, height, width)}
        fixed = build(net, weights, inputs={"data": (2, 3, height, width)})
        found, expected = (run(model_bytes(made), x) for made in (opened, fixed))
        assert found.keys() == expected.keys()
        for name in found:
            assert relative(found[name], expected[name]) < 1e-5


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            layer("InnerProduct", "data", "y", "inner_product_param { num_output: 2 }"),
            "InnerProduct: its weights are for one height and width",
        ),
        (
            layer("SPP", "data", "y", "spp_param { pyramid_height: 2 }"),
            "SPP is written for one height and width",
        ),
        (
            layer("Pooling", "data", "y", "pooling_param { kernel_size: 2 stride: 3 }"),
            "where its last window lies depends on the size",
        ),
        (
            layer("Reshape", "data", "y", "reshape_param { shape { dim: 0 dim: 6 dim: 40 } }"),
            "height and width cannot be left open: .*cannot make",
        ),
    ],
)
def test_a_layer_that_holds_for_one_size_is_named(body, message, tmp_path):
    text = input_layer(data=(1, 3, 8, 10)) + body
    with pytest.raises(ExportError, match=message):
        build(*net_and_weights(text, tmp_path), dynamic_size=True)


FANCY = """
layer { name: "fancy" type: "Fancy" bottom: "data" top: "f"
  param { lr_mult: 0 }
  fancy_param { rate: 0.5 steps: 1 steps: 2 mode: SLOW name: "x" flag: true
    inner { top_k: 7 } weight_filler { type: "xavier" } } }
"""
AFTER = layer("ReLU", "f", "r")


def test_an_unknown_layer_becomes_a_node_of_the_domain_with_its_parameters(tmp_path):
    net = parse_net(input_layer(data=(1, 3, 4, 4)) + FANCY, "net.prototxt")
    with pytest.raises(ExportError, match="shape of the output 'f' is not known"):
        build(net, None, domain="com.example")
    new = caffemodel.NewLayer("fancy", "Fancy", ("data",), ("f",), [random(3, 2)])
    caffemodel.write(tmp_path / "w.caffemodel", "", [new])
    weights = caffemodel.read(tmp_path / "w.caffemodel")
    options = {"domain": "com.example", "inputs": {"f": (1, 9)}}
    report = export_onnx(net, weights, tmp_path / "net.onnx", **options)
    assert report.custom == ("Fancy",) and report.outputs == (("f", (1, 9)),)
    assert not report.dynamic_batch and "unknown type 'Fancy'" in report.fixed_because
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    node = model.graph.node[0]
    assert (node.op_type, node.domain) == ("Fancy", "com.example")
    assert {o.domain: o.version for o in model.opset_import}["com.example"] == 1
    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert found == {
        "rate": 0.5, "steps": [1, 2], "mode": b"SLOW", "name": b"x", "flag": 1, "inner_top_k": 7,
    }  # fmt: skip
    stored = onnx.numpy_helper.to_array(model.graph.initializer[0])
    assert list(node.input) == ["data", "fancy.blob0"]
    assert np.array_equal(stored, weights.blobs("fancy")[0].array())


def test_what_follows_an_unknown_layer_needs_its_shape():
    net = parse_net(input_layer(data=(1, 3, 4, 4)) + FANCY + AFTER, "net.prototxt")
    with pytest.raises(ExportError, match=r"\(layer 'r'\).*not known.*give that blob's shape"):
        build(net, None, domain="com.example")
    made = build(net, None, domain="com.example", inputs={"f": (1, 3, 2, 2)})
    made.model.check()
    assert [node.op for node in made.model.nodes] == ["Fancy", "Relu"]
    assert made.model.outputs[0].dims == (1, 3, 2, 2)


def test_a_layer_that_cannot_be_written_in_one_form_becomes_a_node_too(tmp_path):
    text = input_layer(data=(1, 3)) + layer(
        "ReLU6", "data", "y", "relu6_param { negative_slope: 0.1 }"
    )
    made = build(parse_net(text), None, domain="com.example")
    made.model.check()
    node = made.model.nodes[0]
    assert (node.op, node.domain, node.attrs) == ("ReLU6", "com.example", {"negative_slope": 0.1})


def test_a_forks_parameter_that_is_not_known_is_refused(tmp_path):
    text = input_layer(data=(1, 3, 4, 4), image=(1, 3, 32, 32)) + layer(
        "PriorBox", "data image", "y", "prior_box_param { min_size: 4 density: 2 }"
    )
    with pytest.raises(ExportError, match=r"\(layer 'y'\).*prior_box_param.density is not known"):
        build(parse_net(text, "net.prototxt"), None)
    node = build(parse_net(text), None, domain="com.example").model.nodes[0]
    assert node.domain == "com.example" and node.attrs["density"] == 2


def test_a_domain_of_onnx_itself_is_refused():
    net = parse_net(input_layer(data=(1, 3)) + layer("ReLU", "data", "y"))
    with pytest.raises(ExportError, match="cannot hold operators of your own"):
        build(net, None, domain="ai.onnx")


def big_net(tmp_path):
    text = input_layer(data=(1, 64)) + layer(
        "InnerProduct", "data", "f", "inner_product_param { num_output: 33 }"
    )
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    net = read_net(path)
    return net, write_weights(tmp_path / "net.caffemodel", net)


def test_a_model_beyond_one_file_keeps_its_weights_beside_it(tmp_path):
    net, weights = big_net(tmp_path)
    target = tmp_path / "out" / "net.onnx"
    report = export_onnx(net, weights, target, one_file_up_to=4000)
    assert report.data == "net.onnx.data"
    assert report.bytes == sum(path.stat().st_size for path in target.parent.iterdir())
    onnx.checker.check_model(str(target), full_check=True)
    x = {"data": random(2, 64)}
    whole = run(model_bytes(build(net, weights)), x)["f"]
    assert np.array_equal(run(str(target), x)["f"], whole)
    with pytest.raises(FileError, match="already there"):
        export_onnx(net, weights, target, one_file_up_to=4000)
    target.unlink()
    with pytest.raises(FileError, match="net.onnx.data: already there"):
        export_onnx(net, weights, target, one_file_up_to=4000)
    assert [path.name for path in target.parent.iterdir()] == ["net.onnx.data"]


def test_a_model_says_what_it_was_made_of(tmp_path):
    net, weights = big_net(tmp_path)
    export_onnx(net, weights, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    found = {pair.key: pair.value for pair in model.metadata_props}
    for kind in ("prototxt", "caffemodel"):
        data = (tmp_path / f"net.{kind}").read_bytes()
        assert found[f"caffe.{kind}"] == f"net.{kind}"
        assert found[f"caffe.{kind}.sha256"] == hashlib.sha256(data).hexdigest()
    assert model.producer_name == "caffesurgery" and model.producer_version


def test_the_catalogue_names_every_type_and_what_becomes_of_it():
    rows = {row["type"]: row for row in layer_catalogue()["layers"]}
    assert set(rows) == set(known_types())
    assert rows["Permute"]["origin"] == "SSD" and rows["Permute"]["status"] == "exported"
    assert rows["Data"]["status"] == "input" and rows["EuclideanLoss"]["status"] == "left out"
    assert [name for name, row in rows.items() if row["status"] == "refused"] == ["Python"]
    assert rows["Python"]["why"] and rows["DetectionOutput"]["why"] == "eta below 1 is refused"
