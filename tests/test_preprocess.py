"""Preprocessing inside the model: the same numbers as by hand in NumPy and in Caffe."""

from __future__ import annotations

import io
import json

import cv2
import numpy as np
import pytest
from conftest import shared
from onnxnets import input_layer, layer, net_and_weights, relative, run

from caffesurgery.errors import ExportError, FileError, NetError
from caffesurgery.export.labels import read_labels, with_labels
from caffesurgery.export.onnx import build
from caffesurgery.export.preprocess import Preprocess, attach, describe, resolve
from caffesurgery.files import caffemodel
from caffesurgery.net.net import parse_net, read_net
from caffesurgery.net.transform import Transform, read_transform

HEIGHT, WIDTH = 6, 5
NET = input_layer(data=(1, 3, HEIGHT, WIDTH)) + layer("Power", "data", "p")
GREY = input_layer(data=(1, 1, HEIGHT, WIDTH)) + layer("Power", "data", "p")
MEAN = np.arange(3, dtype=np.float32).reshape(3, 1, 1) * 10 + 100


def frames(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def made(wanted: Preprocess, text=NET, opset=13, batch=None):
    net, weights = net_and_weights(text, None)
    return attach(build(net, weights, opset=opset, batch=batch).model, wanted)


def through(wanted: Preprocess, images, text=NET, opset=13):
    """What the net gets from frames: its input, which it hands on."""
    model = made(wanted, text, opset)
    model.check()
    stream = io.BytesIO()
    model.write(stream)
    return run(stream.getvalue(), {model.inputs[0].name: images})["p"]


def bilinear(images, size):
    """Frames N x H x W x C resized by hand: pixel centres at halves, edges repeated."""
    out = images.astype(np.float64)
    for axis, wanted in zip((1, 2), size):
        have = out.shape[axis]
        at = np.clip((np.arange(wanted) + 0.5) * have / wanted - 0.5, 0, have - 1)
        low = np.floor(at).astype(int)
        share = (at - low).reshape(-1, *[1] * (3 - axis))
        high = np.minimum(low + 1, have - 1)
        out = out.take(low, axis) * (1 - share) + out.take(high, axis) * share
    return out.astype(np.float32)


def centre(images, size):
    """The middle of frames, at Caffe's offsets."""
    top, left = ((have - want) // 2 for have, want in zip(images.shape[1:3], size))
    return images[:, top : top + size[0], left : left + size[1]]


def planes(images):
    return images.astype(np.float32).transpose(0, 3, 1, 2)


def test_a_frame_of_the_nets_size_becomes_bgr_planes():
    x = frames(2, HEIGHT, WIDTH, 3)
    assert np.array_equal(through(resolve(None), x), planes(x[..., ::-1]))
    assert np.array_equal(through(resolve(None, channels="rgb"), x), planes(x))


def test_mean_and_scale_follow_the_cut_as_in_caffe():
    x = frames(3, 9, 8, 3)
    found = through(resolve(None, mean=[100, 110, 120], scale=0.5, crop=True), x)
    expected = (planes(centre(x, (HEIGHT, WIDTH))[..., ::-1]) - MEAN) * np.float32(0.5)
    assert np.array_equal(found, expected)


def test_frames_of_any_size_go_through_one_model():
    wanted = resolve(None, crop=True)
    for size in ((6, 5), (7, 5), (12, 31)):
        x = frames(1, *size, 3)
        assert np.array_equal(through(wanted, x), planes(centre(x, (HEIGHT, WIDTH))[..., ::-1]))


def test_a_mean_image_is_subtracted_where_the_cut_was_made():
    mean = np.random.default_rng(1).uniform(90, 130, (3, 9, 8)).astype(np.float32)
    x = frames(2, 9, 8, 3)
    whole = planes(x[..., ::-1]) - mean
    expected = whole[:, :, 1 : 1 + HEIGHT, 1 : 1 + WIDTH] * np.float32(0.25)
    model = made(resolve(None, mean=mean, crop=True))
    assert model.inputs[0].dims == ("batch", 9, 8, 3)
    assert np.array_equal(through(resolve(None, mean=mean, scale=0.25, crop=True), x), expected)
    # the mean of what is cut out fits too, then frames may be of any size
    small = np.ascontiguousarray(mean[:, :HEIGHT, :WIDTH])
    cut = planes(centre(x, (HEIGHT, WIDTH))[..., ::-1])
    assert np.array_equal(through(resolve(None, mean=small, crop=True), x), cut - small)


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("size", [(31, 17), (6, 5), (4, 7)])
def test_frames_are_resized_bilinearly_and_then_cut(opset, size):
    x = frames(2, *size, 3)
    found = through(resolve(None, resize="8x9", crop=True, mean="7"), x, opset=opset)
    expected = planes(centre(bilinear(x, (8, 9)), (HEIGHT, WIDTH))[..., ::-1]) - 7
    assert np.abs(found - expected).max() < 1e-3


@pytest.mark.parametrize("frame", [None, (31, 17)])
@pytest.mark.parametrize("opset", [13, 18])
def test_the_shorter_side_is_resized_and_the_ratio_kept(opset, frame):
    x = frames(1, 31, 17, 4)
    wanted = resolve(None, resize="short=7", crop=True, camera="bgra", frame=frame)
    expected = centre(bilinear(x, (13, 7)), (HEIGHT, WIDTH))[..., :3]  # 31 * 7 / 17 = 12.76
    assert np.abs(through(wanted, x, opset=opset) - planes(expected)).max() < 1e-3


def test_resizing_is_opencvs():
    x = frames(1, 40, 60, 3)
    found = through(resolve(None, resize=f"{HEIGHT}x{WIDTH}"), x)
    opencv = cv2.resize(x[0], (WIDTH, HEIGHT))  # works in fixed point, to whole numbers
    assert np.abs(found - planes(opencv[None, ..., ::-1])).max() < 1


def test_grey_frames_and_colour_frames_for_a_net_of_one_channel():
    x = frames(2, HEIGHT, WIDTH, 1)
    found = through(resolve(None, scale=1 / 256), x, GREY)
    assert np.array_equal(found, planes(x) * np.float32(1 / 256))
    colour = frames(1, HEIGHT, WIDTH, 4)
    found = through(resolve(None, camera="bgra"), colour, GREY)
    opencv = cv2.cvtColor(colour[0], cv2.COLOR_BGRA2GRAY)
    assert np.abs(found - planes(opencv[None, ..., None])).max() <= 0.51


def test_the_metadata_says_what_goes_in():
    model = made(resolve(None, mean="1,2,3", scale=0.5, crop=True, resize="8x8"))
    about = json.loads(model.metadata["inputs"])
    assert about == {
        "image": {
            "type": "uint8", "layout": "NHWC", "channels": "rgb", "height": None, "width": None,
        }
    }  # fmt: skip
    assert model.metadata["preprocessing"] == (
        "rgb to bgr; resize 8x8; centre 6x5; minus 1, 2, 3; times 0.5"
    )
    assert describe(Preprocess(channels="rgb", camera="rgb"), (1, 1)) == "none"
    fixed = made(resolve(None, resize="8x8", crop=True, frame=(48, 64)), batch=2)
    assert fixed.inputs[0].dims == (2, 48, 64, 3)


TRAIN_VAL = """
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { mirror: true crop_size: 5 } data_param { batch_size: 1 } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { %s } data_param { batch_size: 1 } }
"""


def test_the_transform_is_that_of_the_test_phase():
    net = parse_net(TRAIN_VAL % "scale: 0.5 mean_value: 1 mean_value: 2 mean_value: 3")
    found = read_transform(net, ["data"])
    assert (found.mean_values, found.scale, found.crop) == ((1, 2, 3), 0.5, 0)
    wanted = resolve(found, scale=2.0)
    assert wanted.mean.ravel().tolist() == [1, 2, 3]
    assert (wanted.scale, wanted.crop) == (2.0, False)
    assert read_transform(net, ["other"]) is None
    assert read_transform(parse_net(NET)) is None
    train = parse_net(TRAIN_VAL.split("layer")[1].join(["layer", ""]))
    assert read_transform(train).crop == 5


def test_the_mean_file_is_looked_for_beside_the_prototxt(tmp_path):
    text = TRAIN_VAL % 'mean_file: "/data/elsewhere/mean.binaryproto" crop_size: 5'
    (tmp_path / "net.prototxt").write_text(text)
    transform = read_transform(read_net(tmp_path / "net.prototxt"))
    with pytest.raises(NetError, match="mean.binaryproto beside the prototxt; put it there"):
        resolve(transform)
    assert resolve(transform, mean="5").mean.ravel().tolist() == [5]
    (tmp_path / "mean.binaryproto").write_bytes(b"")
    assert transform.mean_path() == str(tmp_path / "mean.binaryproto")
    both = parse_net(TRAIN_VAL % 'mean_file: "m.binaryproto" mean_value: 1')
    with pytest.raises(NetError, match="both mean_file and mean_value"):
        read_transform(both)


def test_sizes_of_image_data_and_ssd_are_read():
    text = (TRAIN_VAL % "").replace("data_param { batch", "image_data_param { %s batch")
    net = parse_net(text.replace("%s", "new_height: 8 new_width: 9"))
    assert read_transform(net).resize == (8, 9)
    ssd = "resize_param { prob: 1 resize_mode: WARP height: 300 width: 300 }"
    assert str(resolve(read_transform(parse_net(TRAIN_VAL % ssd))).resize) == "300x300"


REFUSED = {
    "resize smaller": ({"resize": "5x5", "crop": True}, r"resize 5x5 is smaller than .* \(6 x 5\)"),
    "short smaller": ({"resize": "short=5", "crop": True}, "resize short=5 is smaller"),
    "no crop": ({"resize": "8x8"}, "resize 8x8 is not what the net takes .* say --crop"),
    "one number": ({"resize": "256"}, "resize '256': expected height and width .256x256."),
    "no number": ({"resize": "0x4"}, "resize '0x4'"),
    "mean": ({"mean": np.zeros((3, 4, 4)), "crop": True}, "mean image is 4 x 4, smaller than"),
    "mean of any": (
        {"mean": np.zeros((3, 9, 9)), "resize": "short=9", "crop": True},
        "mean image is 9 x 9, which is neither .* frames of any size; --resize 9x9 --crop",
    ),
    "mean uncut": ({"mean": np.zeros((3, 9, 9))}, "mean image is 9 x 9, which is neither"),
    "mean and frame": (
        {"mean": np.zeros((3, 9, 9)), "crop": True, "frame": (48, 64)},
        "mean image is 9 x 9, and frames are 48 x 64; add --resize 9x9",
    ),
    "mean channels": ({"mean": "1,2"}, "the mean has 2 channels, and the net takes 3"),
    "small frame": ({"crop": True, "frame": (6, 4)}, "frames of 6 x 4 do not give"),
    "other frame": ({"frame": (7, 5)}, "frames of 7 x 5 do not give .*--resize"),
    "channels": ({"channels": "gray"}, "takes 3 channels.*--channels gray does not fit"),
    "grey camera": ({"camera": "gray"}, "--camera gray is for a net of one channel"),
    "word": ({"camera": "yuv"}, "camera 'yuv': expected one of rgb"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_both_sizes(case):
    given, message = REFUSED[case]
    with pytest.raises(ExportError, match=message):
        made(resolve(None, **given))


def test_a_net_without_one_image_input_is_refused():
    two = input_layer(a=(1, 3, 4, 4), b=(1, 3, 4, 4)) + layer("Eltwise", "a b", "c")
    for text in (two, input_layer(data=(1, 7)) + layer("ReLU", "data", "r")):
        with pytest.raises(ExportError, match="one input N x C x H x W of known size"):
            made(resolve(None), text)
    five = input_layer(data=(1, 5, 4, 4)) + layer("ReLU", "data", "r")
    with pytest.raises(ExportError, match="takes 5 channels"):
        made(resolve(None), five)


def test_labels_are_kept_where_they_are_as_many_as_classes(tmp_path):
    net, weights = net_and_weights(
        input_layer(data=(1, 3)) + layer("Reshape", "data", "r", "reshape_param { shape { dim: 0 "
        "dim: 3 dim: 1 dim: 1 } }"), None
    )  # fmt: skip
    model = build(net, weights).model
    (tmp_path / "l.txt").write_bytes("n1 tench, Tinca\r\nh\u00e4nd\n\n third\n\n".encode())
    names = read_labels(tmp_path / "l.txt")
    assert names == ["n1 tench, Tinca", "h\u00e4nd", "", "third"]
    with pytest.raises(ExportError, match=r"l.txt: 4 labels, .* \(r 3\)"):
        with_labels(model, names, "l.txt")
    assert with_labels(model, ["a", "", "c"]).metadata["labels"] == "a\n\nc"
    for data, message in ((b"\xff\xfe", "no UTF-8"), (b"a\0b", "a binary file")):
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(FileError, match=message):
            read_labels(tmp_path / "bad")
    with pytest.raises(FileError, match="no such file"):
        read_labels(tmp_path / "none.txt")


def caffe_input(images, mean, scale, size):
    """What Caffe's DataTransformer makes of stored images N x C x H x W, by its loops."""
    out = np.zeros((len(images), images.shape[1], *size), np.float32)
    top, left = ((have - want) // 2 for have, want in zip(images.shape[2:], size))
    for place in np.ndindex(*out.shape[1:]):
        c, h, w = place
        pixel = images[:, c, top + h, left + w].astype(np.float32)
        average = mean[c, top + h, left + w] if mean.ndim == 3 else mean[c]
        out[:, c, h, w] = (pixel - average) * np.float32(scale)
    return out


@pytest.mark.parametrize("name", ["cifar10_quick", "res56"])
def test_a_trained_net_sees_what_caffe_saw(name):
    folder = shared("data", name)
    deploy = read_net(folder / "deploy.prototxt")
    text = "cifar10_quick_train_test.prototxt" if name == "cifar10_quick" else "train_val.prototxt"
    weights = "cifar10_quick" if name == "cifar10_quick" else "res56_jpgft"
    transform = read_transform(read_net(folder / text))
    model = build(deploy, caffemodel.read(folder / f"{weights}.caffemodel")).model
    blob = model.inputs[0].name
    model = attach(model, resolve(transform, channels="rgb"))
    images = np.load(shared("data", "cifar10", "test_first5000.npz"))["images"][:50]
    stream = io.BytesIO()
    model.write(stream)
    found = run(stream.getvalue(), {"image": np.ascontiguousarray(images.transpose(0, 2, 3, 1))})
    output = model.outputs[0].name
    key = "prob" if name == "cifar10_quick" else "res56_jpgft"
    stored = "caffe_prob" if name == "cifar10_quick" else "caffe_softmax"
    expected = np.load(folder / f"{stored}_first5000.npz")[key][:50]
    assert relative(found[output].reshape(expected.shape), expected) < 1e-4
    assert blob == "data" and transform.scale == (1 if name == "cifar10_quick" else 1 / 128)


def test_a_mean_file_larger_than_the_net_is_cut_as_caffes_loops_do(tmp_path):
    mean = np.random.default_rng(3).uniform(90, 130, (3, 9, 8)).astype(np.float32)
    np.save(tmp_path / "mean.npy", mean)
    x = frames(2, 9, 8, 3)
    found = through(resolve(Transform(crop=5), mean=str(tmp_path / "mean.npy"), scale=0.017), x)
    bgr = x[..., ::-1].transpose(0, 3, 1, 2)
    assert np.array_equal(found, caffe_input(bgr, mean, 0.017, (HEIGHT, WIDTH)))
