"""Shapes, parameter blobs and MACs of every layer type, by hand, by published figures, by Caffe."""

from __future__ import annotations

import itertools
import json

import pytest

from caffesurgery.errors import NetError
from caffesurgery.files import caffemodel
from caffesurgery.net.layers import known_types
from caffesurgery.net.layers.window import Window, conv_sizes, deconv_sizes, pool_sizes
from caffesurgery.net.net import parse_net, read_net
from caffesurgery.net.shapes import infer

BVLC_TYPES = """
    AbsVal Accuracy ArgMax BatchNorm BatchReindex Bias BNLL Clip Concat ContrastiveLoss Convolution
    Crop Data Deconvolution Dropout DummyData Eltwise ELU Embed EuclideanLoss Exp Filter Flatten
    HDF5Data HDF5Output HingeLoss Im2col ImageData InfogainLoss InnerProduct Input Log LRN LSTM
    LSTMUnit MemoryData MultinomialLogisticLoss MVN Parameter Pooling Power PReLU Python Reduction
    ReLU Reshape RNN Scale Sigmoid SigmoidCrossEntropyLoss Silence Slice Softmax SoftmaxWithLoss
    Split SPP Swish TanH Threshold Tile WindowData
"""


def dims(shape) -> str:
    return "shape { " + " ".join(f"dim: {dim}" for dim in shape) + " }"


def fed(text: str, *shapes, tops: int = 1) -> str:
    """A net of one layer, ``Type { more }``, that reads inputs of the given shapes."""
    kind, _, body = text.partition(" ")
    names = [f"in{index}" for index in range(len(shapes))]
    lines = [f'name: "x" type: "{kind}" {body}']
    lines += [f'bottom: "{name}"' for name in names]
    lines += [f'top: "out{index}"' for index in range(tops)]
    inputs = " ".join(f'top: "{name}"' for name in names)
    given = f"input_param {{ {' '.join(map(dims, shapes))} }}"
    first = f'layer {{ name: "data" type: "Input" {inputs} {given} }}\n' if shapes else ""
    return f"{first}layer {{ {' '.join(lines)} }}"


def measured(text: str, *shapes, tops: int = 1):
    return infer(parse_net(fed(text, *shapes, tops=tops), "n")).layers[-1]


def test_every_layer_type_of_bvlc_caffe_has_an_entry():
    assert set(BVLC_TYPES.split()) == set(known_types()) - set(FORK_TYPES.split())


FORK_TYPES = """
Axpy BN ConvolutionDepthwise DepthwiseConvolution DetectionOutput Interp Mish Normalize PSROIPooling
Permute PriorBox ROIPooling ReLU6 Region Reorg ShuffleChannel Upsample
"""


IMAGE = (2, 6, 9, 7)
CONV = "Convolution convolution_param { num_output: 4"

CASES = [
    # text, bottoms, tops, parameter blobs, MACs
    (CONV + " kernel_size: 3 }", [IMAGE], [(2, 4, 7, 5)], [(4, 6, 3, 3), (4,)], 280 * 54),
    (CONV + " kernel_size: 3 bias_term: false }", [IMAGE], [(2, 4, 7, 5)], [(4, 6, 3, 3)], 15120),
    (CONV + " kernel_size: 3 group: 2 }", [IMAGE], [(2, 4, 7, 5)], [(4, 3, 3, 3), (4,)], 280 * 27),
    (
        CONV + " kernel_size: 3 kernel_size: 2 stride: 2 pad: 1 pad: 0 }",
        [IMAGE],
        [(2, 4, 5, 3)],
        [(4, 6, 3, 2), (4,)],
        120 * 36,
    ),
    (
        CONV + " kernel_h: 1 kernel_w: 5 stride_h: 2 stride_w: 1 pad_h: 0 pad_w: 2 }",
        [IMAGE],
        [(2, 4, 5, 7)],
        [(4, 6, 1, 5), (4,)],
        280 * 30,
    ),
    # An extent of 5 rows in 9 + 2 leaves 6 steps of 1; 3 columns twice as far apart likewise.
    (
        CONV + " kernel_size: 3 dilation: 2 pad: 1 }",
        [IMAGE],
        [(2, 4, 7, 5)],
        [(4, 6, 3, 3), (4,)],
        15120,
    ),
    (CONV + " kernel_size: 3 }", [(2, 6, 9)], [(2, 4, 7)], [(4, 6, 3), (4,)], 56 * 18),
    (
        CONV + " kernel_size: 3 kernel_size: 2 kernel_size: 1 }",
        [(1, 6, 5, 5, 5)],
        [(1, 4, 3, 4, 5)],
        [(4, 6, 3, 2, 1), (4,)],
        240 * 36,
    ),
    (CONV + " kernel_size: 3 axis: 2 }", [IMAGE], [(2, 6, 4, 5)], [(4, 9, 3), (4,)], 240 * 27),
    (CONV + " kernel_size: 1 axis: -3 }", [(6, 9, 7)], [(4, 9, 7)], [(4, 6, 1, 1), (4,)], 252 * 6),
    (
        "De" + CONV.lower() + " kernel_size: 3 stride: 2 pad: 1 group: 2 }",
        [IMAGE],
        [(2, 4, 17, 13)],
        [(6, 2, 3, 3), (4,)],
        756 * 18,
    ),
    ("Im2col convolution_param { kernel_size: 3 stride: 2 }", [IMAGE], [(2, 54, 4, 3)], [], 0),
    ("Pooling pooling_param { kernel_size: 2 stride: 2 }", [IMAGE], [(2, 6, 5, 4)], [], 0),
    (
        "Pooling pooling_param { kernel_size: 2 stride: 2 round_mode: FLOOR }",
        [IMAGE],
        [(2, 6, 4, 3)],
        [],
        0,
    ),
    # 9 + 2 - 3 is 8, so 5 windows; the 5 of 7 columns likewise fit without clipping.
    ("Pooling pooling_param { kernel_size: 3 stride: 2 pad: 1 }", [IMAGE], [(2, 6, 5, 4)], [], 0),
    # The 6th row would begin at 10, beyond the 9 rows and the padding of 1: it is dropped.
    ("Pooling pooling_param { kernel_size: 2 stride: 2 pad: 1 }", [IMAGE], [(2, 6, 5, 4)], [], 0),
    (
        "Pooling pooling_param { pool: AVE kernel_h: 9 kernel_w: 1 }",
        [IMAGE],
        [(2, 6, 1, 7)],
        [],
        0,
    ),
    ("Pooling pooling_param { global_pooling: true }", [IMAGE], [(2, 6, 1, 1)], [], 0),
    ("SPP spp_param { pyramid_height: 3 }", [IMAGE], [(2, 6 * 21)], [], 0),
    ("SPP spp_param { pyramid_height: 1 }", [IMAGE], [(2, 6, 1, 1)], [], 0),
    (
        "InnerProduct inner_product_param { num_output: 5 }",
        [IMAGE],
        [(2, 5)],
        [(5, 378), (5,)],
        3780,
    ),
    (
        "InnerProduct inner_product_param { num_output: 5 axis: -1 transpose: true }",
        [IMAGE],
        [(2, 6, 9, 5)],
        [(7, 5), (5,)],
        540 * 7,
    ),
    (
        "Embed embed_param { num_output: 3 input_dim: 50 }",
        [(2, 4)],
        [(2, 4, 3)],
        [(50, 3), (3,)],
        0,
    ),
    ("ReLU", [IMAGE], [IMAGE], [], 0),
    ("PReLU", [IMAGE], [IMAGE], [(6,)], 0),
    ("PReLU prelu_param { channel_shared: true }", [IMAGE], [IMAGE], [()], 0),
    ("Clip clip_param { min: 0 max: 6 }", [IMAGE], [IMAGE], [], 0),
    ("Log log_param { base: 2 }", [IMAGE], [IMAGE], [], 0),
    ("BatchNorm", [IMAGE], [IMAGE], [(6,), (6,), (1,)], 0),
    ("LRN lrn_param { local_size: 5 }", [IMAGE], [IMAGE], [], 0),
    ("MVN", [(2, 6)], [(2, 6, 1, 1)], [], 0),
    ("Scale", [IMAGE], [IMAGE], [(6,)], 0),
    ("Scale scale_param { bias_term: true num_axes: 2 }", [IMAGE], [IMAGE], [(6, 9), (6, 9)], 0),
    ("Scale scale_param { axis: 0 num_axes: -1 }", [IMAGE], [IMAGE], [IMAGE], 0),
    ("Scale scale_param { num_axes: 0 }", [IMAGE], [IMAGE], [()], 0),
    ("Scale", [IMAGE, (6, 9)], [IMAGE], [], 0),
    ("Scale scale_param { axis: 0 bias_term: true }", [IMAGE, (2, 6)], [IMAGE], [(2, 6)], 0),
    ("Bias bias_param { axis: -2 }", [IMAGE], [IMAGE], [(9,)], 0),
    ("Bias", [IMAGE, (6,)], [IMAGE], [], 0),
    ("Eltwise", [IMAGE, IMAGE], [IMAGE], [], 0),
    ("Concat", [IMAGE, (2, 1, 9, 7)], [(2, 7, 9, 7)], [], 0),
    ("Concat concat_param { axis: -1 }", [IMAGE, (2, 6, 9, 1)], [(2, 6, 9, 8)], [], 0),
    ("Concat concat_param { concat_dim: 0 }", [IMAGE, (3, 6, 9, 7)], [(5, 6, 9, 7)], [], 0),
    ("Slice", [IMAGE], [(2, 3, 9, 7)] * 2, [], 0),
    (
        "Slice slice_param { slice_dim: 2 slice_point: 2 slice_point: 3 }",
        [IMAGE],
        [(2, 6, 2, 7), (2, 6, 1, 7), (2, 6, 6, 7)],
        [],
        0,
    ),
    ("Split", [IMAGE], [IMAGE] * 3, [], 0),
    ("Silence", [IMAGE, (1,)], [], [], 0),
    ("Filter", [IMAGE, (2, 3), (2, 1, 1)], [IMAGE, (2, 3)], [], 0),
    ("BatchReindex", [IMAGE, (5,)], [(5, 6, 9, 7)], [], 0),
    ("Flatten", [IMAGE], [(2, 378)], [], 0),
    ("Flatten flatten_param { axis: 0 end_axis: -3 }", [IMAGE], [(12, 9, 7)], [], 0),
    ("Reshape reshape_param { shape { dim: 0 dim: -1 } }", [IMAGE], [(2, 378)], [], 0),
    (
        "Reshape reshape_param { shape { dim: 3 dim: 2 } axis: 1 num_axes: 1 }",
        [IMAGE],
        [(2, 3, 2, 9, 7)],
        [],
        0,
    ),
    (
        "Reshape reshape_param { shape { dim: 1 } axis: -1 num_axes: 0 }",
        [(3, 4)],
        [(3, 4, 1)],
        [],
        0,
    ),
    ("Reshape reshape_param { shape { } num_axes: 1 }", [(1, 4)], [(4,)], [], 0),
    ("Reshape reshape_param { shape { dim: -1 dim: 0 } }", [(6, 4)], [(6, 4)], [], 0),
    ("Crop crop_param { offset: 1 }", [IMAGE, (1, 1, 8, 6)], [(2, 6, 8, 6)], [], 0),
    (
        "Crop crop_param { axis: 1 offset: 2 offset: 0 offset: 3 }",
        [IMAGE, (2, 4, 9, 4)],
        [(2, 4, 9, 4)],
        [],
        0,
    ),
    ("Tile tile_param { tiles: 3 axis: -1 }", [IMAGE], [(2, 6, 9, 21)], [], 0),
    ("Reduction", [IMAGE], [()], [], 0),
    ("Reduction reduction_param { axis: 2 }", [IMAGE], [(2, 6)], [], 0),
    ("ArgMax", [IMAGE], [(2, 1, 1, 1)], [], 0),
    ("ArgMax argmax_param { top_k: 3 out_max_val: true }", [(2, 8)], [(2, 2, 3)], [], 0),
    ("ArgMax argmax_param { top_k: 3 axis: 1 }", [IMAGE], [(2, 3, 9, 7)], [], 0),
    ("Softmax", [IMAGE], [IMAGE], [], 0),
    ("SoftmaxWithLoss", [IMAGE, (2, 9, 7)], [(), IMAGE], [], 0),
    ("SoftmaxWithLoss softmax_param { axis: 3 }", [IMAGE, (2, 54)], [()], [], 0),
    ("InfogainLoss", [(2, 6), (2,), (6, 6)], [()], [], 0),
    ("MultinomialLogisticLoss", [(2, 6), (2,)], [()], [], 0),
    ("EuclideanLoss", [IMAGE, (2, 378)], [()], [], 0),
    ("HingeLoss", [(2, 6), (2,)], [()], [], 0),
    ("SigmoidCrossEntropyLoss", [IMAGE, (2, 378)], [()], [], 0),
    ("ContrastiveLoss", [(2, 6), (2, 6), (2,)], [()], [], 0),
    ("Accuracy", [(2, 6), (2,)], [(), (6,)], [], 0),
    (
        "LSTM recurrent_param { num_output: 5 }",
        [(3, 2, 7), (3, 2)],
        [(3, 2, 5)],
        [(20, 7), (20,), (20, 5)],
        3 * 2 * (20 * 7 + 20 * 5),
    ),
    (
        "LSTM recurrent_param { num_output: 5 expose_hidden: true }",
        [(3, 2, 7), (3, 2), (2, 4), (1, 2, 5), (1, 2, 5)],
        [(3, 2, 5), (1, 2, 5), (1, 2, 5)],
        [(20, 7), (20,), (20, 4), (20, 5)],
        2 * (3 * (20 * 7 + 20 * 5) + 20 * 4),
    ),
    (
        "RNN recurrent_param { num_output: 5 }",
        [(3, 2, 7), (3, 2)],
        [(3, 2, 5)],
        [(5, 7), (5,), (5, 5), (5, 5), (5,)],
        3 * 2 * (5 * 7 + 5 * 5 + 5 * 5),
    ),
    ("LSTMUnit", [(1, 2, 5), (1, 2, 20), (1, 2)], [(1, 2, 5)] * 2, [], 0),
    ("HDF5Output", [IMAGE, (2,)], [], [], 0),
    ("Parameter parameter_param { shape { dim: 4 dim: 5 } }", [], [(4, 5)], [(4, 5)], 0),
    ("DummyData dummy_data_param { shape { dim: 4 } }", [], [(4,), (4,)], [], 0),
    (
        "DummyData dummy_data_param { num: 4 channels: 1 channels: 2 height: 5 width: 6 }",
        [],
        [(4, 1, 5, 6), (4, 2, 5, 6)],
        [],
        0,
    ),
    (
        "MemoryData memory_data_param { batch_size: 4 channels: 3 height: 5 width: 6 }",
        [],
        [(4, 3, 5, 6), (4,)],
        [],
        0,
    ),
    (
        "ImageData image_data_param { batch_size: 4 new_height: 5 new_width: 6 is_color: false }",
        [],
        [(4, 1, 5, 6), (4,)],
        [],
        0,
    ),
]


@pytest.mark.parametrize(
    ("text", "bottoms", "tops", "params", "macs"), CASES, ids=[case[0][:60] for case in CASES]
)
def test_a_layer_has_the_shapes_that_caffe_gives_it(text, bottoms, tops, params, macs):
    layer = measured(text, *bottoms, tops=len(tops))
    assert layer.bottoms == tuple(bottoms)
    assert layer.tops == tuple(tops)
    assert layer.params == tuple(params)
    assert layer.macs == macs


def test_every_elementwise_type_keeps_its_shape():
    for kind in "ReLU ELU Sigmoid TanH BNLL Swish AbsVal Power Exp Threshold Dropout".split():
        layer = measured(kind, IMAGE)
        assert (layer.tops, layer.params, layer.macs) == ((IMAGE,), (), 0)


REFUSED = [
    # text, bottoms, number of tops, what the error says
    (CONV + " }", [IMAGE], 1, "kernel_size is given 0 times"),
    (CONV + " kernel_size: 3 kernel_h: 3 kernel_w: 3 }", [IMAGE], 1, "has both kernel_size and"),
    (CONV + " kernel_h: 3 }", [IMAGE], 1, "kernel (3, 0) must be above 0"),
    (CONV + " kernel_h: 3 kernel_w: 1 }", [(2, 6, 9)], 1, "for 2 spatial axes, the bottom has 1"),
    (CONV + " kernel_size: [1, 2, 3] }", [IMAGE], 1, "once for each of 2 spatial axes"),
    (CONV + " kernel_size: 3 stride: 0 }", [IMAGE], 1, "stride (0, 0) must be above 0"),
    (CONV + " kernel_size: 3 group: 4 }", [IMAGE], 1, "group 4 must divide the bottom's 6"),
    ("Convolution convolution_param { kernel_size: 1 }", [IMAGE], 1, "num_output must be above 0"),
    (CONV + " kernel_size: 12 }", [IMAGE], 1, "would be 2x4x-2x-4"),
    (CONV + " kernel_size: 1 }", [IMAGE, (2, 6, 9, 8)], 2, "but bottom 1 is 2x6x9x8"),
    (CONV + " kernel_size: 1 }", [IMAGE, IMAGE], 1, "has 2 bottoms and 1 tops"),
    (CONV + " kernel_size: 1 axis: 4 }", [IMAGE], 1, "axis 4 is out of range"),
    ("Pooling pooling_param { }", [IMAGE], 1, "expected kernel_size, or both of kernel_h and"),
    ("Pooling pooling_param { kernel_h: 2 }", [IMAGE], 1, "both of kernel_h and kernel_w"),
    ("Pooling pooling_param { kernel_size: 2 pad: 2 }", [IMAGE], 1, "must be below the kernel"),
    ("Pooling pooling_param { kernel_size: 2 }", [(2, 6)], 1, "4 axes"),
    (
        "Pooling pooling_param { global_pooling: true kernel_size: 2 }",
        [IMAGE],
        1,
        "drop the kernel",
    ),
    ("Pooling pooling_param { global_pooling: true pad: 1 }", [IMAGE], 1, "pad 0 and stride 1"),
    ("Pooling pooling_param { kernel_size: 2 pool: AVE }", [IMAGE], 2, "has 2 top(s), expected 1"),
    ("InnerProduct", [IMAGE], 1, "num_output must be above 0"),
    ("Embed embed_param { num_output: 3 }", [(2,)], 1, "input_dim 0 and num_output 3"),
    ("PReLU", [(2,)], 1, "2 axes or more"),
    ("Exp exp_param { base: -2 }", [IMAGE], 1, "base -2 must be above 0"),
    ("Log log_param { base: 1 }", [IMAGE], 1, "base 1 has no logarithm"),
    ("Clip clip_param { min: 0 }", [IMAGE], 1, "lacks max"),
    ("BatchNorm param { lr_mult: 1 }", [IMAGE], 1, "lr_mult 1"),
    ("BatchNorm", [(2,)], 1, "channel axis 1"),
    ("LRN lrn_param { local_size: 4 }", [IMAGE], 1, "local_size 4 must be odd"),
    ("MVN", [(1, 2, 3, 4, 5)], 1, "at most 4 axes"),
    ("Scale scale_param { num_axes: 4 }", [IMAGE], 1, "num_axes 4 from axis 1"),
    ("Scale", [IMAGE, (9,)], 1, "a factor of 9 does not fit a bottom of 2x6x9x7 from axis 1"),
    ("Eltwise", [IMAGE, (2, 6, 9, 8)], 1, "bottom 1 'in1' is 2x6x9x8"),
    ("Eltwise eltwise_param { coeff: 1 }", [IMAGE, IMAGE], 1, "1 coeff for 2 bottoms"),
    (
        "Eltwise eltwise_param { operation: PROD coeff: 1 coeff: 1 }",
        [IMAGE, IMAGE],
        1,
        "coeff for SUM only",
    ),
    ("Eltwise", [IMAGE], 1, "has 1 bottom(s), expected at least 2"),
    ("Concat", [IMAGE, (2, 6, 9)], 1, "equal shapes except at axis 1"),
    ("Concat concat_param { axis: 1 concat_dim: 1 }", [IMAGE], 1, "both axis and concat_dim"),
    ("Slice", [IMAGE], 4, "4 tops do not divide an axis of 6"),
    ("Slice slice_param { slice_point: 4 slice_point: 2 }", [IMAGE], 3, "rising points"),
    ("Slice slice_param { slice_point: 7 }", [IMAGE], 2, "1 rising points within it"),
    ("Filter", [IMAGE, (3,)], 1, "differ in items"),
    ("BatchReindex", [IMAGE, (5, 1)], 1, "list of indices"),
    ("Flatten flatten_param { axis: 3 end_axis: 1 }", [IMAGE], 1, "axis 3 lies behind end_axis 1"),
    ("Reshape reshape_param { shape { dim: 5 dim: -1 } }", [IMAGE], 1, "756 elements"),
    ("Reshape reshape_param { shape { dim: -1 dim: -1 } }", [IMAGE], 1, "more than one -1"),
    ("Reshape reshape_param { shape { dim: [1, 1, 1, 756, 0] } }", [IMAGE], 1, "no such axis"),
    ("Crop crop_param { offset: 2 }", [IMAGE, (1, 1, 8, 6)], 1, "axis 2: 8 elements from offset 2"),
    ("Tile", [IMAGE], 1, "tiles 0 must be given"),
    ("ArgMax argmax_param { top_k: 8 axis: 1 }", [IMAGE], 1, "between 1 and 6"),
    ("Softmax softmax_param { axis: 4 }", [IMAGE], 1, "axis 4 is out of range"),
    ("SoftmaxWithLoss", [IMAGE, (2,)], 1, "need 126 labels, met 2: 2"),
    ("SoftmaxWithLoss", [IMAGE, (3,)], 1, "same first dimension"),
    ("Accuracy accuracy_param { top_k: 7 }", [(2, 6), (2,)], 1, "top_k 7 is more than 6"),
    ("ContrastiveLoss", [(2, 6), (2, 5), (2,)], 1, "expected bottoms NxC, NxC and N"),
    ("LSTM recurrent_param { num_output: 5 }", [(3, 2, 7), (3, 1)], 1, "indicators as TxN"),
    ("LSTM", [(3, 2, 7), (3, 2)], 1, "num_output must be above 0"),
    ("ReLU loss_weight: 1 loss_weight: 2", [IMAGE], 1, "2 loss_weight(s) for 1 top(s)"),
    ("ReLU propagate_down: true propagate_down: true", [IMAGE], 1, "2 propagate_down for 1"),
    ("ReLU param { }", [IMAGE], 1, "1 param statements for 0 parameter blobs"),
    ("ReLU", [(70000, 70000)], 1, "4900000000 elements"),
    ("MemoryData memory_data_param { batch_size: 1 }", [], 2, "must all be above 0"),
    ("Input", [], 0, "has 0 top(s), expected at least 1"),
]


@pytest.mark.parametrize(
    ("text", "bottoms", "tops", "message"), REFUSED, ids=[f"{c[0][:40]} {c[3]}" for c in REFUSED]
)
def test_what_caffe_refuses_is_refused_at_its_line(text, bottoms, tops, message):
    with pytest.raises(NetError) as error:
        measured(text, *bottoms, tops=tops)
    assert str(error.value).startswith("n:")
    assert message in str(error.value)


@pytest.mark.parametrize("kind", ["AbsVal", "Split", "Flatten", "Reshape"])
def test_types_that_cannot_work_in_place_are_refused(kind):
    layer = f'layer {{ name: "x" type: "{kind}" bottom: "a" top: "a" }}'
    with pytest.raises(NetError, match="cannot work in place on 'a'"):
        infer(parse_net('input: "a" input_shape { dim: 2 dim: 3 }' + layer))


def test_convolutions_count_the_places_where_the_window_fits():
    for size, kernel, stride, pad, gap in itertools.product(
        (5, 8), (1, 2, 3), (1, 2, 3), (0, 1), (1, 2)
    ):
        extent = gap * (kernel - 1) + 1
        starts = [s for s in range(0, size + 2 * pad, stride) if s + extent <= size + 2 * pad]
        window = Window((kernel,), (stride,), (pad,), (gap,))
        if starts:
            assert conv_sizes((size,), window) == (len(starts),)
        grown = deconv_sizes((size,), window)
        assert conv_sizes(grown, window) == (size,)


def test_a_convolution_larger_than_its_bottom_rounds_towards_zero_as_c_does():
    assert conv_sizes((2,), Window((3,), (2,), (0,), (1,))) == (1,)
    assert conv_sizes((2,), Window((3,), (1,), (0,), (1,))) == (0,)


def test_poolings_cover_every_pixel_and_start_within_the_image():
    for size, kernel, stride in itertools.product((5, 6, 7, 10), (2, 3, 4), (1, 2, 3, 4)):
        for pad in range(kernel):
            window = Window((kernel,), (stride,), (pad,), (1,))
            (out,) = pool_sizes(None, (size,), window)
            starts = range(-pad, 2 * (size + stride), stride)
            reached = next(i for i, s in enumerate(starts) if s + kernel >= size + pad)
            inside = sum(start < size for start in starts)
            assert out == (min(reached + 1, inside) if pad else reached + 1)


def convolutions(rows, size: int = 1) -> str:
    """A net of the table's convolutions, each on an input of its own."""
    text = ""
    for row in rows:
        name, span = row["layer"], row["H_in"]
        stride = round(span / row["H_out"])
        pad = 0 if row["layer"] == "conv1" and span == 227 else row["D"] // 2
        shape = dims((size, row["S"] * row["group"], span, span))
        text += f"""
        layer {{ name: "in_{name}" type: "Input" top: "in_{name}" input_param {{ {shape} }} }}
        layer {{ name: "{name}" type: "Convolution" bottom: "in_{name}" top: "{name}"
          convolution_param {{ num_output: {row["T"]} kernel_size: {row["D"]} pad: {pad}
            stride: {stride} group: {row["group"]} bias_term: false }} }}"""
    return text


@pytest.mark.parametrize("network", ["alexnet", "googlenet", "vgg16"])
def test_the_papers_layer_tables_come_out(shared, network):
    rows = json.loads(shared("papers", "tables.json").read_text())["networks"][network]["conv"]
    shapes = infer(parse_net(convolutions(rows)))
    for row in rows:
        layer = shapes.layer(row["layer"])
        assert layer.tops[0][2:] == (row["H_out"],) * 2
        assert (layer.parameters, layer.macs) == (row["params"], row["macs"]), row["layer"]


def conv(name: str, bottom: str, outputs: int, kernel: int, **more) -> str:
    extra = " ".join(f"{key}: {value}" for key, value in more.items())
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
        f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} {extra} }} }}\n"
        f'layer {{ name: "relu_{name}" type: "ReLU" bottom: "{name}" top: "{name}" }}\n'
    )


def pool(name: str, bottom: str) -> str:
    return (
        f'layer {{ name: "{name}" type: "Pooling" bottom: "{bottom}" top: "{name}" '
        "pooling_param { pool: MAX kernel_size: 3 stride: 2 } }\n"
    )


def inner(name: str, bottom: str, outputs: int) -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
        f"inner_product_param {{ num_output: {outputs} }} }}\n"
    )


def alexnet() -> str:
    return (
        'input: "data" input_shape { dim: 10 dim: 3 dim: 227 dim: 227 }\n'
        + conv("conv1", "data", 96, 11, stride=4)
        + pool("pool1", "conv1")
        + conv("conv2", "pool1", 256, 5, pad=2, group=2)
        + pool("pool2", "conv2")
        + conv("conv3", "pool2", 384, 3, pad=1)
        + conv("conv4", "conv3", 384, 3, pad=1, group=2)
        + conv("conv5", "conv4", 256, 3, pad=1, group=2)
        + pool("pool5", "conv5")
        + inner("fc6", "pool5", 4096)
        + inner("fc7", "fc6", 4096)
        + inner("fc8", "fc7", 1000)
    )


def test_alexnet_has_its_published_parameters_and_macs():
    net = parse_net(alexnet())
    shapes = infer(net, batch=1)
    assert shapes.parameters == 60_965_224
    assert shapes.macs == 724_406_816
    assert shapes.shape("pool5") == (1, 256, 6, 6)
    assert shapes.layer("fc6").params == ((4096, 9216), (4096,))
    assert infer(net).macs == 10 * 724_406_816


DATA = """
layer { name: "db" type: "Data" top: "data" top: "label" %s data_param { batch_size: 32 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 10 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" }
"""


def test_a_database_needs_its_shape_from_outside_and_the_error_says_how():
    net = parse_net(DATA % "", "n")
    with pytest.raises(NetError) as error:
        infer(net)
    assert str(error.value) == (
        "n:2 (layer 'db'): Data does not say the shape of data; give it as "
        "inputs={'data': (3, 227, 227)} or --input data=3,227,227"
    )


def test_the_batch_of_a_database_stays_unless_it_is_given():
    net = parse_net(DATA % "")
    assert infer(net, inputs={"data": (3, 8, 8)}).blobs["data"] == (32, 3, 8, 8)
    assert infer(net, inputs={"data": [5, 3, 8, 8]}).blobs["label"] == (5,)
    shapes = infer(net, inputs={"data": (3, 8, 8)}, batch=2)
    assert shapes.blobs == {"data": (2, 3, 8, 8), "label": (2,), "ip": (2, 10)}
    assert shapes.layers[-1].tops == ()


def test_a_cropped_database_is_guessed_and_the_guess_is_noted():
    shapes = infer(parse_net(DATA % "transform_param { crop_size: 27 }", "n"))
    assert shapes.blobs["data"] == (32, 3, 27, 27)
    assert shapes.notes == [
        "n:2 (layer 'db'): 'data' taken as 32x3x27x27: crop_size 27 and 3 channels assumed"
    ]
    means = "transform_param { crop_size: 27 mean_value: [1, 2, 3, 4] }"
    assert infer(parse_net(DATA % means)).blobs["data"] == (32, 4, 27, 27)


def test_hdf5_data_takes_any_shape_with_or_without_its_batch():
    net = parse_net(
        'layer { type: "HDF5Data" top: "x" top: "y" hdf5_data_param { batch_size: 8 } }'
    )
    with pytest.raises(NetError, match="does not say the shape of x, y"):
        infer(net)
    given = {"x": (5, 6), "y": (8,)}
    assert infer(net, inputs=given).blobs == {"x": (8, 5, 6), "y": (8,)}


def test_given_shapes_override_inputs_and_keep_their_batch():
    net = parse_net('input: "a" input_shape { dim: 4 dim: 3 dim: 9 dim: 9 }')
    assert infer(net, inputs={"a": (3, 5, 5)}).blobs == {"a": (4, 3, 5, 5)}
    assert infer(net, inputs={"a": (1, 3, 5, 5)}).blobs == {"a": (1, 3, 5, 5)}
    bare = infer(parse_net('input: "a"'), inputs={"a": (3, 5, 5)})
    assert bare.blobs == {"a": (1, 3, 5, 5)} and "one image" in bare.notes[0]


def test_a_shape_for_what_is_no_input_is_refused():
    net = parse_net('input: "data" input_shape { dim: 4 }')
    with pytest.raises(NetError, match="no input of the net .*did you mean 'data'"):
        infer(net, inputs={"dta": (1,)})
    with pytest.raises(NetError, match="1 or more"):
        infer(net, inputs={"data": (0,)})
    with pytest.raises(NetError, match="batch 0"):
        infer(net, batch=0)


def test_a_batch_goes_to_the_inputs_that_share_the_first_ones():
    net = parse_net(
        'input: "data" input: "info" input: "rois" input_shape { dim: 1 dim: 3 dim: 4 dim: 4 } '
        "input_shape { dim: 1 dim: 3 } input_shape { dim: 300 dim: 5 }"
    )
    assert infer(net, batch=7).blobs == {"data": (7, 3, 4, 4), "info": (7, 3), "rois": (300, 5)}


FORKED = """
input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer { name: "c1" type: "Convolution" bottom: "data" top: "c1"
  convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "perm" type: "Fancy" bottom: "c1" top: "perm" }
layer { name: "c2" type: "Convolution" bottom: "perm" top: "c2"
  convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "r1" type: "ReLU" bottom: "c1" top: "r1" }
"""


def test_an_unknown_type_is_carried_and_only_asking_behind_it_is_an_error():
    shapes = infer(parse_net(FORKED, "n"))
    assert shapes.blobs == {"data": (1, 3, 8, 8), "c1": (1, 4, 6, 6), "r1": (1, 4, 6, 6)}
    assert shapes.layer("c1").params == ((4, 3, 3, 3), (4,))
    behind = shapes.layers[3]
    assert (behind.tops, behind.params, behind.macs, behind.parameters) == ((None,), None, None, 0)
    reason = r"layer 'perm' has the unknown type 'Fancy' \(n:5 \(layer 'perm'\)\)"
    with pytest.raises(NetError, match=rf"n:6 \(layer 'c2'\): .*{reason}"):
        shapes.layer("c2")
    with pytest.raises(NetError, match=f"the shape of 'c2' is unknown: {reason}"):
        shapes.shape("c2")


def test_the_caller_can_give_the_top_of_an_unknown_type():
    shapes = infer(parse_net(FORKED), inputs={"perm": (1, 6, 6, 4)})
    assert shapes.layer("c2").params == ((4, 6, 1, 1), (4,))


def test_python_layers_are_carried_likewise():
    net = parse_net('layer { name: "p" type: "Python" top: "x" }')
    assert infer(net).blobs == {}
    assert infer(net, inputs={"x": (2, 3)}).blobs == {"x": (2, 3)}


def test_asking_for_a_layer_or_blob_that_is_not_there_names_the_nearest():
    shapes = infer(parse_net(FORKED))
    with pytest.raises(NetError, match="no layer 'prem' in this phase; did you mean 'perm'"):
        shapes.layer("prem")
    with pytest.raises(NetError, match="no blob 'dat' in this phase; did you mean 'data'"):
        shapes.shape("dat")


def test_an_in_place_layer_that_changes_the_shape_is_the_last_writer():
    flat = parse_net(
        'input: "x" input_shape { dim: 2 dim: 3 } '
        'layer { name: "m" type: "MVN" bottom: "x" top: "x" }'
        'layer { name: "r" type: "ReLU" bottom: "x" top: "x" }'
    )
    shapes = infer(flat)
    assert shapes.layers[0].tops == ((2, 3),) and shapes.layers[2].bottoms == ((2, 3, 1, 1),)
    assert shapes.blobs == {"x": (2, 3, 1, 1)}


def twins(first: str, second: str, outputs: int = 4) -> str:
    text = 'input: "x" input_shape { dim: 2 dim: 6 }\n'
    for name, more, count in (("a", first, 4), ("b", second, outputs)):
        text += (
            f'layer {{ name: "{name}" type: "InnerProduct" bottom: "x" top: "{name}" {more} '
            f"inner_product_param {{ num_output: {count} bias_term: false }} }}\n"
        )
    return text


def test_shared_blobs_count_once_and_name_their_owner():
    shapes = infer(parse_net(twins('param { name: "w" }', 'param { name: "w" }')))
    assert shapes.parameters == 24 and [e.parameters for e in shapes.layers] == [0, 24, 24]
    assert shapes.layers[1].owners == shapes.layers[2].owners == ((1, 0),)
    assert infer(parse_net(twins("", ""))).parameters == 48


@pytest.mark.parametrize(
    ("first", "second", "outputs", "message"),
    [
        ("", "", 5, "which is 4x6, but needs 5x6"),
        ("", "share_mode: PERMISSIVE", 5, "which is 4x6, but needs 5x6"),
        ("lr_mult: 1", "lr_mult: 2", 4, "gives it another lr_mult"),
        ("decay_mult: 1", "decay_mult: 0", 4, "gives it another decay_mult"),
    ],
)
def test_shared_blobs_that_do_not_agree_are_refused(first, second, outputs, message):
    text = twins(f'param {{ name: "w" {first} }}', f'param {{ name: "w" {second} }}', outputs)
    with pytest.raises(NetError, match=message):
        infer(parse_net(text))


def test_permissive_sharing_asks_for_equal_counts_only():
    text = twins('param { name: "w" }', 'param { name: "w" share_mode: PERMISSIVE }')
    shapes = infer(
        parse_net(text.replace("bias_term: false }", "bias_term: false transpose: true }", 1))
    )
    assert shapes.layers[1].params == ((6, 4),) and shapes.layers[2].params == ((4, 6),)


def test_a_loss_may_leave_its_top_out():
    layer = measured("EuclideanLoss loss_weight: 2", (2, 3), (2, 3), tops=0)
    assert layer.tops == ()


def test_training_and_test_phase_have_their_own_shapes():
    net = parse_net(
        """
        layer { name: "x" type: "Input" top: "x" include { phase: TRAIN }
          input_param { shape { dim: 8 dim: 2 } } }
        layer { name: "x" type: "Input" top: "x" include { phase: TEST }
          input_param { shape { dim: 3 dim: 2 } } }"""
    )
    assert infer(net, "TRAIN").blobs == {"x": (8, 2)}
    assert infer(net).blobs == infer(net, "test").blobs == {"x": (3, 2)}


def test_golden_nets_have_the_shapes_and_blobs_that_caffe_gave_them(shared):
    np = pytest.importorskip("numpy")
    folders = sorted(path.parent for path in shared("golden").glob("*/net.prototxt"))
    assert len(folders) >= 180
    for folder in folders:
        shapes = infer(read_net(folder / "net.prototxt"))
        arrays = np.load(folder / "io.npz")
        expected = {
            key[6:]: tuple(arrays[key].tolist())
            for key in arrays.files
            if key.startswith("shape:") and "_split_" not in key
        }
        assert shapes.blobs == expected, folder.name
        stored = {
            layer.name: tuple(blob.shape for blob in layer.blobs)
            for layer in caffemodel.read(folder / "net.caffemodel").layers
            if layer.blobs
        }
        ours = {entry.layer.name: entry.params for entry in shapes.layers if entry.params}
        assert ours == stored, folder.name


def caffes_shapes(shared) -> list[dict]:
    lines = shared("corpus", "shapes.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_public_nets_have_the_shapes_that_caffe_gave_them(shared):
    root, rows = shared("corpus", "prototxt"), [row for row in caffes_shapes(shared) if row["ok"]]
    assert len(rows) >= 365
    for row in rows:
        shapes = infer(read_net(root / row["rel"]))
        expected = {
            name: tuple(shape) for name, shape in row["blobs"].items() if "_split_" not in name
        }
        assert shapes.blobs == {n: s for n, s in expected.items() if n != "(automatic)"}, row["rel"]
        params = {e.layer.name: [list(p) for p in e.params] for e in shapes.layers if e.params}
        assert params == row["params"], row["rel"]
        layers = [[entry.layer.name, entry.layer.type] for entry in shapes.layers]
        splits = [layer for layer in row["layers"] if layer[0].endswith("_split")]
        assert layers == [layer for layer in row["layers"] if layer not in splits], row["rel"]


def test_public_nets_that_caffe_refused_are_refused(shared):
    root, rows = (
        shared("corpus", "prototxt"),
        [row for row in caffes_shapes(shared) if not row["ok"]],
    )
    assert rows
    for row in rows:
        with pytest.raises(NetError):
            infer(read_net(root / row["rel"]))


def test_no_public_net_ends_in_anything_but_a_result_or_a_net_error(shared):
    root = shared("corpus")
    rows = json.loads((root / "prototxt_index.json").read_text())
    done = 0
    for row in [row for row in rows if row["kind"] == "net" and "best_error" not in row][::16]:
        for phase in ("TRAIN", "TEST"):
            try:
                infer(read_net(root / "prototxt" / row["rel"]), phase)
                done += 1
            except NetError as error:
                assert row["rel"] in str(error)
    assert done > 50
