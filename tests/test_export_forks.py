"""Layers of Caffe's forks in ONNX: equal to OpenCV's importer, or to the layer's formula."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from onnxnets import input_layer, layer, model_bytes, net_and_weights, relative, run, run_net
from test_shapes import FORK_TYPES

from caffesurgery.errors import NetError
from caffesurgery.export.half import to_half
from caffesurgery.export.model import NEWEST_OPSET
from caffesurgery.export.onnx import build
from caffesurgery.net.net import parse_net
from caffesurgery.net.shapes import infer


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def by_opencv(text, folder, feeds, top):
    """What OpenCV 4's Caffe importer computes, with the weights of the last run in ``folder``."""
    path = folder / "net.prototxt"
    path.write_text(text)
    net = cv2.dnn.readNetFromCaffe(str(path), *map(str, folder.glob("*.caffemodel")))
    for name, array in feeds.items():
        net.setInput(array, name)
    return net.forward(top)


# (params, shapes of the bottoms): compared with OpenCV
IMPORTED = {
    "ReLU6": [("", [(2, 8, 6, 6)])],
    "Mish": [("", [(2, 8, 6, 6)])],
    "Permute": [
        ("permute_param { order: 0 order: 2 order: 3 order: 1 }", [(2, 8, 5, 6)]),
    ],
    "ShuffleChannel": [("shuffle_channel_param { group: 4 }", [(2, 8, 6, 6)])],
    "Normalize": [
        ("norm_param { across_spatial: false channel_shared: false }", [(2, 8, 6, 6)]),
        ("norm_param { }", [(1, 8, 6, 6)]),
    ],
    "Reorg": [("reorg_param { stride: 2 }", [(2, 8, 6, 4)])],
    "Interp": [
        ("interp_param { height: 11 width: 13 }", [(2, 3, 6, 7)]),
        ("interp_param { zoom_factor: 3 }", [(1, 3, 6, 7)]),
    ],
    "ConvolutionDepthwise": [
        ("convolution_param { num_output: 8 kernel_size: 3 pad: 1 }", [(2, 8, 6, 6)]),
    ],
}


@pytest.mark.parametrize("opset", [11, 13, NEWEST_OPSET])
@pytest.mark.parametrize("kind", IMPORTED)
def test_layer_equals_opencvs_importer(kind, opset, tmp_path):
    for params, shapes in IMPORTED[kind]:
        feeds = {f"x{i}": 3 * random(*shape, seed=i) for i, shape in enumerate(shapes)}
        text = input_layer(**{name: x.shape for name, x in feeds.items()})
        text += layer(kind, " ".join(feeds), "y", params)
        found = run_net(text, tmp_path, feeds, opset=opset)["y"]
        assert relative(found, by_opencv(text, tmp_path, feeds, "y")) < 1e-5
        for path in tmp_path.glob("*.caffemodel"):
            path.unlink()


REGIONS = np.array(
    [[0, 10, 20, 150, 200], [1, 0, 0, 300, 310], [0, 100.5, 3, 120, 33], [1, 40, 90, 41, 91]],
    np.float32,
)


@pytest.mark.parametrize("opset", [11, 13, 21, NEWEST_OPSET])
@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("ROIPooling", "roi_pooling_param { pooled_h: 3 pooled_w: 4 spatial_scale: 0.0625 }"),
        ("PSROIPooling", "psroi_pooling_param { output_dim: 2 group_size: 3 spatial_scale: 0.06 }"),
    ],
)
def test_regions_are_pooled_as_opencv_does(kind, params, opset, tmp_path):
    feeds = {"x": random(2, 18, 20, 24), "rois": REGIONS}
    text = input_layer(x=(2, 18, 20, 24), rois=REGIONS.shape) + layer(kind, "x rois", "y", params)
    found = run_net(text, tmp_path, feeds, opset=opset)["y"]
    assert relative(found, by_opencv(text, tmp_path, feeds, "y")) < 1e-5


def test_many_regions_give_the_same_with_and_without_max_roi_pool(tmp_path):
    numbers = np.random.default_rng(4)
    corners = numbers.uniform(-30, 420, (200, 4))
    corners[:, 2:] = corners[:, :2] + numbers.uniform(-20, 300, (200, 2))
    rois = np.insert(corners, 0, numbers.integers(0, 2, 200), axis=1).astype(np.float32)
    feeds = {"x": random(2, 5, 19, 33), "rois": rois}
    params = "roi_pooling_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.0625 }"
    text = input_layer(x=(2, 5, 19, 33), rois=rois.shape) + layer(
        "ROIPooling", "x rois", "y", params
    )
    old, new = (run_net(text, tmp_path, feeds, opset=n)["y"] for n in (21, NEWEST_OPSET))
    assert np.array_equal(old, new) and (new == 0).any()


def reorg(x, stride, reverse):
    """Darknet's loops: the element at (k, j, i) of one side is at ``place`` of the other."""
    items, channels, height, width = x.shape
    few = channels // stride**2
    out = np.zeros(x.size, x.dtype)
    for b, k, j, i in np.ndindex(*x.shape):
        offset = k // few
        row, column = j * stride + offset // stride, i * stride + offset % stride
        place = column + width * stride * (row + height * stride * (k % few + few * b))
        here = i + width * (j + height * (k + channels * b))
        if reverse:
            out[place] = x.ravel()[here]
        else:
            out[here] = x.ravel()[place]
    if reverse:
        return out.reshape(items, few, height * stride, width * stride)
    return out.reshape(items, channels * stride**2, height // stride, width // stride)


def unpooled(x, mask, sizes):
    out = np.zeros(x.shape[:2] + (sizes[0] * sizes[1],), np.float32)
    np.put_along_axis(
        out, mask.reshape(*x.shape[:2], -1).astype(int), x.reshape(*x.shape[:2], -1), 2
    )
    return out.reshape(*x.shape[:2], *sizes)


MASK = np.stack([np.random.default_rng(i).permutation(24)[:6] for i in range(6)])
MASK = MASK.reshape(2, 3, 2, 3).astype(np.float32)
SLOPE, SHIFT = np.arange(1, 4) / 2, np.arange(3) - 1.0
CHANNEL = (1, 3, 1, 1)

# (params, bottoms, blobs, formula): computed by hand
FORMULAS = {
    "DepthwiseConvolution": (
        "convolution_param { num_output: 3 group: 3 kernel_size: 1 }",
        [random(2, 3, 4, 5)],
        [SLOPE.reshape(3, 1, 1, 1), SHIFT],
        lambda x: x * SLOPE.reshape(CHANNEL) + SHIFT.reshape(CHANNEL),
    ),
    "Axpy": (
        "",
        [random(2, 3), random(2, 3, 4, 5, seed=1), random(2, 3, 4, 5, seed=2)],
        None,
        lambda a, x, y: a[:, :, None, None] * x + y,
    ),
    "BN frozen": (
        "bn_param { frozen: true eps: 1e-3 }",
        [random(2, 3, 4, 5)],
        [v.reshape(CHANNEL) for v in (SLOPE, SHIFT, SHIFT * 2, SLOPE * 3)],
        lambda x: (
            (x - 2 * SHIFT.reshape(CHANNEL)) / np.sqrt(3 * SLOPE.reshape(CHANNEL) + 1e-3)
        ) * SLOPE.reshape(CHANNEL) + SHIFT.reshape(CHANNEL),
    ),
    "BN inference": (
        "bn_param { bn_mode: INFERENCE }",
        [random(2, 3, 4, 5)],
        [v.reshape(CHANNEL) for v in (SLOPE, SHIFT)],
        lambda x: x * SLOPE.reshape(CHANNEL) + SHIFT.reshape(CHANNEL),
    ),
    "BN of the batch": (
        "bn_param { scale_filler { type: 'constant' } }",
        [random(2, 3, 4, 5)],
        [v.reshape(CHANNEL) for v in (SLOPE, SHIFT)],
        lambda x: (
            (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-9)
        ) * SLOPE.reshape(CHANNEL) + SHIFT.reshape(CHANNEL),
    ),
    "Upsample": (
        "upsample_param { scale: 3 }",
        [random(2, 3, 2, 3)],
        None,
        lambda x: x.repeat(3, 2).repeat(3, 3),
    ),
    "Upsample by mask": (
        "upsample_param { scale: 2 }",
        [random(2, 3, 2, 3), MASK],
        None,
        lambda x, mask: unpooled(x, mask, (4, 6)),
    ),
    "Upsample to a size": (
        "upsample_param { upsample_h: 5 upsample_w: 7 }",
        [random(2, 3, 2, 3), MASK],
        None,
        lambda x, mask: unpooled(x, mask, (5, 7)),
    ),
    "Reorg": (
        "reorg_param { stride: 2 }",
        [random(2, 4, 4, 6)],
        None,
        lambda x: reorg(x, 2, False),
    ),
    "Reorg reverse": (
        "reorg_param { stride: 2 reverse: true }",
        [random(2, 8, 4, 6)],
        None,
        lambda x: reorg(x, 2, True),
    ),
    "Region": ("region_param { classes: 20 }", [random(2, 3, 4, 5)], None, lambda x: x),
    "Interp cropped": (
        "interp_param { shrink_factor: 2 pad_beg: -1 pad_end: -2 }",
        [random(2, 3, 8, 10)],
        None,
        lambda x: x[:, :, 1:6:2, 1:8:2],
    ),
    "Im2col": (
        "convolution_param { kernel_size: 2 }",
        [random(2, 3, 4, 5)],
        None,
        lambda x: np.lib.stride_tricks.sliding_window_view(x, (2, 2), (2, 3))
        .transpose(0, 1, 4, 5, 2, 3)
        .reshape(2, 12, 3, 4),
    ),
    "Filter": (
        "",
        [random(4, 3), np.float32([0, 1, 1, 0])],
        None,
        lambda x, passed: x[passed != 0],
    ),
    "Pooling": (
        "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }",
        [np.abs(random(2, 3, 4, 6))],
        None,
        lambda x: (
            (x**2).reshape(2, 3, 2, 2, 3, 2).sum((3, 5)) / x.reshape(2, 3, 2, 2, 3, 2).sum((3, 5))
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("opset", [11, 13, NEWEST_OPSET])
@pytest.mark.parametrize("case", FORMULAS)
def test_layer_computes_its_formula(case, opset, tmp_path):
    params, bottoms, blobs, formula = FORMULAS[case]
    feeds = {f"x{i}": x for i, x in enumerate(bottoms)}
    text = input_layer(**{name: x.shape for name, x in feeds.items()})
    text += layer(case.split()[0], " ".join(feeds), "y", params)
    found = run_net(text, tmp_path, feeds, {"y": blobs} if blobs else None, opset=opset)["y"]
    assert relative(found, np.asarray(formula(*bottoms), np.float32)) < 1e-5


def test_interp_takes_the_size_of_a_second_bottom(tmp_path):
    text = input_layer(data=(1, 2, 4, 4), size=(1, 1, 9, 7)) + layer("Interp", "data size", "y")
    single = text.replace('bottom: "size"', "").replace("} }\n", "} }\n", 1)
    single = single.replace('top: "y"', 'top: "y" interp_param { height: 9 width: 7 }')
    x = {"data": random(1, 2, 4, 4), "size": random(1, 1, 9, 7)}
    assert relative(run_net(text, tmp_path, x)["y"], run_net(single, tmp_path, x)["y"]) == 0


IMAGE, MAP = (2, 3, 60, 80), (2, 4, 6, 8)
VARIANCES = " ".join(f"variance: {v}" for v in (0.1, 0.1, 0.2, 0.2))
PRIORS = f"min_size: 10 max_size: 20 aspect_ratio: 2 aspect_ratio: 3 {VARIANCES} clip: false"


@pytest.mark.parametrize(
    "params",
    [
        PRIORS,
        "min_size: 10 min_size: 25 aspect_ratio: 2 flip: false clip: true variance: 0.1 step: 8 "
        "offset: 0.3",
        "min_size: 12 variance: 0.1 step_h: 9 step_w: 7 clip: false",
    ],
)
def test_prior_boxes_are_a_constant_equal_to_opencvs(params, tmp_path):
    feeds = {"data": random(*IMAGE), "map": random(*MAP)}
    text = input_layer(data=IMAGE, map=MAP)
    text += layer("PriorBox", "map data", "boxes", f"prior_box_param {{ {params} }}")
    found = run_net(text, tmp_path, feeds)["boxes"]
    assert relative(found, by_opencv(text, tmp_path, feeds, "boxes")) < 1e-6
    model = build(*net_and_weights(text, tmp_path)).model
    assert [node.op for node in model.nodes] == ["Identity"]


CLASSES, BOXES = 5, 6 * 8 * 6


def detector(batch, options):
    """Text of an SSD's head with its inputs, and numbers for them."""
    places = CLASSES if "share_location: false" in options else 1
    numbers = np.random.default_rng(3)
    scores = numbers.dirichlet([0.3] * CLASSES, (batch, BOXES)).reshape(batch, -1)
    feeds = {
        "data": random(batch, *IMAGE[1:]),
        "map": random(batch, *MAP[1:]),
        "locations": 0.5 * random(batch, BOXES * 4 * places, seed=5),
        "scores": scores.astype(np.float32),
    }
    text = input_layer(**{name: x.shape for name, x in feeds.items()})
    text += layer("PriorBox", "map data", "priors", f"prior_box_param {{ {PRIORS} }}")
    params = f"detection_output_param {{ num_classes: {CLASSES} {options} }}"
    return text + layer("DetectionOutput", "locations scores priors", "found", params), feeds


DETECTORS = [
    "code_type: CENTER_SIZE keep_top_k: 20 confidence_threshold: 0.3 background_label_id: 0 "
    "share_location: true nms_param { nms_threshold: 0.45 top_k: 40 }",
    "code_type: CORNER keep_top_k: 200 confidence_threshold: 0.5 background_label_id: 0 "
    "share_location: true nms_param { nms_threshold: 0.3 top_k: 400 }",
    "code_type: CENTER_SIZE keep_top_k: 30 confidence_threshold: 0.2 background_label_id: 0 "
    "share_location: false nms_param { nms_threshold: 0.45 top_k: 100 }",
    "code_type: CENTER_SIZE keep_top_k: 50 confidence_threshold: 0.2 background_label_id: 2 "
    "share_location: true nms_param { nms_threshold: 0.6 top_k: 100 }",
]


@pytest.mark.parametrize("opset", [11, 13, NEWEST_OPSET])
@pytest.mark.parametrize("options", DETECTORS)
def test_detections_equal_opencvs(options, opset, tmp_path):
    text, feeds = detector(1, options)
    found = run_net(text, tmp_path, feeds, opset=opset)["found"]
    expected = by_opencv(text, tmp_path, feeds, "found")[0, 0]
    expected = expected[expected[:, 2] > 0]  # OpenCV fills the rest of keep_top_k with zeros
    assert len(expected) > 15
    assert relative(found[0, 0], expected) < 1e-5


def test_variances_may_be_in_the_targets_already(tmp_path):
    text, feeds = detector(1, DETECTORS[0])
    plain = text.replace(VARIANCES, "variance: 1")
    encoded = text.replace("num_classes", "variance_encoded_in_target: true num_classes")
    found, expected = (run_net(t, tmp_path, feeds)["found"] for t in (encoded, plain))
    assert np.array_equal(found, expected) and found.size
    assert not np.array_equal(found, run_net(text, tmp_path, feeds)["found"])


def test_detections_of_a_batch_are_those_of_its_items(tmp_path):
    for options in DETECTORS:
        text, feeds = detector(2, options)
        both = run_net(text, tmp_path, feeds)["found"][0, 0]
        for item in range(2):
            text, _ = detector(1, options)
            one = {name: x[item : item + 1] for name, x in feeds.items()}
            alone = run_net(text, tmp_path, one)["found"][0, 0]
            assert np.array_equal(both[both[:, 0] == item][:, 1:], alone[:, 1:])


@pytest.mark.parametrize("options", DETECTORS)
def test_detections_at_a_fixed_batch_look_for_no_shape(options, tmp_path):
    text, feeds = detector(2, options)
    open_, fixed = (build(*net_and_weights(text, tmp_path), batch=batch) for batch in (None, 2))
    assert [node.op for node in open_.model.nodes].count("Shape") == 1
    assert not {"Shape", "Expand"} & {node.op for node in fixed.model.nodes}
    found = run(model_bytes(fixed), feeds)["found"]
    assert np.array_equal(found, run_net(text, tmp_path, feeds)["found"])


def test_detections_in_half_precision_run_and_name_the_same_classes(tmp_path):
    text, feeds = detector(1, DETECTORS[0])
    made = build(*net_and_weights(text, tmp_path))
    half = to_half(made.model)
    half.check()
    found = run(model_bytes(replace(made, model=half)), feeds)["found"][0, 0]
    expected = run(model_bytes(made), feeds)["found"][0, 0]
    assert len(found) == len(expected)
    assert np.abs(found[:5, 1:3] - expected[:5, 1:3]).max() < 1e-2


def test_no_detection_is_an_empty_list(tmp_path):
    text, feeds = detector(1, DETECTORS[0].replace("threshold: 0.3", "threshold: 2"))
    assert run_net(text, tmp_path, feeds)["found"].shape == (1, 1, 0, 7)


def test_every_fork_type_has_a_test_here():
    tested = {*IMPORTED, *(case.split()[0] for case in FORMULAS)}
    tested |= {"ROIPooling", "PSROIPooling", "PriorBox", "DetectionOutput"}
    assert set(FORK_TYPES.split()) <= tested


REFUSED = [
    ("Permute", "permute_param { order: 0 order: 7 }", [(1, 4, 4, 4)], "once each"),
    ("ShuffleChannel", "shuffle_channel_param { group: 3 }", [(1, 4, 4, 4)], "group 3"),
    ("Reorg", "reorg_param { stride: 3 }", [(1, 4, 4, 4)], "stride 3 must divide"),
    ("Reorg", "", [(1, 4, 4, 4)], "stride must be above 0"),
    ("Interp", "", [(1, 4, 4, 4)], "expected zoom_factor"),
    ("Interp", "interp_param { zoom_factor: 2 pad_beg: 1 }", [(1, 4, 4, 4)], "crop"),
    ("Upsample", "", [(1, 4, 4, 4), (1, 4, 4, 5)], "differ"),
    ("Axpy", "", [(1, 3), (1, 4, 2, 2), (1, 4, 2, 2)], "expected bottoms NxC"),
    ("ROIPooling", "", [(1, 4, 4, 4), (3, 5)], "pooled_h and pooled_w"),
    ("ROIPooling", "", [(1, 4, 4, 4), (3, 4)], "rows of 5"),
    ("PSROIPooling", "psroi_pooling_param { output_dim: 2 group_size: 3 }",
     [(1, 4, 4, 4), (3, 5)], "4 channels"),
    ("PriorBox", "", [(1, 4, 4, 4), (1, 3, 9, 9)], "min_size"),
    ("DetectionOutput", "detection_output_param { num_classes: 3 }",
     [(1, 16), (1, 12), (1, 2, 20)], "expected 20 locations"),
    ("ConvolutionDepthwise", "convolution_param { num_output: 3 kernel_size: 1 }",
     [(1, 4, 4, 4)], "multiple of 4 channels"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "params", "shapes", "message"), REFUSED)
def test_a_layer_that_its_fork_would_refuse_is_refused(kind, params, shapes, message):
    names = {f"x{i}": shape for i, shape in enumerate(shapes)}
    text = input_layer(**names) + layer(kind, " ".join(names), "y", params)
    with pytest.raises(NetError, match=message):
        infer(parse_net(text))
