"""Images from wherever they are: folders, LMDB and a net's own data layer, for any command."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from databases import datum, encoded, write_lmdb
from tiny import BODY, LOSS, TRAIN_VAL, D, W, _tiny_net, run, succeed, tiny  # noqa: F401

import caffesurgery
from caffesurgery.data import items as items_module
from caffesurgery.data.database import Database
from caffesurgery.data.images import digests, open_images
from caffesurgery.data.items import Items, held
from caffesurgery.data.layer_images import layer_images
from caffesurgery.errors import DataError, UsageError, VerifyError
from caffesurgery.net.net import parse_net

DATA = (
    'layer { name: "mine" type: "Data" top: "data" top: "label" include { phase: TEST } '
    'data_param { source: "db" backend: LMDB batch_size: 3 } '
    "transform_param { scale: 0.015625 mean_value: 128 } }\n"
)
COUNT = 10


@pytest.fixture(name="database")
def _database(tiny):  # noqa: F811
    """An LMDB of 10 images for the tiny net, the same as .npz, and a net that names the LMDB."""
    pytest.importorskip("lmdb", reason="needs caffesurgery[data]")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (COUNT, 3, 16, 16), dtype=np.uint8)
    labels = rng.integers(0, 10, COUNT)
    shutil.rmtree("db", ignore_errors=True)
    write_lmdb("db", [datum(*item) for item in zip(images, labels.tolist())])
    np.savez("same.npz", images=images, labels=labels)
    text = TRAIN_VAL[: TRAIN_VAL.index("layer")] + DATA + BODY + LOSS
    Path("train_val.prototxt").write_text(text)
    return images, labels


def test_evaluation_takes_the_data_layer_of_the_net(database):
    plain = ("--mean", "128", "--scale", "0.015625", "--no-cache", "--format", "json")
    expected = succeed("evaluate", D, W, "--images", "same.npz", *plain).json
    own = ("--no-cache", "--format", "json")
    found = succeed("evaluate", "train_val.prototxt", W, *own).json
    keys = ("images", "top1", "top5", "loss", "not_finite")
    assert [found[key] for key in keys] == pytest.approx([expected[key] for key in keys])
    assert found["preprocessing"]["from"].endswith("(layer 'mine')")
    other = succeed("evaluate", D, W, "--images", "train_val.prototxt", *own).json
    assert [other[key] for key in keys] == [expected[key] for key in keys]
    fewer = succeed("evaluate", D, W, "--images", "db", "--samples", "4", *plain).json
    assert fewer["images"] == 4
    table = succeed("evaluate", "train_val.prototxt", W, "--no-cache").out
    assert "images: as train_val.prototxt:" in table and "(layer 'mine') gives them" in table


def test_shapes_of_the_data_let_a_net_be_loaded(database):
    assert caffesurgery.data_shapes("train_val.prototxt")["data"] == (3, 3, 16, 16)
    assert caffesurgery.data_shapes(D) == {}
    shapes = caffesurgery.data_shapes("train_val.prototxt")
    model = caffesurgery.load("train_val.prototxt", W, inputs=shapes)
    report = caffesurgery.Evaluator(samples=7, cache=None)(model)
    assert report["images"] == 7 and report["source"] == "train_val.prototxt"
    alone = caffesurgery.load("train_val.prototxt", W)
    assert alone.shapes.blobs == model.shapes.blobs and alone.inputs == shapes
    other = caffesurgery.load("train_val.prototxt", W, inputs={"data": (1, 3, 16, 16)})
    assert other.shapes.blobs["data"] == (1, 3, 16, 16)
    with pytest.raises(UsageError, match="labels without images"):
        caffesurgery.Evaluator(None, np.zeros(4))


def test_data_that_are_not_there_are_named_with_layer_and_path(database):
    shutil.rmtree("db")
    failed = run("evaluate", "train_val.prototxt", W)
    assert failed.code == 1
    assert "train_val.prototxt:" in failed.err and "(layer 'mine')" in failed.err
    assert 'source "db" is not there (tried ' in failed.err
    with pytest.raises(UsageError, match="--mean: train_val.prototxt.* prepares its images alre"):
        write_lmdb("db", [datum(np.zeros((3, 16, 16), np.uint8), 0)])
        options = {"mean": "128", "cache": None}
        caffesurgery.Evaluator("train_val.prototxt", **options)(caffesurgery.load(D, W))


def test_rank_rules_and_comparisons_take_databases(database):
    rule = ("--method", "svd", "--ranks", "sensitivity:average=2", "--metric", "agreement")
    plain = ("--layers", "fc*", "--no-cache", "--jobs", "1", "--force", "-o", "plan.prototxt")
    Path("train.prototxt").write_text(DATA.replace("TEST", "TRAIN"))
    prepare = ("--mean", "128", "--scale", "0.015625")
    plans = []
    for images in (("db", *prepare), ("train.prototxt",)):
        succeed("plan", D, W, *rule, "--images", *images, *plain)
        lines = Path("plan.prototxt").read_text().splitlines()
        plans.append([line for line in lines if "made_from" not in line])
    assert plans[0] == plans[1]
    refused = run("plan", D, W, *rule, "--images", "train_val.prototxt", *plain)
    assert "has no layer with data of its own in the TRAIN phase" in refused.err
    found = [
        caffesurgery.compare(caffesurgery.load(D, W), caffesurgery.load(D, W), images=images)
        for images in ("db", "same.npz")
    ]
    assert found[0].accuracy() == found[1].accuracy() and found[0].images == COUNT
    with pytest.raises(VerifyError, match="prepares its images already; leave out how"):
        model = caffesurgery.load(D, W)
        caffesurgery.compare(model, model, images="train_val.prototxt", mean="1")


def test_a_database_has_its_images_and_labels(database):
    images, labels = database
    found = open_images("db")
    assert (np.asarray(found.images) == images).all() and (found.labels == labels).all()
    assert found.first(3).images.shape == (3, 3, 16, 16) and len(found.first(3).labels) == 3
    assert open_images("db", np.arange(COUNT)).labels.tolist() == list(range(COUNT))
    smaller = [open_images(given, resize=(8, 8)).images for given in ("db", "same.npz")]
    assert smaller[0].shape == (COUNT, 3, 8, 8) and (smaller[0] == smaller[1]).all()
    ((name, digest),) = digests("db")
    assert name == "db" and len(digest) == 64


def test_only_the_labels_that_are_wanted_are_read(database, monkeypatch):
    images, labels = database
    asked = []
    whole = Database.labels

    def labels_of(self, places):
        asked.append(len(places))
        return whole(self, places)

    monkeypatch.setattr(Database, "labels", labels_of)
    found = open_images("db").first(4)
    assert not asked and (found.labels == labels[:4]).all() and asked == [4]
    assert (found.labels == labels[:4]).all() and asked == [4]
    copy = pickle.loads(pickle.dumps(open_images("train_val.prototxt").first(6)))
    assert (copy.labels == labels[:6]).all() and asked == [4, 6]


def test_large_sets_are_decoded_as_they_are_read(database, monkeypatch):
    images, labels = database
    monkeypatch.setattr(items_module, "_HELD_BYTES", 1000)
    found = open_images("db").images
    assert isinstance(found, Items) and found.shape == images.shape and found.size == images.size
    assert (found[3:7] == images[3:7]).all() and (found[-1] == images[-1]).all()
    assert (found[np.array([5, 1])] == images[[5, 1]]).all()
    assert found[4:4].shape == (0, 3, 16, 16)
    assert (found.first(4)[:] == images[:4]).all()
    copy = pickle.loads(pickle.dumps(found))
    assert isinstance(copy, np.ndarray) and (copy == images).all()
    plain = caffesurgery.Evaluator("db", mean="128", cache=None)
    lazy = plain(caffesurgery.load(D, W))
    monkeypatch.setattr(items_module, "_MOST_BYTES", 1000)
    with pytest.raises(DataError, match="10 images of 3 x 16 x 16 would take .*--samples"):
        np.asarray(found)
    held_ = caffesurgery.Evaluator("same.npz", mean="128", cache=None)(caffesurgery.load(D, W))
    assert lazy["loss"] == held_["loss"]
    assert isinstance(held(found), Items)


def test_folders_are_read_red_first_and_resized_as_caffe_does(tmp_path):
    pytest.importorskip("PIL", reason="needs caffesurgery[images]")
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the reference")
    image = np.random.default_rng(1).integers(0, 256, (3, 20, 30), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(encoded(image, "png"))
    found = open_images(tmp_path, resize=(7, 11)).images[0]
    expected = cv2.resize(np.ascontiguousarray(image.transpose(1, 2, 0)), (11, 7))
    assert (found[::-1] == expected.transpose(2, 0, 1)).all()
    (tmp_path / "b.png").write_bytes(encoded(image[:1], "png"))
    assert open_images(tmp_path).images.shape == (2, 3, 20, 30)
    (tmp_path / "a.png").unlink()
    assert (open_images(tmp_path).images == image[:1]).all()


def net_with(text, path):
    return parse_net(text, str(path / "net.prototxt"))


def test_labels_come_from_where_the_net_takes_them(tmp_path):
    h5py = pytest.importorskip("h5py", reason="needs caffesurgery[data]")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = np.zeros((5, 1, 2, 2), "f4")
        file["other"] = np.arange(5)
        file["label"] = np.arange(5) * 2
        file["half"] = np.arange(5) / 2
    (tmp_path / "list.txt").write_text("a.h5\n")
    layer = 'layer {{ name: "d" type: "HDF5Data" {} hdf5_data_param {{ source: "list.txt" '
    layer += "batch_size: 2 }} }}"
    tops = 'top: "data" top: "other" top: "label"'
    judge = ' layer { name: "a" type: "Accuracy" bottom: "data" bottom: "label" top: "acc" }'
    found = layer_images(net_with(layer.format(tops) + judge, tmp_path))
    assert found.labels.tolist() == [0, 2, 4, 6, 8] and found.images.shape == (5, 1, 2, 2)
    found = layer_images(net_with(layer.format(tops), tmp_path))
    assert found.labels.tolist() == [0, 1, 2, 3, 4]
    assert layer_images(net_with(layer.format('top: "data"'), tmp_path)).labels is None
    with pytest.raises(DataError, match="'half' has labels that are no whole numbers"):
        _ = layer_images(net_with(layer.format('top: "data" top: "half"'), tmp_path)).labels
    with pytest.raises(DataError, match="give the images none; expected one such blob"):
        layer_images(net_with(layer.format('top: "label"'), tmp_path))


def test_training_images_come_cut_at_the_centre(database):
    text = DATA.replace("TEST", "TRAIN").replace("scale: 0.015625", "crop_size: 8")
    Path("train.prototxt").write_text(text)
    found = open_images("train.prototxt", phase="TRAIN")
    expected = database[0][:, :, 4:12, 4:12].astype("f4") - 128
    assert (np.asarray(found.images) == expected).all()
    assert (found.labels == database[1]).all()


def test_cameras_frames_come_red_first_from_a_database_too(database):
    images, labels = database
    np.savez("red.npz", images=images[:, ::-1], labels=labels)
    how = ("--preprocess", "--camera", "rgb", "--mean", "128", "--fp16", "--force", "-o", "a.onnx")
    found = [
        succeed("export", D, W, *how, "--images", given, "--format", "json").json["variants"]
        for given in ("db", "red.npz")
    ]
    assert found[0] == found[1]
    refused = run("export", D, W, *how, "--images", "train_val.prototxt")
    assert "met float32 numbers; a camera's frames are uint8" in refused.err
