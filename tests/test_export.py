"""The ONNX export: what Caffe computed comes out, in models that onnx's checker accepts."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import onnx
import pytest
from conftest import shared, shared_root
from onnxnets import input_layer, layer, model_bytes, net_and_weights, relative, run, run_net

from caffesurgery.errors import ExportError, FileError, WeightsError
from caffesurgery.export.model import NEWEST_OPSET, Model, Value
from caffesurgery.export.onnx import build, export_onnx
from caffesurgery.files import caffemodel
from caffesurgery.net.net import parse_net, read_net

GOLDEN = sorted(path.name for path in shared_root().glob("golden/*_*"))


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("case", GOLDEN or ["none"])
def test_golden_case_equals_caffe_and_keeps_its_batch_open(case):
    folder = shared("golden", case)
    data = np.load(folder / "io.npz")
    feeds = {key[3:]: data[key] for key in data if key.startswith("in:")}
    made = build(
        read_net(folder / "net.prototxt"), caffemodel.read(folder / "net.caffemodel"), opset=13
    )
    model = model_bytes(made)
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    found = run(model, feeds)
    for key in (key for key in data if key.startswith("out:")):
        assert relative(found[made.outputs[key[4:]]], data[key]) < 1e-4
    rigid = case.startswith(("concat_00", "concat_02", "concat_03", "scale_01"))
    assert made.dynamic != rigid
    if made.dynamic and not case.startswith("recurrent"):
        twice = run(model, {name: np.concatenate([x, x]) for name, x in feeds.items()})
        for name, once in found.items():
            assert np.allclose(twice[name], np.concatenate([once, once]), rtol=1e-4, atol=1e-5)


def trained():
    """Corpus nets whose outputs Caffe itself computed, each prototxt once."""
    index = shared_root() / "corpus" / "caffemodels.json"
    if not index.exists():
        return [None]
    pairs = {}
    for row in json.loads(index.read_text()):
        for oracle in row.get("oracle") or []:
            if oracle["outputs_npz"].startswith("reference/caffe"):
                pairs.setdefault(oracle["proto"], oracle)
    return list(pairs.values())


@pytest.mark.parametrize("oracle", trained(), ids=lambda o: o["proto"][-40:] if o else "none")
def test_trained_net_of_the_corpus_equals_caffe(oracle):
    root = shared("corpus")
    net = read_net(root / oracle["proto"])
    shapes = {name: tuple(oracle["blobs"][name]) for name in oracle["inputs"]}
    made = build(net, caffemodel.read(root / "caffemodel" / oracle["rel"]), inputs=shapes)
    numbers = np.random.RandomState(1234)
    feeds = {name: numbers.rand(*shape).astype(np.float32) for name, shape in shapes.items()}
    found = run(model_bytes(made), feeds)
    expected = np.load(root / oracle["outputs_npz"])
    for key in expected.files:
        blob = key[len("out__") :].replace("__", "/")
        assert relative(found[made.outputs[blob]], expected[key]) < 1e-4


def caffe_pool(x, method, kernel, stride, pad, sizes):
    """Pooling as Caffe's CPU code does it, window by window."""
    height, width = x.shape[2:]
    out = np.zeros(x.shape[:2] + sizes, np.float32)
    for i in range(sizes[0]):
        for j in range(sizes[1]):
            top, left = i * stride[0] - pad[0], j * stride[1] - pad[1]
            bottom = min(top + kernel[0], height + pad[0])
            right = min(left + kernel[1], width + pad[1])
            area = (bottom - top) * (right - left)
            part = x[:, :, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
            if method == "AVE":
                out[:, :, i, j] = part.sum((2, 3)) / area
            else:
                lowest = np.finfo(np.float32).min
                out[:, :, i, j] = part.max((2, 3)) if part.size else lowest
    return out


@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_pooling_equals_caffes_windows_for_many_geometries(method, tmp_path):
    numbers = np.random.default_rng(7)
    clipped = 0
    for _ in range(60):
        size, kernel = numbers.integers(5, 14, 2), numbers.integers(1, 6, 2)
        stride = np.minimum(numbers.integers(1, 5, 2), kernel)
        pad = numbers.integers(0, kernel)
        params = (
            f"pooling_param {{ pool: {method} kernel_h: {kernel[0]} kernel_w: {kernel[1]} "
            f"stride_h: {stride[0]} stride_w: {stride[1]} pad_h: {pad[0]} pad_w: {pad[1]} }}"
        )
        x = random(2, 3, *size)
        text = input_layer(data=x.shape) + layer("Pooling", "data", "p", params)
        found = run_net(text, tmp_path, {"data": x})["p"]
        last = (np.array(found.shape[2:]) - 1) * stride - pad + kernel
        clipped += bool((last > size + pad).any())
        expected = caffe_pool(x, method, kernel, stride, pad, found.shape[2:])
        assert relative(found, expected) < 1e-5, params
    assert clipped > 10


def test_pooling_has_explicit_pads_and_never_ceil_mode(tmp_path):
    text = input_layer(data=(1, 3, 8, 8)) + layer(
        "Pooling", "data", "p", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }"
    )
    nodes = build(*net_and_weights(text, tmp_path)).model.nodes
    assert [node.op for node in nodes] == ["AveragePool", "Mul"]
    assert nodes[0].attrs["pads"] == (1, 1, 2, 2)
    assert all("ceil_mode" not in node.attrs for node in nodes)


def test_a_forks_ceil_mode_rounds_down(tmp_path):
    pool = "pooling_param { pool: MAX kernel_size: 3 stride: 2 %s }"
    x = random(1, 2, 8, 8)
    sizes = []
    for mode in ("", "ceil_mode: false", "round_mode: FLOOR"):
        text = input_layer(data=x.shape) + layer("Pooling", "data", "p", pool % mode)
        sizes.append(run_net(text, tmp_path, {"data": x})["p"].shape[2:])
    assert sizes == [(4, 4), (3, 3), (3, 3)]


def test_a_window_outside_of_the_image_gives_caffes_lowest_value(tmp_path):
    text = input_layer(data=(1, 2, 6, 6)) + layer(
        "Pooling", "data", "p", "pooling_param { pool: MAX kernel_size: 1 stride: 2 }"
    )
    x = random(1, 2, 6, 6)
    found = run_net(text, tmp_path, {"data": x})["p"]
    assert found.shape == (1, 2, 4, 4)
    assert (found[:, :, :3, :3] == x[:, :, ::2, ::2]).all()
    assert (found[:, :, 3] == np.finfo(np.float32).min).all()


def test_a_pooling_mask_holds_the_place_within_the_plane(tmp_path):
    text = input_layer(data=(2, 3, 4, 6)) + layer(
        "Pooling", "data", "p mask", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"
    )
    x = random(2, 3, 4, 6)
    found = run_net(text, tmp_path, {"data": x})
    places = found["mask"].astype(int).reshape(2, 3, -1)
    values = np.take_along_axis(x.reshape(2, 3, -1), places, 2)
    assert (values == found["p"].reshape(2, 3, -1)).all()


ELEMENTWISE = {
    "power": ("Power", "power_param { power: 3 scale: 2 shift: -1 }", lambda x: (2 * x - 1) ** 3),
    "exp": ("Exp", "exp_param { base: 2 scale: 3 shift: 1 }", lambda x: 2 ** (3 * x + 1)),
    "log": ("Log", "log_param { base: 10 scale: 2 shift: 9 }", lambda x: np.log10(2 * x + 9)),
    "elu": ("ELU", "elu_param { alpha: 2 }", lambda x: np.where(x > 0, x, 2 * np.expm1(x))),
    "clip": ("Clip", "clip_param { min: -1 max: 0.5 }", lambda x: x.clip(-1, 0.5)),
    "swish": ("Swish", "swish_param { beta: 2 }", lambda x: x / (1 + np.exp(-2 * x))),
    "relu": ("ReLU", "relu_param { negative_slope: 3 }", lambda x: np.where(x > 0, x, 3 * x)),
    "mvn": (
        "MVN",
        "mvn_param { normalize_variance: false across_channels: true }",
        lambda x: x - x.mean((1, 2, 3), keepdims=True),
    ),
    "batch statistics": (
        "BatchNorm",
        "batch_norm_param { use_global_stats: false }",
        lambda x: (
            (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)
        ),
    ),
    "tile the batch": (
        "Tile",
        "tile_param { axis: 0 tiles: 2 }",
        lambda x: np.tile(x, (2, 1, 1, 1)),
    ),
    "sum of all": ("Reduction", "reduction_param { axis: 0 }", lambda x: x.sum()),
    "mean": (
        "Reduction",
        "reduction_param { operation: MEAN axis: 1 coeff: 3 }",
        lambda x: 3 * x.mean((1, 2, 3)),
    ),
}


@pytest.mark.parametrize("opset", [11, 13, 18, NEWEST_OPSET])
@pytest.mark.parametrize("case", ELEMENTWISE)
def test_layer_computes_its_formula(case, opset, tmp_path):
    kind, params, formula = ELEMENTWISE[case]
    x = np.abs(random(2, 3, 4, 5))
    text = input_layer(data=x.shape) + layer(kind, "data", "y", params)
    found = run_net(text, tmp_path, {"data": x}, opset=opset)["y"]
    assert relative(found, np.asarray(formula(x), np.float32)) < 1e-5


def test_argmax_prefers_the_last_of_equal_values_as_caffe_does(tmp_path):
    x = np.array([[1, 5, 5, 2], [0, 0, 0, 0]], np.float32)
    for params, expected in [
        ("top_k: 2", [[[2, 1]], [[3, 2]]]),
        ("out_max_val: true", [[[2], [5]], [[3], [0]]]),
        ("axis: 1", [[2], [3]]),
        ("axis: 1 top_k: 2 out_max_val: true", [[5, 5], [0, 0]]),
    ]:
        text = input_layer(data=x.shape)
        text += layer("ArgMax", "data", "a", f"argmax_param {{ {params} }}")
        assert run_net(text, tmp_path, {"data": x})["a"].tolist() == expected


def test_convolutions_over_one_and_three_axes(tmp_path):
    params = "convolution_param { num_output: 2 kernel_size: 3 bias_term: false }"
    weight = random(2, 3, 3, seed=1)
    x = random(2, 3, 9)
    text = input_layer(data=x.shape) + layer("Convolution", "data", "c", params)
    found = run_net(text, tmp_path, {"data": x}, {"c": [weight]})["c"]
    patches = np.lib.stride_tricks.sliding_window_view(x, 3, axis=2)
    assert relative(found, np.einsum("ncok,tck->nto", patches, weight)) < 1e-5
    weight, x = random(2, 1, 3, 3, 3, seed=1), random(1, 1, 5, 4, 6)
    text = input_layer(data=x.shape) + layer("Convolution", "data", "c", params)
    (tmp_path / "net0.caffemodel").unlink()
    found = run_net(text, tmp_path, {"data": x}, {"c": [weight]})["c"]
    patches = np.lib.stride_tricks.sliding_window_view(x[:, 0], (3, 3, 3), axis=(1, 2, 3))
    assert relative(found, np.einsum("nxyzabc,tabc->ntxyz", patches, weight[:, 0])) < 1e-5


def test_a_factor_from_a_second_bottom_with_a_learned_term(tmp_path):
    x, factor = random(4, 3, 2, 2), random(4, 3, seed=1)
    text = input_layer(data=x.shape, m=factor.shape)
    text += layer("Scale", "data m", "y", "scale_param { axis: 0 bias_term: true }")
    term = random(4, 3, seed=2)
    found = run_net(text, tmp_path, {"data": x, "m": factor}, {"y": [term]}, batch=4)["y"]
    assert relative(found, x * factor[:, :, None, None] + term[:, :, None, None]) < 1e-6


def lstm(x, cont, static, weights, h, c):
    """An LSTM as Caffe unrolls it; gates in the order i, f, o, g."""
    w_x, bias, w_static, w_h = weights
    tops = []
    for step, go in zip(x, cont):
        gates = step @ w_x.T + bias + static @ w_static.T + (h * go[:, None]) @ w_h.T
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in np.split(gates[:, : 3 * h.shape[1]], 3, 1))
        c = go[:, None] * f * c + i * np.tanh(gates[:, 3 * h.shape[1] :])
        h = o * np.tanh(c)
        tops.append(h)
    return np.stack(tops), h, c


def test_lstm_with_static_input_and_exposed_states(tmp_path):
    steps, streams, size = 4, 2, 3
    x, static = random(steps, streams, 5), random(streams, 6, seed=1)
    cont = np.array([[0, 1], [1, 1], [1, 0], [1, 1]], np.float32)
    h, c = random(1, streams, size, seed=2), random(1, streams, size, seed=3)
    text = input_layer(x=x.shape, cont=cont.shape, static=static.shape, h=h.shape, c=c.shape)
    text += layer(
        "LSTM", "x cont static h c", "y hT cT",
        f"recurrent_param {{ num_output: {size} expose_hidden: true }}",
    )  # fmt: skip
    shapes = [(4 * size, 5), (4 * size,), (4 * size, 6), (4 * size, size)]
    weights = [0.3 * random(*shape, seed=10 + i) for i, shape in enumerate(shapes)]
    feeds = {"x": x, "cont": cont, "static": static, "h": h, "c": c}
    found = run_net(text, tmp_path, feeds, {"y": weights})
    top, h, c = lstm(x, cont, static, weights, h[0], c[0])
    assert relative(found["y"], top) < 1e-5
    assert relative(found["hT"], h[None]) < 1e-5
    assert relative(found["cT"], c[None]) < 1e-5


CHAIN = (
    input_layer(data=(2, 3, 6, 6))
    + layer("Convolution", "data", "c", "convolution_param { num_output: 4 kernel_size: 3 }")
    + layer("BatchNorm", "c", "c", name="bn")
    + layer("ReLU", "c", "c", name="relu")
    + layer("Dropout", "c", "c", name="drop")
    + layer("InnerProduct", "c", "f", "inner_product_param { num_output: 5 }")
)


def test_blob_names_become_tensor_names_and_the_last_writer_keeps_them(tmp_path):
    net, weights = net_and_weights(CHAIN, tmp_path)
    made = build(net, weights, keep_blobs=["c"])
    made_by = {name: node.op for node in made.model.nodes for name in node.outputs}
    assert made_by["c"] == "Relu"
    assert made_by["c__bn"] == "Conv"  # which took the BatchNorm behind it
    made = build(net, weights, keep_blobs=["c"], fold=False)
    made_by = {name: node.op for node in made.model.nodes for name in node.outputs}
    assert made_by["c__c"] == "Conv" and made_by["c__bn"] == "BatchNormalization"
    assert [value.name for value in made.model.outputs] == ["f", "c"]
    assert made.outputs == {"f": "f", "c": "c"}


def test_a_kept_blob_that_is_the_input_or_a_copy_is_an_output_too(tmp_path):
    text = input_layer(data=(1, 2)) + layer("Split", "data", "a b") + layer("ReLU", "a", "r")
    found = run_net(text, tmp_path, {"data": np.float32([[-1, 1]])}, keep_blobs=["data", "a"])
    assert {blob: x.tolist() for blob, x in found.items()} == {
        "b": [[-1, 1]], "r": [[0, 1]], "data": [[-1, 1]], "a": [[-1, 1]],
    }  # fmt: skip


def test_an_input_changed_in_place_leaves_the_input_its_name(tmp_path):
    text = input_layer(data=(1, 2)) + layer("ReLU", "data", "data", name="r")
    found = run_net(text, tmp_path, {"data": np.float32([[-1, 1]])})
    assert found["data"].tolist() == [[0, 1]]


def test_a_net_that_mixes_items_keeps_its_batch_and_says_why(tmp_path):
    text = input_layer(data=(4, 6)) + layer(
        "Reshape", "data", "r", "reshape_param { shape { dim: 2 dim: 12 } }"
    )
    made = build(*net_and_weights(text, tmp_path))
    assert not made.dynamic and "does not fit" in made.fixed_because
    assert made.model.inputs == (Value("data", (4, 6)),)
    text = input_layer(data=(4, 6)) + layer(
        "Reshape", "data", "r", "reshape_param { shape { dim: 3 dim: -1 } }"
    )
    assert (
        "its shapes do not follow the batch"
        in build(*net_and_weights(text, tmp_path)).fixed_because
    )


def test_a_batch_that_is_asked_for_is_fixed(tmp_path):
    made = build(*net_and_weights(CHAIN, tmp_path), batch=7)
    assert made.model.inputs == (Value("data", (7, 3, 6, 6)),)
    assert not made.dynamic and made.fixed_because == "batch 7 was asked for"


TRAIN_VAL = """
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  data_param { batch_size: 4 } transform_param { crop_size: 6 } }
""" + (
    layer("InnerProduct", "data", "fc", "inner_product_param { num_output: 3 }")
    + layer("Accuracy", "fc label", "acc")
    + layer("SoftmaxWithLoss", "fc label", "loss")
    + layer("Power", "loss", "half", "power_param { scale: 0.5 }")
)


def test_a_train_val_net_ends_in_its_logits_and_its_data_layer_is_the_input(tmp_path):
    net, weights = net_and_weights(TRAIN_VAL, tmp_path)
    report = export_onnx(net, weights, tmp_path / "net.onnx")
    assert report.inputs == (("data", ("batch", 3, 6, 6)),)
    assert report.outputs == (("fc", ("batch", 3)),)
    assert report.left_out == ("acc", "loss", "half")
    assert report.parameters == 3 * 108 + 3
    with pytest.raises(ExportError, match="no blob 'loss' in what is exported"):
        build(net, weights, keep_blobs=["loss"])


def test_what_is_written_is_read_by_onnx_with_the_caffemodels_numbers(tmp_path):
    net, weights = net_and_weights(CHAIN, tmp_path)
    shares = []
    target = tmp_path / "net.onnx"
    report = export_onnx(net, weights, target, progress=shares.append, fold=False)
    assert shares[-1] == 1 and shares == sorted(shares)
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert (model.producer_name, model.ir_version) == ("caffesurgery", 8)
    assert model.opset_import[0].version == report.opset == 13
    assert (tmp_path / "net.onnx").stat().st_size == report.bytes
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert np.array_equal(stored["c.weight"], weights.blobs("c")[0].array())
    assert np.array_equal(stored["f.weight"], weights.blobs("f")[0].array())
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    assert [dim.dim_value or dim.dim_param for dim in shapes["c"]] == ["batch", 4, 4, 4]


def test_equal_constants_are_stored_once(tmp_path):
    text = input_layer(data=(1, 4)) + "".join(
        layer("BatchNorm", a, b) for a, b in (("data", "x"), ("x", "y"))
    )
    made = build(*net_and_weights(text, tmp_path), fold=False)
    ones = [a for a in made.model.initializers.values() if a.shape == (4,) and (a == 1).all()]
    assert len(ones) == 1


def test_layers_that_share_a_parameter_need_it_stored_once(tmp_path):
    params = 'param {{ name: "w" }} inner_product_param {{ num_output: 4 bias_term: false }}'
    text = input_layer(data=(2, 4)) + "".join(
        layer("InnerProduct", a, b, params.format()) for a, b in (("data", "x"), ("x", "y"))
    )
    net = parse_net(text)
    weight = random(4, 4)
    new = caffemodel.NewLayer("x", "InnerProduct", ("data",), ("x",), [weight])
    caffemodel.write(tmp_path / "w.caffemodel", "", [new])
    made = build(net, caffemodel.read(tmp_path / "w.caffemodel"))
    x = random(2, 4, seed=1)
    assert relative(run(model_bytes(made), {"data": x})["y"], x @ weight.T @ weight.T) < 1e-5
    assert len(made.model.initializers) == 1


def write_some(path, **layers):
    new = [caffemodel.NewLayer(name, "", (), (), blobs) for name, blobs in layers.items()]
    caffemodel.write(path, "", new)
    return caffemodel.read(path)


def test_layers_without_fitting_weights_are_named(tmp_path):
    net = parse_net(CHAIN, "chain.prototxt")
    few = write_some(tmp_path / "few.caffemodel", c=[random(4, 3, 3, 3), random(4)])
    message = (
        r"(?s)few.caffemodel does not belong to chain.prototxt.*"
        r"no weights for 'bn' \(BatchNorm, line \d+\), 'f' \(InnerProduct"
    )
    with pytest.raises(WeightsError, match=message):
        build(net, few)
    wrong = write_some(tmp_path / "wrong.caffemodel", c=[random(4, 3, 5, 5), random(4)])
    with pytest.raises(WeightsError, match="blob 0 is expected to be 4x3x3x3.* hold 4x3x5x5"):
        build(net, wrong)
    with pytest.raises(WeightsError, match="has parameters but no weights are given"):
        build(net, None)


def test_a_layer_type_without_onnx_form_is_refused_by_name_type_and_line(tmp_path):
    text = input_layer(data=(1, 3, 8, 8)) + "\n" + layer("FancyNorm", "data", "y", name="odd")
    with pytest.raises(ExportError, match=r"net.prototxt:3 \(layer 'odd'\).*'FancyNorm'"):
        build(parse_net(text, "net.prototxt"), None)
    text = input_layer(data=(1, 3, 8, 8)) + layer(
        "ReLU6", "data", "p", "relu6_param { negative_slope: 0.1 }"
    )
    with pytest.raises(ExportError, match=r"net.prototxt:2 \(layer 'p'\).*another function"):
        build(parse_net(text, "net.prototxt"), None)


def test_a_name_that_is_not_utf8_is_refused():
    text = input_layer(data=(1, 3)) + layer("ReLU", "data", "NAME")
    net = parse_net(text.encode().replace(b"NAME", b"caf\xe9"), "net.prototxt")
    with pytest.raises(ExportError, match="net.prototxt:2.* is not UTF-8"):
        build(net, None)


def test_nothing_is_overwritten_unasked_and_nothing_is_left_after_an_error(tmp_path):
    net, weights = net_and_weights(CHAIN, tmp_path)
    target = tmp_path / "out" / "net.onnx"
    export_onnx(net, weights, target)
    with pytest.raises(FileError, match="already there"):
        export_onnx(net, weights, target)
    export_onnx(net, weights, target, force=True)

    def stop(share):
        raise KeyboardInterrupt

    before = target.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        export_onnx(net, weights, target, force=True, progress=stop)
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == ["net.onnx"]


def test_a_model_beyond_two_gibibytes_is_refused_before_it_is_written():
    huge = np.broadcast_to(np.float32(0), (1 << 15, 1 << 14))
    model = Model("big", 13, (), (), (), (), {"w": huge})
    stream = io.BytesIO()
    with pytest.raises(ExportError, match="at most 2,147,483,647"):
        model.write(stream)
    assert not stream.getvalue()


def test_an_unknown_opset_is_refused(tmp_path):
    with pytest.raises(ExportError, match="opset 10: expected 11 to"):
        build(*net_and_weights(CHAIN, tmp_path), opset=10)


def test_weights_and_graph_may_be_written_apart(tmp_path):
    text = input_layer(data=(1, 64)) + layer(
        "InnerProduct", "data", "f", "inner_product_param { num_output: 33 }"
    )
    net, weights = net_and_weights(text, tmp_path)
    made = build(net, weights)
    with open(tmp_path / "net.onnx", "wb") as stream, open(tmp_path / "data", "wb") as data:
        made.model.write_apart(stream, data, "data")
    model = onnx.load(tmp_path / "net.onnx")
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert np.array_equal(stored["f.weight"], weights.blobs("f")[0].array())
    assert (tmp_path / "data").stat().st_size == math.ceil(33 * 64 * 4 / 64) * 64
