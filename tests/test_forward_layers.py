"""Each layer type by its formula or by ONNX Runtime, for what the golden nets leave out."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from nets import relative
from onnxnets import input_layer, layer, net_and_weights, run_net

from caffesurgery import forward
from caffesurgery.errors import NetError
from caffesurgery.net.layers import lookup
from caffesurgery.net.shapes import infer


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def compute(text, tmp_path, feeds, blobs=None):
    """All outputs of a net given as text; the weights are those that ``run_net`` makes."""
    net, weights = net_and_weights(text, Path(mkdtemp(dir=tmp_path)), blobs)
    shapes = infer(net, "TEST")
    return forward.Runner(shapes, forward.load(shapes, weights)).run(feeds)


CONV = "convolution_param { num_output: 6 %s }"
POOL = "pooling_param { %s }"
SHAPE = (2, 6, 9, 7)
# layer type, parameters, tops: of a bottom of SHAPE
AS_EXPORTED = [
    ("Convolution", CONV % "kernel_size: 3 stride: 2 pad: 1", "y"),
    ("Convolution", CONV % "kernel_size: 1", "y"),
    ("Convolution", CONV % "kernel_size: 1 stride: 2", "y"),
    ("Convolution", CONV % "kernel_size: 1 group: 6 bias_term: false", "y"),
    ("Convolution", CONV % "kernel_h: 3 kernel_w: 1 pad_h: 2 pad_w: 0 dilation: 2 group: 3", "y"),
    ("Deconvolution", CONV % "kernel_size: 3 stride: 2 pad: 1 group: 2", "y"),
    ("Deconvolution", CONV % "kernel_size: 1 bias_term: false", "y"),
    ("Deconvolution", CONV % "kernel_size: 2 dilation: 3", "y"),
    ("Pooling", POOL % "kernel_size: 3 stride: 2", "y"),
    ("Pooling", POOL % "kernel_size: 3 stride: 2 pad: 1 pool: AVE", "y"),
    ("Pooling", POOL % "kernel_size: 2 stride: 3", "y"),
    ("Pooling", POOL % "kernel_size: 2 stride: 2 round_mode: FLOOR pool: AVE", "y"),
    ("Pooling", POOL % "global_pooling: true", "y"),
    ("Pooling", POOL % "global_pooling: true pool: AVE", "y"),
    ("Pooling", POOL % "kernel_size: 3 stride: 2", "y places"),
    ("LRN", "lrn_param { local_size: 3 alpha: 0.1 k: 2 }", "y"),
    ("LRN", "lrn_param { local_size: 15 alpha: 2 beta: 0.5 }", "y"),
    ("LRN", "lrn_param { local_size: 5 alpha: 2 norm_region: WITHIN_CHANNEL }", "y"),
    ("Softmax", "softmax_param { axis: 2 }", "y"),
    ("Slice", "slice_param { axis: 1 slice_point: 1 slice_point: 4 }", "a b c"),
    ("InnerProduct", "inner_product_param { num_output: 4 transpose: true }", "y"),
    ("InnerProduct", "inner_product_param { num_output: 4 axis: 2 }", "y"),
    ("InnerProduct", "inner_product_param { num_output: 4 axis: -1 bias_term: false }", "y"),
    ("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 3 } axis: 1 num_axes: 2 }", "y"),
    ("Tile", "tile_param { axis: 2 tiles: 3 }", "y"),
    ("Reduction", "reduction_param { operation: MEAN axis: 2 coeff: 2 }", "y"),
    ("Reduction", "reduction_param { operation: SUMSQ axis: 0 }", "y"),
    ("ArgMax", "argmax_param { top_k: 3 out_max_val: true }", "y"),
    ("ArgMax", "argmax_param { top_k: 2 axis: -2 out_max_val: true }", "y"),
    ("MVN", "mvn_param { across_channels: true }", "y"),
    ("SPP", "spp_param { pyramid_height: 2 pool: AVE }", "y"),
    ("PReLU", "", "y"),
    ("Scale", "scale_param { axis: 2 num_axes: 1 bias_term: true }", "y"),
    ("Bias", "bias_param { axis: 1 num_axes: 2 }", "y"),
    ("BatchNorm", "", "y"),
    ("Swish", "swish_param { beta: 2 }", "y"),
    ("Clip", "clip_param { min: -1 max: 0.5 }", "y"),
    ("Power", "power_param { power: 3 scale: 2 shift: -1 }", "y"),
    ("Exp", "exp_param { base: 2 scale: 3 shift: 1 }", "y"),
    ("ReLU6", "", "y"),
    ("Mish", "", "y"),
    ("Region", "", "y"),
    ("Permute", "permute_param { order: 2 order: 0 }", "y"),
    ("ShuffleChannel", "shuffle_channel_param { group: 3 }", "y"),
    ("Normalize", "norm_param { across_spatial: false channel_shared: false }", "y"),
    ("Normalize", "norm_param { }", "y"),
    ("BN", "", "y"),
    ("BN", "bn_param { bn_mode: LEARN }", "y"),
    ("BN", "bn_param { bn_mode: INFERENCE }", "y"),
    ("Interp", "interp_param { zoom_factor: 3 pad_beg: -1 }", "y"),
    ("Interp", "interp_param { height: 4 width: 1 pad_end: -2 }", "y"),
    ("Upsample", "upsample_param { scale: 3 }", "y"),
    ("ConvolutionDepthwise", CONV % "kernel_size: 3 pad: 1", "y"),
    ("DepthwiseConvolution", CONV % "kernel_size: 3 group: 3", "y"),
]


@pytest.mark.parametrize("kind, params, tops", AS_EXPORTED, ids=lambda part: str(part)[:40])
def test_layer_computes_what_its_export_computes(kind, params, tops, tmp_path):
    text = input_layer(data=SHAPE) + layer(kind, "data", tops, params)
    feeds = {"data": random(*SHAPE)}
    expected = run_net(text, tmp_path, feeds)
    found = compute(text, tmp_path, feeds)
    assert set(found) == set(expected)
    for name, blob in expected.items():
        assert found[name].shape == blob.shape and relative(found[name], blob) < 1e-5


@pytest.mark.parametrize("reverse", ["true", "false"])
def test_reorg_computes_what_its_export_computes(reverse, tmp_path):
    x = random(2, 8, 6, 4)
    params = f"reorg_param {{ stride: 2 reverse: {reverse} }}"
    text = input_layer(data=x.shape) + layer("Reorg", "data", "y", params)
    expected = run_net(text, tmp_path, {"data": x})["y"]
    assert np.array_equal(compute(text, tmp_path, {"data": x})["y"], expected)


def test_pooling_is_undone_by_its_mask(tmp_path):
    x = random(2, 3, 6, 4)
    text = input_layer(data=x.shape)
    text += layer("Pooling", "data", "p mask", "pooling_param { kernel_size: 2 stride: 2 }")
    text += layer("Upsample", "p mask", "y", "upsample_param { scale: 2 }")
    expected = run_net(text, tmp_path, {"data": x})["y"]
    found = compute(text, tmp_path, {"data": x})["y"]
    assert np.array_equal(found, expected) and np.count_nonzero(found) == 2 * 3 * 6


def test_prior_boxes_are_those_of_their_export(tmp_path):
    text = input_layer(map=(1, 4, 3, 2), data=(1, 3, 30, 20))
    text += layer("PriorBox", "map data", "y", "prior_box_param { min_size: 4 aspect_ratio: 2 }")
    feeds = {"map": random(1, 4, 3, 2), "data": random(1, 3, 30, 20)}
    net, _ = net_and_weights(text, tmp_path)
    entry = infer(net, "TEST").layers[-1]
    expected = lookup("PriorBox").boxes(entry.layer, entry.bottoms)
    assert np.array_equal(compute(text, tmp_path, feeds)["y"], expected)


JOINED = [
    ("Axpy", "", "factor x y"),
    ("Eltwise", "eltwise_param { coeff: 2 coeff: -1 coeff: 0.5 }", "x y z"),
    ("Eltwise", "eltwise_param { operation: PROD }", "x y z"),
    ("Eltwise", "eltwise_param { operation: MAX }", "x y x"),
    ("Concat", "concat_param { axis: -1 }", "x y z"),
    ("Concat", "", "x"),
    ("Scale", "", "x y"),
    ("Bias", "", "x y"),
    ("Crop", "crop_param { axis: 1 offset: 1 offset: 2 offset: 0 }", "x small"),
]


@pytest.mark.parametrize("kind, params, bottoms", JOINED, ids=lambda part: str(part)[:40])
def test_layer_with_several_bottoms_computes_what_its_export_computes(
    kind, params, bottoms, tmp_path
):
    shape = (2, 4, 5, 3)
    arrays = {"x": shape, "y": shape, "z": shape, "small": (1, 2, 2, 3), "factor": (2, 4)}
    used = {
        name: random(*arrays[name], seed=i) for i, name in enumerate(sorted(set(bottoms.split())))
    }
    text = input_layer(**{name: array.shape for name, array in used.items()})
    params = "axis: 0" if kind in ("Scale", "Bias") and not params else params
    params = f"{kind.lower()}_param {{ {params} }}" if params == "axis: 0" else params
    text += layer(kind, bottoms, "out", params)
    expected = run_net(text, tmp_path, used)["out"]
    found = compute(text, tmp_path, used)["out"]
    assert relative(found, expected) < 1e-6


def test_convolutions_over_none_one_and_three_axes(tmp_path):
    x, weight = random(2, 3, 9), random(2, 3, 3, seed=1)
    text = input_layer(data=x.shape) + layer(
        "Convolution", "data", "c",
        "convolution_param { num_output: 2 kernel_size: 3 bias_term: false pad: 1 stride: 2 }",
    )  # fmt: skip
    found = compute(text, tmp_path, {"data": x}, {"c": [weight]})["c"]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=2)[:, :, ::2]
    assert relative(found, np.einsum("ncok,tck->nto", patches, weight)) < 1e-5

    x, weight = random(1, 2, 5, 4, 6), random(2, 2, 3, 3, 3, seed=1)
    for kind in ("Convolution", "Deconvolution"):
        text = input_layer(data=x.shape) + layer(
            kind, "data", "c", "convolution_param { num_output: 2 kernel_size: 3 bias_term: false }"
        )
        found = compute(text, tmp_path, {"data": x}, {"c": [weight]})["c"]
        if kind == "Convolution":
            patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3, 3), axis=(2, 3, 4))
            assert relative(found, np.einsum("nsxyzabc,tsabc->ntxyz", patches, weight)) < 1e-5
        else:
            expected = np.zeros((1, 2, 7, 6, 8), np.float32)
            for a, b, c in np.ndindex(3, 3, 3):
                part = np.einsum("nsxyz,st->ntxyz", x, weight[..., a, b, c])
                expected[:, :, a : a + 5, b : b + 4, c : c + 6] += part
            assert relative(found, expected) < 1e-5

    x, weight = random(4, 3), random(2, 3, seed=1)
    text = input_layer(data=x.shape) + layer(
        "Convolution",
        "data",
        "c",
        "convolution_param { num_output: 2 bias_term: false kernel_size: 1 }",
    )
    found = compute(text, tmp_path, {"data": x}, {"c": [weight]})["c"]
    assert relative(found, x @ weight.T) < 1e-5


def test_a_kernel_beyond_the_padded_bottom_has_the_window_that_caffe_gives_it(tmp_path):
    """(5 - 7) / 4 is 0 in C, so there is one window, whose far end meets nothing."""
    x, weight = random(1, 1, 5, 5), random(1, 1, 7, 7, seed=1)
    text = input_layer(data=x.shape) + layer(
        "Convolution", "data", "c",
        "convolution_param { num_output: 1 kernel_size: 7 stride: 4 bias_term: false }",
    )  # fmt: skip
    found = compute(text, tmp_path, {"data": x}, {"c": [weight]})["c"]
    assert found.shape == (1, 1, 1, 1)
    assert relative(found, np.sum(x * weight[..., :5, :5]).reshape(found.shape)) < 1e-5


@pytest.mark.parametrize("bias", ["true", "false"])
@pytest.mark.parametrize("group", [4, 6, 12])
def test_groups_a_few_at_a_time_are_as_all_at_once(group, bias, tmp_path, monkeypatch):
    x, weight, term = random(2, 12, 9, 8), random(24, 12 // group, 3, 2), random(24)
    text = input_layer(data=x.shape) + layer(
        "Convolution", "data", "c",
        f"convolution_param {{ num_output: 24 group: {group} kernel_h: 3 kernel_w: 2 pad: 1 "
        f"stride: 2 bias_term: {bias} }}",
    )  # fmt: skip
    blobs = {"c": [weight, term][: 1 + (bias == "true")]}
    runs = []
    for groups in (5, 1, 12):
        each = 4 * 12 // group * 6 * 25  # bytes of columns
        monkeypatch.setattr(forward.convolution, "_NEAR", groups * each)
        runs.append(compute(text, tmp_path, {"data": x}, blobs)["c"])
    assert relative(runs[0], runs[2]) < 1e-6 and relative(runs[1], runs[2]) < 1e-6


def test_im2col_gives_the_patches_as_channels(tmp_path):
    x = random(2, 3, 5, 4)
    text = input_layer(data=x.shape) + layer(
        "Im2col", "data", "y", "convolution_param { kernel_size: 2 }"
    )
    found = compute(text, tmp_path, {"data": x})["y"]
    patches = np.lib.stride_tricks.sliding_window_view(x, (2, 2), axis=(2, 3))
    assert np.array_equal(found, patches.transpose(0, 1, 4, 5, 2, 3).reshape(2, 12, 4, 3))


def test_a_window_outside_of_the_bottom_gives_the_lowest_number(tmp_path):
    """Kernel 1 and stride 2 over 3 values rounded up: the last of three windows meets nothing."""
    text = input_layer(data=(1, 1, 1, 4)) + layer(
        "Pooling", "data", "y", "pooling_param { kernel_h: 1 kernel_w: 1 stride_h: 1 stride_w: 2 }"
    )
    found = compute(text, tmp_path, {"data": np.arange(4).reshape(1, 1, 1, 4)})["y"]
    assert found.reshape(-1).tolist() == [0, 2, np.finfo(np.float32).min]


def test_a_factor_from_a_second_bottom_with_a_learned_term(tmp_path):
    x, factor, term = random(4, 3, 2, 2), random(4, 3, seed=1), random(4, 3, seed=2)
    text = input_layer(data=x.shape, m=factor.shape)
    text += layer("Scale", "data m", "y", "scale_param { axis: 0 bias_term: true }")
    found = compute(text, tmp_path, {"data": x, "m": factor}, {"y": [term]})["y"]
    assert relative(found, x * factor[:, :, None, None] + term[:, :, None, None]) < 1e-6


def test_lstm_with_static_input_and_exposed_states_is_what_its_export_computes(tmp_path):
    size = 3
    arrays = {
        "x": random(4, 2, 5),
        "cont": np.float32([[0, 1], [1, 1], [1, 0], [1, 1]]),
        "static": random(2, 6, seed=1),
        "h": random(1, 2, size, seed=2),
        "c": random(1, 2, size, seed=3),
    }
    text = input_layer(**{name: array.shape for name, array in arrays.items()})
    params = f"recurrent_param {{ num_output: {size} expose_hidden: true }}"
    text += layer("LSTM", "x cont static h c", "y hT cT", params)
    expected = run_net(text, tmp_path, arrays)
    found = compute(text, tmp_path, arrays)
    assert set(found) == {"y", "hT", "cT"}
    assert all(relative(found[name], expected[name]) < 1e-5 for name in found)


def test_lstm_unit_is_one_step_of_an_lstm(tmp_path):
    arrays = {"c": random(1, 2, 3), "g": random(1, 2, 12, seed=1), "cont": np.float32([[1, 0]])}
    text = input_layer(**{name: array.shape for name, array in arrays.items()})
    text += layer("LSTMUnit", "c g cont", "c1 h1")
    found = compute(text, tmp_path, arrays)
    i, f, o = (1 / (1 + np.exp(-gate)) for gate in np.split(arrays["g"][0][:, :9], 3, 1))
    cell = arrays["cont"][0][:, None] * f * arrays["c"][0] + i * np.tanh(arrays["g"][0][:, 9:])
    assert relative(found["c1"][0], cell) < 1e-6
    assert relative(found["h1"][0], o * np.tanh(cell)) < 1e-6


def log_softmax(x):
    return x - np.log(np.exp(x).sum(1, keepdims=True))


SCORES, LABELS = random(4, 5), np.float32([1, 0, 4, 2])
PICKED = log_softmax(SCORES)[np.arange(4), LABELS.astype(int)]
TARGETS = np.random.default_rng(1).random((4, 5), np.float32)
SIGMOID = 1 / (1 + np.exp(-SCORES))
MARGINS = np.maximum(1 - np.where(np.eye(5)[LABELS.astype(int)] > 0, SCORES, -SCORES), 0)
IGNORE = "loss_param { ignore_label: 4 %s }"
KEPT = PICKED[[0, 1, 3]].sum()
LOSSES = [
    ("SoftmaxWithLoss", "", LABELS, -PICKED.mean()),
    ("SoftmaxWithLoss", IGNORE % "", LABELS, -KEPT / 3),
    ("SoftmaxWithLoss", IGNORE % "normalization: FULL", LABELS, -KEPT / 4),
    ("SoftmaxWithLoss", IGNORE % "normalization: NONE", LABELS, -KEPT),
    ("SoftmaxWithLoss", IGNORE % "normalize: false", LABELS, -KEPT / 4),
    ("EuclideanLoss", "", TARGETS, np.square(SCORES - TARGETS).sum() / 8),
    (
        "SigmoidCrossEntropyLoss", "", TARGETS,
        -(TARGETS * np.log(SIGMOID) + (1 - TARGETS) * np.log(1 - SIGMOID)).sum() / 4,
    ),
    ("HingeLoss", "", LABELS, MARGINS.sum() / 4),
    ("HingeLoss", "hinge_loss_param { norm: L2 }", LABELS, np.square(MARGINS).sum() / 4),
]  # fmt: skip


@pytest.mark.parametrize("kind, params, labels, expected", LOSSES, ids=lambda part: str(part)[:30])
def test_loss_is_its_formula(kind, params, labels, expected, tmp_path):
    text = input_layer(s=SCORES.shape, t=labels.shape) + layer(kind, "s t", "loss", params)
    found = compute(text, tmp_path, {"s": SCORES, "t": labels})["loss"]
    assert found.shape == () and found == pytest.approx(expected, rel=1e-5)


def test_losses_of_probabilities_and_of_pairs(tmp_path):
    share = np.exp(log_softmax(SCORES))
    text = input_layer(s=(4, 5), t=(4,)) + layer("MultinomialLogisticLoss", "s t", "loss")
    found = compute(text, tmp_path, {"s": share, "t": LABELS})["loss"]
    assert found == pytest.approx(-PICKED.mean(), rel=1e-5)
    first, second = random(4, 3), random(4, 3, seed=1)
    alike = np.float32([1, 0, 0, 1])
    text = input_layer(a=(4, 3), b=(4, 3), y=(4,))
    text += layer("ContrastiveLoss", "a b y", "loss", "contrastive_loss_param { margin: 3 }")
    squares = np.square(first - second).sum(1)
    short = np.square(np.maximum(3 - np.sqrt(squares), 0))
    found = compute(text, tmp_path, {"a": first, "b": second, "y": alike})["loss"]
    assert found == pytest.approx(np.where(alike, squares, short).sum() / 8, rel=1e-5)


def test_accuracy_counts_as_caffe_does(tmp_path):
    """Of equal scores the later class comes first, and ignored labels do not count."""
    scores = np.float32([[1, 1, 0], [0, 2, 1], [3, 0, 0], [0, 0, 1]])
    labels = np.float32([0, 1, 2, 2])
    for params, expected, by_class in [
        ("", 2 / 4, [0, 1, 1 / 2]),
        ("top_k: 2", 4 / 4, [1, 1, 1]),
        ("ignore_label: 0", 2 / 3, [0, 1, 1 / 2]),
    ]:
        text = input_layer(s=scores.shape, t=labels.shape)
        text += layer("Accuracy", "s t", "acc each", f"accuracy_param {{ {params} }}")
        found = compute(text, tmp_path, {"s": scores, "t": labels})
        assert found["acc"] == pytest.approx(expected)
        assert found["each"].tolist() == pytest.approx(by_class)


@pytest.mark.parametrize("kind", ["SoftmaxWithLoss", "HingeLoss", "Accuracy"])
def test_a_label_that_is_no_class_is_refused(kind, tmp_path):
    text = input_layer(s=SCORES.shape, t=(4,)) + layer(kind, "s t", "loss")
    with pytest.raises(NetError, match=f"{kind}: met the label 5, expected 0 to 4"):
        compute(text, tmp_path, {"s": SCORES, "t": np.float32([0, 5, 1, 2])})


def test_sources_give_constants_and_learned_blobs(tmp_path):
    text = layer(
        "DummyData", "", "ones", "dummy_data_param { shape { dim: 2 } data_filler { value: 1 } }"
    ) + layer("Parameter", "", "p", "parameter_param { shape { dim: 2 } }")
    text += layer("Eltwise", "ones p", "sum")
    found = compute(text, tmp_path, {}, {"p": [np.float32([3, 4])]})
    assert found["sum"].tolist() == [4, 5]
    noisy = text.replace("value: 1", 'type: "gaussian"')
    fed = compute(noisy, tmp_path, {"ones": [2, 2]}, {"p": [np.float32([3, 4])]})
    assert fed["sum"].tolist() == [5, 6]


def test_items_are_picked_by_index(tmp_path):
    x = random(3, 2)
    text = input_layer(data=x.shape, i=(4,)) + layer("BatchReindex", "data i", "y")
    assert np.array_equal(
        compute(text, tmp_path, {"data": x, "i": [2, 0, 0, 1]})["y"], x[[2, 0, 0, 1]]
    )
