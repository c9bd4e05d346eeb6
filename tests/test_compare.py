"""Comparing two nets in ONNX Runtime: the figures, the images, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import shared
from onnxnets import input_layer, layer, net_and_weights, relative, write_weights

from caffesurgery.data.images import Preprocessing, open_images
from caffesurgery.errors import DataError, FileError, VerifyError
from caffesurgery.export.onnx import export_onnx
from caffesurgery.files import caffemodel
from caffesurgery.files.mean import load_mean
from caffesurgery.net.net import parse_net, read_net
from caffesurgery.verify.compare import compare
from caffesurgery.verify.session import Session, net_session
from caffesurgery.verify.tally import Tally, label_ranks

CLASSIFIER = (
    input_layer(data=(2, 3, 4, 4))
    + layer("InnerProduct", "data", "hidden", "inner_product_param { num_output: 9 }")
    + layer("ReLU", "hidden", "hidden", name="relu")
    + layer("InnerProduct", "hidden", "score", "inner_product_param { num_output: 7 }")
)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def weights_of(seed):
    return {
        "hidden": [random(9, 48, seed=seed), random(9, seed=seed)],
        "score": [random(7, 9, seed=seed), random(7, seed=seed)],
    }


def forward(weights, x):
    hidden = x.reshape(len(x), -1) @ weights["hidden"][0].T + weights["hidden"][1]
    return np.maximum(hidden, 0), np.maximum(hidden, 0) @ weights["score"][0].T + weights["score"][
        1
    ]


@pytest.fixture
def pair(tmp_path):
    """A classifier with two sets of weights, as compare takes them, and the arrays."""
    arrays = weights_of(1), weights_of(2)
    net = parse_net(CLASSIFIER, "net.prototxt")
    models = [write_weights(tmp_path / f"{i}.caffemodel", net, arrays[i]) for i in (0, 1)]
    return (net, models[0], net, models[1]), arrays


def test_differences_and_accuracies_are_those_of_the_definition(pair):
    nets, arrays = pair
    x = np.random.default_rng(5).integers(0, 256, (23, 3, 4, 4)).astype(np.uint8)
    labels = np.random.default_rng(6).integers(0, 7, 23)
    seen = []
    found = compare(
        *nets, images=x, labels=labels, blobs=["score", "hidden"], mean=[1, 2, 3], scale=0.02,
        bgr=True, batch=5, progress=lambda what, share: seen.append((what, share)),
    )  # fmt: skip
    ready = (x[:, ::-1] - np.float32([1, 2, 3]).reshape(3, 1, 1)) * np.float32(0.02)
    first, second = (forward(weights, ready) for weights in arrays)
    assert [blob.name for blob in found.blobs] == ["score", "hidden"]
    for blob, a, b in zip(found.blobs, first[::-1], second[::-1]):
        assert blob.shape == a.shape and blob.not_finite == (0, 0)
        assert blob.max_abs == pytest.approx(np.abs(a - b).max(), rel=1e-4)
        assert blob.relative == pytest.approx(np.abs(a - b).max() / np.abs(a).max(), rel=1e-4)
        norm = np.linalg.norm(a - b) / np.linalg.norm(a)
        assert blob.frobenius == pytest.approx(norm, rel=1e-4)
        assert blob.agreement == np.mean(a.argmax(1) == b.argmax(1))
    scores = found.blobs[0]
    expected = [np.mean(out.argmax(1) == labels) for out in (first[1], second[1])]
    assert scores.top1 == pytest.approx(expected)
    five = [
        np.mean([label in np.argsort(row)[-5:] for row, label in zip(out, labels)])
        for out in (first[1], second[1])
    ]
    assert scores.top5 == pytest.approx(five)
    assert seen[-1] == ("23 of 23", 1.0) and len(seen) == 5
    assert found.images == 23 and found.source == "the images" and found.seed is None


def test_the_result_is_json_and_a_net_equals_itself(pair):
    nets, _ = pair
    found = compare(*nets[:2], *nets[:2], samples=3, seed=9)
    data = json.loads(json.dumps(found.as_dict()))
    assert data["worst"] == 0 and data["images"] == 3 and data["seed"] == 9
    assert data["source"] == "random inputs" and data["accuracy"] == {}
    assert data["blobs"][0]["name"] == "score" and data["blobs"][0]["agreement"] == 1


def test_random_inputs_depend_on_the_seed_alone(pair):
    nets, _ = pair
    one, again, other = (compare(*nets, samples=4, seed=seed) for seed in (1, 1, 2))
    assert one == again and one.worst != other.worst
    split = compare(*nets, samples=4, seed=1, batch=2)
    assert split.worst == pytest.approx(one.worst, rel=1e-5) and (split.images, split.batch) == (
        4,
        2,
    )


def test_a_net_with_a_fixed_batch_takes_images_that_do_not_fill_it(tmp_path):
    text = input_layer(data=(4, 2, 1, 1)) + layer(
        "Scale", "data", "y", "scale_param { axis: 0 num_axes: -1 }"
    )
    net, weights = net_and_weights(text, tmp_path)
    x = random(6, 2, 1, 1)
    found = compare(net, weights, net, weights, images=x)
    assert found.batch == 4 and found.blobs[0].shape == (6, 2, 1, 1)


def test_labels_come_from_the_images_file_or_one_of_their_own(pair, tmp_path):
    nets, arrays = pair
    x, labels = random(8, 3, 4, 4), np.arange(8) % 7
    np.savez(tmp_path / "set.npz", images=x, labels=labels)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", labels)
    one = compare(*nets, images=tmp_path / "set.npz")
    two = compare(*nets, images=str(tmp_path / "x.npy"), labels=str(tmp_path / "y.npy"))
    assert one.accuracy() == two.accuracy() != {}
    right = [float(np.mean(forward(w, x)[1].argmax(1) == labels)) for w in arrays]
    assert [scores["top1"] for scores in one.accuracy().values()] == pytest.approx(right)
    assert list(one.accuracy()) == ["first", "second"]


def test_preprocessing_is_caffes_data_transformer():
    x = np.random.default_rng(0).integers(0, 256, (2, 3, 6, 8)).astype(np.uint8)
    image = random(3, 6, 8) * 100
    ready = Preprocessing(load_mean(image), 0.5, bgr=True, crop=True)(x, (3, 4, 4))
    assert np.allclose(ready, ((x[:, ::-1] - image) * 0.5)[:, :, 1:5, 2:6], atol=1e-4)
    small = image[:, :4, :4]
    ready = Preprocessing(load_mean(small), crop=True)(x, (3, 4, 4))
    assert np.allclose(ready, x[:, :, 1:5, 2:6] - small, atol=1e-4)
    assert ready.dtype == np.float32 and ready.flags.c_contiguous


def test_a_mean_is_numbers_or_a_file(tmp_path):
    np.save(tmp_path / "mean.npy", np.ones((1, 3, 2, 2)))
    assert load_mean("104,117,123").ravel().tolist() == [104, 117, 123]
    assert load_mean("7.5").shape == (1, 1, 1) and load_mean(128).shape == ()
    assert load_mean(str(tmp_path / "mean.npy")).shape == (3, 2, 2)
    for bad, message in [
        ("red", "expected numbers with commas"),
        (np.ones((2, 3)), "mean has shape 2 x 3"),
    ]:
        with pytest.raises(FileError, match=message):
            load_mean(bad)


def refusals(tmp_path):
    """What is refused: options of compare, and the words of the error."""
    (tmp_path / "text.npy").write_text("not an array")
    np.savez(tmp_path / "none.npz")
    return [
        ({"images": "missing.npy"}, "missing.npy: no such file; expected images as .npy or .npz"),
        ({"images": tmp_path / "text.npy"}, "cannot be read as images"),
        ({"images": tmp_path / "none.npz"}, "holds no array"),
        ({"images": np.zeros((5, 4, 4))}, "shape 5 x 4 x 4; expected images N x C x H x W"),
        ({"images": np.zeros((5, 4, 4, 3))}, "N x H x W x C: transpose them"),
        ({"images": np.zeros((5, 3, 6, 6))}, "3 x 6 x 6 for a net that takes 3 x 4 x 4: cut them"),
        ({"images": np.zeros((5, 3, 2, 6)), "crop": True}, "too small to be cropped"),
        ({"images": np.zeros((5, 3, 4, 4)), "labels": np.zeros(4)}, "4 labels for 5 images"),
        ({"images": np.zeros((5, 3, 4, 4)), "labels": np.full(5, 0.5)}, "expected whole numbers"),
        ({"images": np.zeros((5, 3, 4, 4)), "mean": [1, 2]}, "fits neither the images"),
        ({"labels": np.zeros(4)}, "labels without images"),
        ({"batch": 0}, "batch 0, samples 8: expected 1 or more"),
    ]


def test_inputs_that_do_not_fit_are_refused_with_what_was_met_and_expected(pair, tmp_path):
    nets, _ = pair
    for options, message in refusals(tmp_path):
        with pytest.raises((DataError, VerifyError)) as caught:
            compare(*nets, **options)
        assert message in str(caught.value)


def test_nets_that_cannot_be_compared_are_refused(pair, tmp_path):
    nets, _ = pair
    for text, message in [
        (
            CLASSIFIER.replace("dim: 4 dim: 4", "dim: 8 dim: 2"),
            "different inputs: data 3 x 4 x 4 and data 3 x 8 x 2",
        ),
        (CLASSIFIER.replace('"score"', '"out"'), "no output in common: score and out"),
        (CLASSIFIER.replace("num_output: 7", "num_output: 6"), r"has shape \(8, 7\) .* \(8, 6\)"),
    ]:
        (tmp_path / "net0.caffemodel").unlink(missing_ok=True)
        with pytest.raises(VerifyError, match=message):
            compare(*nets[:2], *net_and_weights(text, tmp_path))


def test_images_are_refused_by_a_net_with_two_inputs(tmp_path):
    text = input_layer(a=(1, 3, 2, 2), b=(1, 3, 2, 2)) + layer("Eltwise", "a b", "sum")
    net = parse_net(text)
    with pytest.raises(VerifyError, match="one input C x H x W; this one takes a 3 x 2 x 2, b"):
        compare(net, None, net, None, images=np.zeros((1, 3, 2, 2)))
    assert compare(net, None, net, None).worst == 0


def test_not_finite_values_are_counted_and_equal_ones_are_no_difference():
    tally = Tally("x")
    one = np.float32([[1, np.inf, np.nan, 2]])
    tally.add(one, one.copy(), None)
    assert tally.result().max_abs == 0 and tally.result().not_finite == (2, 2)
    tally.add(one, np.float32([[1, 0, 0, 2]]), None)
    assert not np.isfinite(tally.result().max_abs)


def test_of_equal_scores_the_later_class_comes_first_as_in_caffe():
    scores = np.float32([[1, 1, 0], [1, 1, 0], [2, 3, 1]])
    assert label_ranks(scores, np.array([0, 1, 2])).tolist() == [1, 0, 2]


def test_an_exported_file_runs_in_a_session(tmp_path):
    net, weights = net_and_weights(CLASSIFIER, tmp_path)
    export_onnx(net, weights, tmp_path / "net.onnx")
    session = Session(tmp_path / "net.onnx")
    assert session.inputs == {"data": ("batch", 3, 4, 4)} and session.outputs == ["score"]
    assert session.run({"data": random(5, 3, 4, 4)})["score"].shape == (5, 7)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(VerifyError, match="broken.onnx: ONNX Runtime cannot load the model"):
        Session(tmp_path / "broken.onnx")


def outputs(net, weights, images, prepare, size=50):
    """The net's only output on all images."""
    found = []
    with net_session(net, weights) as session:
        ((name, dims),) = session.inputs.items()
        for start in range(0, len(images), size):
            batch = prepare(images[start : start + size], dims[1:])
            found.append(session.run({name: batch})[session.outputs[0]])
    return np.concatenate(found)


@pytest.mark.parametrize("weights", ["res56", "res56_jpgft"])
def test_resnet56_gives_caffes_softmax(weights):
    folder = shared("data", "res56")
    images = open_images(shared("data", "cifar10", "test_first5000.npz")).images
    expected = np.load(folder / "caffe_softmax_first5000.npz")[weights]
    every = slice(None, None, 25)  # 200 of the 5,000, to stay quick
    found = outputs(
        read_net(folder / "deploy.prototxt"),
        caffemodel.read(folder / f"{weights}.caffemodel"),
        images[every],
        Preprocessing(load_mean(128), 1 / 128),
    )
    assert relative(found, expected[every]) < 1e-4


def test_cifar10_quick_gives_caffes_probabilities():
    folder = shared("data", "cifar10_quick")
    images = open_images(shared("data", "cifar10", "test_first5000.npz")).images[:1000]
    found = outputs(
        read_net(folder / "deploy.prototxt"),
        caffemodel.read(folder / "cifar10_quick.caffemodel"),
        images,
        Preprocessing(load_mean(str(folder / "mean.binaryproto"))),
    )
    assert relative(found, np.load(folder / "caffe_prob_first5000.npz")["prob"][:1000]) < 1e-4


def test_squeezenet_gives_caffes_scores():
    cv2 = pytest.importorskip("cv2", reason="decodes the JPEG images")
    folder = shared("data", "squeezenet")
    data = np.load(shared("data", "imagenet_sample", "images300.npz"))
    jpeg, offsets = data["jpeg"], data["offsets"]
    picked = range(0, 300, 15)
    bgr = [cv2.imdecode(jpeg[offsets[i] : offsets[i + 1]], cv2.IMREAD_COLOR) for i in picked]
    found = outputs(
        read_net(folder / "deploy.prototxt"),
        caffemodel.read(folder / "squeezenet_v1.0.caffemodel"),
        np.stack(bgr).transpose(0, 3, 1, 2),
        Preprocessing(load_mean("104,117,123"), crop=True),
        size=10,
    )
    expected = np.load(folder / "caffe_prob_300.npz")["prob"][list(picked)]
    assert relative(found[:, :, 0, 0], expected) < 1e-4


def test_accuracy_on_real_images_is_caffes():
    folder, data = shared("data", "cifar10_quick"), shared("data", "cifar10", "test_first5000.npz")
    net = read_net(folder / "deploy.prototxt")
    weights = caffemodel.read(folder / "cifar10_quick.caffemodel")
    found = compare(net, weights, net, weights, images=data, mean=str(folder / "mean.binaryproto"))
    probabilities = np.load(folder / "caffe_prob_first5000.npz")["prob"]
    caffe = np.mean(probabilities.argmax(1) == np.load(data)["labels"])
    assert found.accuracy()["first"]["top1"] == pytest.approx(caffe, abs=1e-9)
    assert found.worst == 0 and found.images == 5000
