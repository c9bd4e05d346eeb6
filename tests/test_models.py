"""The zoo: published names, shapes and parameter counts, equal in deploy, train_val and phases."""

from __future__ import annotations

import json
import math

import pytest

from caffesurgery.files.resources import resource
from caffesurgery.files.text import read
from caffesurgery.net.net import read_net
from caffesurgery.net.shapes import infer

IMAGES = {
    "lenet": (1, 28, 28),
    "caffenet": (3, 227, 227),
    "alexnet": (3, 227, 227),
    "googlenet": (3, 224, 224),
    "vgg16": (3, 224, 224),
    "resnet50": (3, 224, 224),
    "squeezenet": (3, 227, 227),
}
PARAMETERS = {
    "lenet": 431_080,
    "caffenet": 60_965_224,
    "alexnet": 60_965_224,
    "googlenet": 6_998_552,
    "vgg16": 138_357_544,
    "resnet50": 25_610_269,
    "squeezenet": 1_235_496,
}
AUXILIARY = {f"loss{i}/{part}" for i in (1, 2) for part in ("conv", "fc", "classifier")}

every_net = pytest.mark.parametrize("name", sorted(IMAGES))


def shapes(name, file, phase="TEST"):
    """NetShapes of one of a folder's nets; the data layers of train_val give batches of 2."""
    given = {"data": (2, *IMAGES[name]), "label": (2,)} if file == "train_val" else None
    return infer(read_net(resource("models", name, f"{file}.prototxt")), phase, inputs=given)


def parameters(net):
    """Layer name -> shapes of its blobs, for layers that have any."""
    return {v.layer.name: [tuple(s) for s in v.params] for v in net.layers if v.params}


@every_net
def test_parameter_counts_are_the_published_ones(name):
    blobs = parameters(shapes(name, "deploy"))
    assert sum(math.prod(s) for v in blobs.values() for s in v) == PARAMETERS[name]


@every_net
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_train_val_takes_the_weights_of_deploy(name, phase):
    deploy, train = parameters(shapes(name, "deploy")), parameters(shapes(name, "train_val", phase))
    extra = AUXILIARY if name == "googlenet" else set()
    assert set(train) - set(deploy) == extra
    assert {k: v for k, v in train.items() if k not in extra} == deploy


@every_net
def test_deploy_ends_in_probabilities_and_train_val_in_a_loss(name):
    classes = 10 if name == "lenet" else 1000
    deploy = shapes(name, "deploy")
    last = deploy.layers[-1]
    assert (last.layer.name, last.layer.type) == ("prob", "Softmax")
    assert math.prod(deploy.blobs["prob"][1:]) == classes
    for phase, accuracy in (("TRAIN", False), ("TEST", True)):
        types = [v.layer.type for v in shapes(name, "train_val", phase).layers]
        assert types.count("SoftmaxWithLoss") == (3 if name == "googlenet" else 1)
        assert ("Accuracy" in types) == accuracy


@every_net
def test_data_layers_crop_to_the_deployed_input(name):
    data = [v for v in read_net(resource("models", name, "train_val.prototxt")).layers][:2]
    for layer, mirror in zip(data, (name not in ("lenet", "squeezenet"), False)):
        assert layer.type == "Data" and layer.tops == ("data", "label")
        transform = layer.params("transform_param")
        assert transform["crop_size"] == (0 if name == "lenet" else IMAGES[name][-1])
        assert transform["mirror"] == mirror
    assert shapes(name, "deploy").blobs["data"][1:] == IMAGES[name]


@every_net
def test_every_trained_layer_says_how_to_start(name):
    net = read_net(resource("models", name, "train_val.prototxt"))
    for layer in net.phase("TRAIN"):
        field = {"Convolution": "convolution_param", "InnerProduct": "inner_product_param"}
        if layer.type in field:
            assert layer.params(field[layer.type]).has("weight_filler"), layer.name


@every_net
def test_solver_trains_the_net_beside_it(name):
    solver = read(resource("models", name, "solver.prototxt")).root
    assert solver.last("net").string() == "train_val.prototxt"
    for field in ("base_lr", "lr_policy", "max_iter", "momentum", "weight_decay", "test_iter"):
        assert solver.last(field) is not None, field


@every_net
def test_files_say_what_they_are(name):
    for file in ("deploy", "train_val", "solver"):
        text = resource("models", name, f"{file}.prototxt").read_text()
        assert text.startswith("# ") and max(map(len, text.splitlines())) <= 100
        assert "\t" not in text and text.endswith("}\n" if file != "solver" else "GPU\n")


NAMES = {
    "lenet": ["conv1", "conv2", "ip1", "ip2"],
    "alexnet": ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"],
    "caffenet": ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"],
    "vgg16": [f"conv{i}_{j}" for i, n in enumerate((2, 2, 3, 3, 3), 1) for j in range(1, n + 1)]
    + ["fc6", "fc7", "fc8"],
    "googlenet": ["conv1/7x7_s2", "conv2/3x3_reduce", "conv2/3x3"]
    + [
        f"inception_{block}/{part}"
        for block in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
        for part in ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj")
    ]
    + ["loss3/classifier"],
    "squeezenet": ["conv1"]
    + [f"fire{i}/{p}" for i in range(2, 10) for p in ("squeeze1x1", "expand1x1", "expand3x3")]
    + ["conv10"],
}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_trained_layers_are_named_as_in_the_originals(name):
    assert list(parameters(shapes(name, "deploy"))) == NAMES[name]


def test_resnet_names_and_shapes_are_the_published_ones():
    blobs = parameters(shapes("resnet50", "deploy"))
    branches = [
        f"{block}_branch{branch}"
        for stage, last in (("2", "c"), ("3", "d"), ("4", "f"), ("5", "c"))
        for block in (stage + chr(c) for c in range(ord("a"), ord(last) + 1))
        for branch in (("1",) if block.endswith("a") else ()) + ("2a", "2b", "2c")
    ]
    expected = ["conv1", "bn_conv1", "scale_conv1"]
    for branch in branches:
        expected += [f"res{branch}", f"bn{branch}", f"scale{branch}"]
    assert list(blobs) == [*expected, "fc1000"]
    assert blobs["conv1"] == [(64, 3, 7, 7), (64,)]
    assert blobs["bn_conv1"] == [(64,), (64,), (1,)]
    assert blobs["scale_conv1"] == [(64,), (64,)]
    assert blobs["res3a_branch1"] == [(512, 256, 1, 1)]
    assert blobs["res5c_branch2b"] == [(512, 512, 3, 3)]
    assert blobs["fc1000"] == [(1000, 2048), (1000,)]


def test_alexnet_normalises_before_it_pools_and_caffenet_after():
    order = {"alexnet": "conv relu norm pool", "caffenet": "conv relu pool norm"}
    for name, expected in order.items():
        names = [v.name for v in read_net(resource("models", name, "deploy.prototxt")).layers]
        for i in "12":
            found = [n[:-1] for n in names if n in (f"{w}{i}" for w in expected.split())]
            assert found == expected.split()


def test_feature_maps_have_the_published_sizes():
    sizes = {
        "alexnet": {"conv1": 55, "pool1": 27, "pool2": 13, "pool5": 6},
        "googlenet": {"conv1/7x7_s2": 112, "pool2/3x3_s2": 28, "inception_4a/output": 14},
        "vgg16": {"conv1_1": 224, "pool5": 7},
        "resnet50": {"conv1": 112, "pool1": 56, "res3a": 28, "res5c": 7, "pool5": 1},
        "squeezenet": {"conv1": 113, "pool1": 56, "pool3": 28, "pool5": 14, "pool10": 1},
        "lenet": {"conv1": 24, "pool1": 12, "conv2": 8, "pool2": 4},
    }
    for name, expected in sizes.items():
        blobs = shapes(name, "deploy").blobs
        assert {k: blobs[k][-1] for k in expected} == expected


PAPER = {"conv1": "conv1/7x7_s2", "conv2": "conv2/3x3"}


@pytest.mark.parametrize("name", ["alexnet", "googlenet", "vgg16"])
def test_layer_tables_of_the_papers_come_out(name, shared):
    table = json.loads(shared("papers", "tables.json").read_text())["networks"][name]
    found = {v.layer.name: v for v in shapes(name, "deploy").layers}
    for row in table["conv"]:
        layer = row["layer"]
        if name == "googlenet":
            layer = PAPER.get(layer, f"inception_{layer[1:]}/3x3")
        batch, channels, size, _ = found[layer].bottoms[0]
        assert (channels, size) == (row["S"] * row["group"], row["H_in"])
        assert tuple(found[layer].params[0]) == (row["T"], row["S"], row["D"], row["D"])
        assert found[layer].tops[0][1:] == (row["T"], row["H_out"], row["H_out"])
        assert math.prod(found[layer].params[0]) == row["params"]
        assert found[layer].macs == row["macs"] * batch
    for row in table.get("fc", []):
        assert tuple(found[row["layer"]].params[0]) == (row["N"], row["M"])
    assert sum(math.prod(v.params[0]) for v in found.values() if v.params) == table["total_params"]
    macs = sum(v.macs for v in found.values() if v.params)
    assert macs == table["total_macs"] * found["prob"].tops[0][0]


def test_readme_lists_every_net_with_its_count():
    text = resource("models", "README.md").read_text()
    for name, count in PARAMETERS.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        assert f" {count:,} " in row
    train = parameters(shapes("googlenet", "train_val", "TRAIN"))
    count = sum(math.prod(s) for v in train.values() for s in v)
    assert f"training net has {count:,}" in text
