"""Feeds: batches as Caffe gives them, from any number on, in slices, and ahead of time."""

from __future__ import annotations

import numpy as np
import pytest

from caffesurgery.data import feed as feed_module
from caffesurgery.data.arrays import ArraySource
from caffesurgery.data.feed import Feed, Feeds
from caffesurgery.data.layers import open_feed, open_feeds
from caffesurgery.errors import DataError
from caffesurgery.net.net import parse_net, read_net


def feed_of(text, folder, phase="TRAIN", override=None):
    net = parse_net(text, str(folder / "net.prototxt"))
    return open_feed(net.phase(phase)[0], phase, override=override)


def first(feed, count, **how):
    batches = feed.batches(**how)
    found = [next(batches) for _ in range(count)]
    batches.close()
    return found


def write_hdf5(path, start, count):
    h5py = pytest.importorskip("h5py", reason="needs caffesurgery[data]")
    items = np.arange(start, start + count)
    with h5py.File(path, "w") as file:
        file["data"] = np.broadcast_to(items[:, None, None], (count, 2, 3)).astype("f4")
        file["label"] = items.astype("i8")


HDF5 = (
    'layer {{ name: "d" type: "HDF5Data" top: "data" top: "label" '
    'hdf5_data_param {{ source: "list.txt" batch_size: {batch} {more} }} }}'
)


@pytest.fixture(name="hdf5")
def _hdf5(tmp_path):
    """Two files with the items 0 to 6 and 7 to 10."""
    write_hdf5(tmp_path / "a.h5", 0, 7)
    write_hdf5(tmp_path / "b.h5", 7, 4)
    (tmp_path / "list.txt").write_text("a.h5\nb.h5\n")
    return tmp_path


def test_hdf5_rows_come_in_order_and_begin_again(hdf5):
    feed = feed_of(HDF5.format(batch=4, more=""), hdf5)
    assert feed.size == 11
    assert feed.shapes == {"data": (4, 2, 3), "label": (4,)}
    found = first(feed, 4)
    assert [batch["label"].tolist() for batch in found] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 0], [1, 2, 3, 4],
    ]  # fmt: skip
    assert all((batch["data"] == batch["label"][:, None, None]).all() for batch in found)
    assert found[0]["data"].dtype == found[0]["label"].dtype == np.float32


def test_shuffled_hdf5_rows_stay_together_and_differ_by_round_and_seed(hdf5):
    feed = feed_of(HDF5.format(batch=11, more="shuffle: true"), hdf5)
    rounds = [batch["label"].astype(int).tolist() for batch in first(feed, 6)]
    assert all(sorted(found) == list(range(11)) for found in rounds)
    assert len(set(map(tuple, rounds))) == 6
    files = {tuple(item > 6 for item in found) for found in rounds}
    assert files == {(False,) * 7 + (True,) * 4, (True,) * 4 + (False,) * 7}
    other = first(feed, 1, seed=1)[0]
    assert other["label"].tolist() != rounds[0]
    assert (other["data"] == other["label"][:, None, None]).all()


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_a_run_goes_on_from_any_batch_with_any_number_of_threads(hdf5, threads):
    feed = feed_of(HDF5.format(batch=4, more="shuffle: true"), hdf5)
    whole = first(feed, 9, seed=5, threads=0)
    rest = first(feed, 4, start=5, seed=5, threads=threads)
    for one, other in zip(whole[5:], rest):
        assert all((one[top] == other[top]).all() for top in feed.tops)


def test_processes_share_every_batch(hdf5):
    feed = feed_of(HDF5.format(batch=5, more="shuffle: true"), hdf5)
    whole = first(feed, 4, start=2)
    parts = [first(feed, 4, start=2, rank=rank, of=2) for rank in range(2)]
    for batch, *slices in zip(whole, *parts):
        for rank, part in enumerate(slices):
            assert part["label"].tolist() == batch["label"][rank::2].tolist()
    with pytest.raises(DataError, match="a batch of 5 cannot be shared by 6 processes"):
        next(feed.batches(rank=0, of=6))
    with pytest.raises(DataError, match="process 2 of 2; expected 0 to 1"):
        next(feed.batches(rank=2, of=2))


def test_hdf5_that_is_not_there_or_does_not_fit(hdf5):
    text = HDF5.format(batch=4, more="")
    (hdf5 / "list.txt").write_text("a.h5 c.h5")
    with pytest.raises(DataError, match=r'list.txt: file "c.h5" is not there \(tried .*c.h5'):
        feed_of(text, hdf5)
    (hdf5 / "list.txt").write_text("list.txt")
    with pytest.raises(DataError, match="list.txt: cannot be read as HDF5"):
        feed_of(text, hdf5)
    with pytest.raises(DataError, match=r'net.prototxt:1 \(layer \'d\'\): source "list2.txt" is'):
        feed_of(text.replace("list.txt", "list2.txt"), hdf5)
    (hdf5 / "list.txt").write_text("a.h5")
    with pytest.raises(DataError, match="a.h5: has no data set 'other'.*it has data, label"):
        feed_of(text.replace('top: "label"', 'top: "other"'), hdf5)
    with pytest.raises(DataError, match="states no batch size"):
        feed_of(text.replace("batch_size: 4", ""), hdf5)


def test_feeds_of_real_training_nets(shared):
    folder = shared("training", "sgd_fixed")
    h5py = pytest.importorskip("h5py", reason="needs caffesurgery[data]")
    feeds = open_feeds(read_net(folder / "train.prototxt"), "TRAIN", folder.parent)
    assert feeds.shapes == {"data": (20, 3, 16, 16), "label": (20,)}
    with h5py.File(folder.parent / "data.h5") as file:
        rows = np.arange(25 * 20, 26 * 20) % 400
        assert (feeds.read(25)["data"] == file["data"][()][rows]).all()


def test_arrays_in_place_of_a_layer(tmp_path):
    items = np.arange(5)
    images = np.broadcast_to(items[:, None, None, None], (5, 1, 2, 2)).astype(np.uint8)
    np.savez(tmp_path / "given.npz", data=images, label=items)
    np.savez(tmp_path / "other.npz", images=images, labels=items)
    text = (
        'layer { name: "d" type: "MemoryData" top: "data" top: "label" '
        "transform_param { scale: 0.5 mean_value: 1 } "
        "memory_data_param { batch_size: 3 channels: 1 height: 2 width: 2 } }"
    )
    for name in ("given.npz", "other.npz"):
        found = first(feed_of(text, tmp_path, override=tmp_path / name), 2)
        assert [batch["label"].tolist() for batch in found] == [[0, 1, 2], [3, 4, 0]]
        expected = (np.array([3, 4, 0]) - 1) * 0.5
        assert (found[1]["data"] == expected[:, None, None, None]).all()
    with pytest.raises(DataError, match="items of .1, 2, 2. for 'data', and .* takes .1, 3, 2."):
        feed_of(text.replace("height: 2", "height: 3"), tmp_path, override=tmp_path / "given.npz")
    with pytest.raises(DataError, match="MemoryData has no data of its own.*keys data, label"):
        feed_of(text, tmp_path)


def test_an_input_layer_takes_plain_numbers(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(12, dtype=np.float64).reshape(6, 2))
    text = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 4 dim: 2 } } }'
    feed = feed_of(text, tmp_path, override=tmp_path / "x.npy")
    assert first(feed, 2)[1]["x"].tolist() == [[8, 9], [10, 11], [0, 1], [2, 3]]


def test_data_for_a_layer_that_is_none(tmp_path):
    net = parse_net('layer { name: "r" type: "ReLU" bottom: "a" top: "b" }')
    with pytest.raises(DataError, match="data are given for 'q', which is no data layer"):
        open_feeds(net, "TRAIN", overrides={"q": tmp_path / "x.npy"})


def test_an_error_in_a_thread_comes_out_in_its_turn(hdf5):
    feed = feed_of(HDF5.format(batch=2, more=""), hdf5)
    batches = feed.batches(threads=1)
    assert next(batches)["label"].tolist() == [0, 1]
    (hdf5 / "b.h5").unlink()  # the items 6 and 7 are not made yet
    assert [next(batches)["label"].tolist() for _ in range(2)] == [[2, 3], [4, 5]]
    with pytest.raises(DataError, match="b.h5: cannot be read as HDF5"):
        next(batches)


def test_small_items_are_made_by_one_thread_and_processes_share_the_processors(monkeypatch):
    asked = []
    monkeypatch.setattr(feed_module, "default_threads", lambda: 6)
    monkeypatch.setattr(feed_module, "in_order", lambda make, start, threads: asked.append(threads))
    for shape, of in (((3, 32, 32), 1), ((3, 64, 64), 1), ((3, 64, 64), 2), ((3, 64, 64), 16)):
        feed = Feed(("data",), ArraySource((np.zeros((40, *shape), "f4"),), "it"), 20)
        feed.batches(of=of)
        Feeds((feed, feed)).batches(of=of)
    assert asked == [1, 1, 6, 6, 3, 3, 1, 1]
    monkeypatch.undo()
    assert next(Feeds(()).batches()) == {}
