"""The executor against real Caffe: golden nets, trained nets; and how it runs any net."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from conftest import shared, shared_root
from nets import relative, write_net
from onnxnets import input_layer, layer, model_bytes, net_and_weights, run, run_net

from caffesurgery import forward
from caffesurgery.data.images import open_images
from caffesurgery.errors import NetError, UsageError, WeightsError
from caffesurgery.export.onnx import build
from caffesurgery.files import caffemodel
from caffesurgery.files.mean import load_mean
from caffesurgery.files.resources import resource
from caffesurgery.forward.kernel import computable
from caffesurgery.forward.threads import blas_threads
from caffesurgery.net.layers.base import known_types
from caffesurgery.net.net import parse_net, read_net
from caffesurgery.net.shapes import infer

KINDS = sorted({path.name[:-3] for path in shared_root().glob("golden/*_[0-9][0-9]")})


def runner_of(folder, net="deploy.prototxt", weights=None, batch=None, **options):
    """A Runner of a net and a caffemodel in one folder of the reference material."""
    shapes = infer(read_net(folder / net), "TEST", batch=batch)
    blobs = forward.load(shapes, caffemodel.read(folder / (weights or "net.caffemodel")))
    return forward.Runner(shapes, blobs, **options)


def runner(text, tmp_path, **options):
    """A Runner of a net given as text, with seeded weights."""
    net, weights = net_and_weights(text, Path(mkdtemp(dir=tmp_path)))
    shapes = infer(net, "TEST")
    return forward.Runner(shapes, forward.load(shapes, weights), **options)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_golden_outputs_of_caffe_come_out(kind):
    for folder in sorted(shared("golden").glob(f"{kind}_[0-9][0-9]")):
        made = runner_of(folder, "net.prototxt")
        arrays = np.load(folder / "io.npz")
        inputs = {key[3:]: arrays[key] for key in arrays if key.startswith("in:")}
        expected = {key[4:]: arrays[key] for key in arrays if key.startswith("out:")}
        found = made.run(inputs)
        assert set(expected) <= set(found), folder.name
        for name, blob in expected.items():
            assert found[name].shape == blob.shape, folder.name
            assert relative(found[name], blob) < 1e-4, folder.name
        again = made.run(inputs)
        assert all(np.array_equal(again[name], found[name]) for name in found), folder.name


def test_every_kind_of_golden_net_was_seen():
    if not shared_root().exists():
        pytest.skip("reference material not found (set CAFFESURGERY_SHARED)")
    assert len(KINDS) == 27


@pytest.mark.parametrize("weights", ["res56", "res56_jpgft"])
def test_trained_resnet_gives_caffes_probabilities(weights):
    folder = shared("data", "res56")
    made = runner_of(folder, weights=f"{weights}.caffemodel", batch=20)
    images = open_images(shared("data", "cifar10", "test_first5000.npz")).images[:20]
    (found,) = made.run({"data": (images - np.float32(128)) / 128}).values()
    expected = np.load(folder / "caffe_softmax_first5000.npz")[weights][:20]
    assert relative(found.reshape(20, 10), expected) < 1e-4


def test_trained_cifar10_quick_gives_caffes_probabilities():
    folder = shared("data", "cifar10_quick")
    made = runner_of(folder, weights="cifar10_quick.caffemodel", batch=100)
    images = open_images(shared("data", "cifar10", "test_first5000.npz")).images[:100]
    mean = load_mean(str(folder / "mean.binaryproto"))
    found = made.run({"data": images - mean})["prob"]
    assert relative(found, np.load(folder / "caffe_prob_first5000.npz")["prob"][:100]) < 1e-4


def test_trained_squeezenet_gives_caffes_scores():
    cv2 = pytest.importorskip("cv2")
    folder = shared("data", "squeezenet")
    data = np.load(shared("data", "imagenet_sample", "images300.npz"))
    made = runner_of(folder, weights="squeezenet_v1.0.caffemodel", keep=["pool_final"])
    expected = np.load(folder / "caffe_prob_300.npz")["prob"]
    for i in (0, 150, 299):
        jpeg = data["jpeg"][data["offsets"][i] : data["offsets"][i + 1]]
        bgr = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[14:241, 14:241].astype(np.float32)
        image = (bgr - np.float32([104, 117, 123])).transpose(2, 0, 1)[None]
        assert relative(made.run({"data": image})["pool_final"].reshape(-1), expected[i]) < 1e-4


@pytest.mark.parametrize("name", ["lenet", "squeezenet"])
def test_zoo_nets_compute_what_their_export_computes(name, tmp_path):
    text = resource("models", name, "deploy.prototxt").read_text("utf-8")
    prototxt, weights = write_net(tmp_path, text)
    shapes = infer(read_net(prototxt), "TEST", batch=2)
    made = forward.Runner(shapes, forward.load(shapes, caffemodel.read(weights)), threads=2)
    inputs = {"data": random(*made.inputs["data"])}
    export = build(read_net(prototxt), caffemodel.read(weights))
    expected = run(model_bytes(export), inputs)
    assert relative(made.run(inputs)["prob"], expected["prob"]) < 1e-4


def test_every_type_of_the_zoo_is_computed_in_training_nets_too():
    paths = resource("models").glob("*/*.prototxt")
    nets = [read_net(path) for path in paths if path.stem != "solver"]
    assert {layer.type for net in nets for layer in net.layers} <= set(computable())


def test_every_known_type_is_computed_but_those_that_the_documentation_names():
    page = resource("docs", "cost.md").read_text("utf-8")
    assert {kind for kind in known_types() if f"`{kind}`" not in page} <= set(computable())


BRANCHES = (
    input_layer(data=(2, 3, 6, 6))
    + layer("Convolution", "data", "c", "convolution_param { num_output: 4 kernel_size: 3 }")
    + layer("ReLU", "c", "c", name="relu")
    + layer("Split", "c", "c1 c2", name="split")
    + layer("Power", "c1", "p", "power_param { scale: 2 shift: 1 }")
    + layer("Pooling", "c2", "m", "pooling_param { kernel_size: 3 pad: 1 }")
    + layer("Concat", "p m", "both")
    + layer("Eltwise", "p m", "sum")
    + layer("Flatten", "both", "flat")
    + layer("InnerProduct", "flat", "score", "inner_product_param { num_output: 5 }")
)


def test_in_place_shared_and_reused_memory_does_not_show(tmp_path):
    x = {"data": random(2, 3, 6, 6)}
    expected = run_net(BRANCHES, tmp_path, x, keep_blobs=["c", "p", "m", "both", "data"])
    made = runner(BRANCHES, tmp_path, keep=["c", "p", "m", "both", "data"])
    for _ in range(2):
        found = made.run(x)
        assert set(found) == set(expected)
        assert all(relative(found[name], expected[name]) < 1e-6 for name in expected)
        for array in found.values():
            array.fill(7)  # the caller's own


def test_an_input_changed_in_place_stays_the_callers(tmp_path):
    text = input_layer(data=(1, 2)) + layer("ReLU", "data", "data", name="r")
    given = np.float32([[-1, 1]])
    assert runner(text, tmp_path).run({"data": given})["data"].tolist() == [[0, 1]]
    assert given.tolist() == [[-1, 1]]


def test_memory_is_handed_on_once_it_was_read(tmp_path):
    chain = input_layer(b0=(1, 1000))
    for i in range(20):
        chain += layer("Power", f"b{i}", f"b{i + 1}", "power_param { shift: 1 }")
    made = runner(chain, tmp_path)
    assert made.memory == 2 * 4000
    assert made.run({"b0": np.zeros((1, 1000))})["b20"].tolist() == [[20] * 1000]
    kept = runner(chain, tmp_path, keep=[f"b{i}" for i in range(20)])
    assert kept.memory == 21 * 4000


def test_blobs_that_layers_share_are_loaded_once(tmp_path):
    shared_name = 'param { name: "w" } inner_product_param { num_output: 4 bias_term: false }'
    text = input_layer(data=(1, 4)) + layer("InnerProduct", "data", "a", shared_name)
    text += layer("InnerProduct", "a", "b", shared_name)
    shapes = infer(parse_net(text), "TEST")
    blobs = forward.seeded(shapes)
    x = random(1, 4)
    matrix = blobs[1][0]
    found = forward.Runner(shapes, blobs).run({"data": x})["b"]
    assert relative(found, x @ matrix.T @ matrix.T) < 1e-6


def test_threads_change_nothing_but_time(tmp_path):
    x = {"data": random(2, 3, 6, 6)}
    one, two = (runner(BRANCHES, tmp_path, threads=n).run(x)["score"] for n in (1, 2))
    assert relative(one, two) < 1e-6


def test_threads_of_blas_are_set_back():
    with blas_threads(2) as told:
        if not told:
            pytest.skip("NumPy's BLAS takes no number of threads")
        with blas_threads(1) as inner:
            assert inner
        with blas_threads(2) as still:
            assert still


def test_measuring_gives_every_layer_its_time(tmp_path):
    seen = []
    made = runner(BRANCHES, tmp_path)
    found = forward.measure(made, 3, progress=seen.append)
    assert [one.name for one in found.layers] == [e.layer.name for e in made.shapes.layers]
    assert all(0 < one.minimum <= one.median for one in found.layers)
    assert 0 < found.minimum <= found.median and seen[-1] == 1
    assert found.macs == made.shapes.macs and found.iterations == 3
    conv, relu = found.layers[1:3]
    assert conv.gflops == pytest.approx(2 * conv.macs / conv.median / 1e6)
    assert relu.gflops is None
    with pytest.raises(UsageError, match="iterations 0: expected 1 or more"):
        forward.measure(made, 0)


def test_seeded_blobs_keep_activations_alive_and_are_the_same_again():
    net = read_net(resource("models", "squeezenet", "deploy.prototxt"))
    shapes = infer(net, "TEST", batch=1)
    found = [
        forward.Runner(shapes, forward.seeded(shapes, seed), keep=["conv10"]) for seed in (3, 3, 4)
    ]
    x = {"data": np.random.default_rng(0).random((1, 3, 227, 227), np.float32)}
    one, same, other = (made.run(x)["conv10"] for made in found)
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert 1e-3 < one.std() < 1e3


BAD = [
    ("FancyNorm", "", r"net.prototxt:2 \(layer 'y'\): layer type 'FancyNorm' cannot be computed"),
    ("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 }", "STOCHASTIC pooling is not"),
]


@pytest.mark.parametrize("kind, params, message", BAD)
def test_layers_that_cannot_be_computed_are_named(kind, params, message, tmp_path):
    text = input_layer(data=(1, 3, 8, 8)) + layer(kind, "data", "y", params)
    shapes = infer(parse_net(text, "net.prototxt"), "TEST")
    with pytest.raises(NetError, match=message):
        forward.Runner(shapes, {})


def test_wrong_inputs_blobs_and_names_are_refused(tmp_path):
    made = runner(BRANCHES, tmp_path)
    x = random(2, 3, 6, 6)
    for inputs, message in [
        ({}, r"net.prototxt:1 \(layer 'data'\): no array is given for its top 'data'"),
        ({"data": x, "dat": x}, "no input 'dat'; did you mean 'data'"),
        ({"data": x[:1]}, "input 'data' is 1x3x6x6, the net takes 2x3x6x6"),
        ({"data": x.astype(complex)}, "input 'data' is complex128, expected float32"),
    ]:
        with pytest.raises(NetError, match=message):
            made.run(inputs)
    shapes = infer(parse_net(BRANCHES, "net.prototxt"), "TEST")
    with pytest.raises(WeightsError, match=r"layer 'c'\): its parameter blobs are none, expected"):
        forward.Runner(shapes, {})
    with pytest.raises(NetError, match="no blob 'bot' in this phase; did you mean 'both'"):
        forward.Runner(shapes, forward.seeded(shapes), keep=["bot"])
    with pytest.raises(WeightsError, match="has parameters but no weights are given"):
        forward.load(shapes, None)


def test_an_index_outside_of_its_table_is_refused(tmp_path):
    text = input_layer(i=(2,)) + layer(
        "Embed", "i", "e", "embed_param { input_dim: 3 num_output: 2 }"
    )
    made = runner(text, tmp_path)
    assert made.run({"i": [0, 2]})["e"].shape == (2, 2)
    for wrong in (-1, 3):
        with pytest.raises(NetError, match=f"Embed: met the index {wrong}, expected 0 to 2"):
            made.run({"i": [0, wrong]})
