"""Data layers against real Caffe and OpenCV: LMDB, image files, fillers, and transform_param."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from databases import datum, encoded, write_lmdb

from caffesurgery.data.datum import DatumReader, label_of
from caffesurgery.data.decode import decode
from caffesurgery.data.layers import open_feed
from caffesurgery.data.resize import resize
from caffesurgery.errors import DataError, NetError
from caffesurgery.files import wire
from caffesurgery.net.net import parse_net

CAFFE = Path(__file__).parent / "data" / "caffe_data.npz"


def open_text(text, phase="TEST", **how):
    return open_feed(parse_net(text, "net.prototxt").phase(phase)[0], phase, **how)


def data_layer(batch=4, transform="", source="db", more="backend: LMDB", top="data label"):
    tops = " ".join(f'top: "{name}"' for name in top.split())
    return (
        f'layer {{ name: "d" type: "Data" {tops} data_param {{ source: "{source}" '
        f"batch_size: {batch} {more} }} transform_param {{ {transform} }} }}"
    )


def image_data(batch=2, more="", transform=""):
    return (
        'layer { name: "d" type: "ImageData" top: "data" top: "label" image_data_param { '
        f'source: "list.txt" batch_size: {batch} {more} }} transform_param {{ {transform} }} }}'
    )


def random_images(count=6, shape=(3, 8, 10)):
    return np.random.default_rng(3).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_mean(path, mean):
    dims = b"".join(wire.integer(i, dim) for i, dim in enumerate((1, *mean.shape), 1))
    Path(path).write_bytes(dims + wire.block(5, mean.astype("<f4").tobytes()))


@pytest.fixture(name="here", autouse=True)
def _here(tmp_path, monkeypatch):
    pytest.importorskip("lmdb", reason="needs caffesurgery[data]")
    pytest.importorskip("PIL", reason="needs caffesurgery[data]")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(name="database")
def _database(here):
    """Six raw images with the labels 10 to 15."""
    images = random_images()
    write_lmdb(here / "db", [datum(image, 10 + i) for i, image in enumerate(images)])
    return images


def test_lmdb_gives_what_real_caffe_gives_bit_for_bit(here):
    caffe = np.load(CAFFE)
    records = [datum(*item) for item in zip(caffe["images"], caffe["labels"].tolist())]
    write_lmdb(here / "raw", records, caffe["keys"].tolist())
    write_lmdb(here / "flt", [datum(image, i) for i, image in enumerate(caffe["floats"])])
    write_mean("mean.binaryproto", caffe["mean"])
    for index, text in enumerate(caffe["texts"].tolist()):
        feed = open_text(text)
        found = feed.read(0)
        for top in ("data", "label"):
            expected = caffe[f"{top}{index}"]
            assert found[top].shape == feed.shapes[top]
            assert (found[top] == expected.reshape(found[top].shape)).all(), (text, top)


def test_old_dialects_keep_their_transformation_in_data_param(database):
    text = (
        'layers { name: "d" type: DATA top: "data" top: "label" data_param { source: "db" '
        "backend: LMDB batch_size: 2 scale: 0.5 crop_size: 4 } }"
    )
    expected = database[:2, :, 2:6, 3:7] * np.float32(0.5)
    assert (open_text(text).read(0)["data"] == expected).all()


def test_training_crops_and_mirrors_by_seed_and_item(database):
    mean = np.random.default_rng(0).random((3, 8, 10)).astype("f4")
    write_mean("mean.binaryproto", mean)
    transform = 'mirror: true crop_size: 5 mean_file: "mean.binaryproto"'
    feed = open_text(data_layer(60, transform), "TRAIN")
    found = feed.read(0, seed=1)["data"]
    whole = database.astype("f4") - mean
    met = set()
    for index, image in enumerate(found):
        made = {
            (top, left, turned): whole[index % 6, :, top : top + 5, left : left + 5][:, :, ::turned]
            for top in range(4)
            for left in range(6)
            for turned in (1, -1)
        }
        (which,) = [key for key, value in made.items() if (value == image).all()]
        met.add(which)
    assert {top for top, _, _ in met} == set(range(4))
    assert {left for _, left, _ in met} == set(range(6))
    assert {turned for _, _, turned in met} == {1, -1}
    again = open_text(data_layer(20, transform), "TRAIN")
    assert (again.read(1, seed=1)["data"] == found[20:40]).all()
    assert (again.read(1, seed=1, rank=1, of=3)["data"] == found[21:40:3]).all()
    assert (feed.read(0, seed=2)["data"] != found).any()


def test_mirroring_in_the_test_phase_is_random_too_as_in_caffe(database):
    found = open_text(data_layer(60, "mirror: true")).read(0)["data"]
    turned = [(image == database[i % 6][:, :, ::-1]).all() for i, image in enumerate(found)]
    plain = [(image == database[i % 6]).all() for i, image in enumerate(found)]
    assert all(np.logical_xor(turned, plain)) and 15 < sum(turned) < 45


def test_encoded_records_are_decoded_as_opencv_does(here):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the reference")
    images = random_images(4, (3, 16, 24))
    records = [datum(image, i, "jpeg") for i, image in enumerate(images[:2])]
    write_lmdb(here / "db", records + [datum(image, 2, "png") for image in images[2:]])
    files = [encoded(image, kind) for image, kind in zip(images, ["jpeg"] * 2 + ["png"] * 2)]
    for transform, flag in (("", -1), ("force_color: true", 1), ("force_gray: true", 0)):
        found = open_text(data_layer(4, transform)).read(0)["data"]
        for image, file in zip(found, files):
            expected = cv2.imdecode(np.frombuffer(file, np.uint8), flag)
            expected = expected.reshape(16, 24, -1).transpose(2, 0, 1)
            bound = 1 if flag == 0 else 0  # OpenCV's versions differ in grey of colour PNG
            assert np.abs(image - expected).max() <= bound
    assert found.shape == (4, 1, 16, 24)


def test_a_batch_of_one_may_change_its_size_and_larger_ones_may_not(here):
    images = [np.full((1, 4, 4 + i), i, np.uint8) for i in range(3)]
    write_lmdb(here / "db", [datum(image, 0) for image in images])
    batches = open_text(data_layer(1)).batches()
    assert [next(batches)["data"].shape for _ in range(3)] == [
        (1, 1, 4, 4), (1, 1, 4, 5), (1, 1, 4, 6),
    ]  # fmt: skip
    assert open_text(data_layer(3, "crop_size: 4")).read(0)["data"].shape == (3, 1, 4, 4)
    with pytest.raises(DataError, match="record 00000001: is 1 x 4 x 5, and .*: give a crop_size"):
        open_text(data_layer(3)).read(0)
    grey = [datum(random_images(1, (channels, 8, 8))[0], 0, "png") for channels in (3, 1)]
    write_lmdb(here / "grey", grey)
    with pytest.raises(DataError, match="00000001: is 1 x 8 x 8, and .*: say force_color: true"):
        open_text(data_layer(2, source="grey")).read(0)


def test_a_database_of_many_records_is_read_from_any_place(here):
    shape = (1, 1, 1)
    write_lmdb(here / "db", [datum(np.zeros(shape, np.uint8), i) for i in range(1000)])
    feed = open_text(data_layer(7))
    for number in (0, 36, 37, 142, 143, 5000):
        expected = np.arange(number * 7, number * 7 + 7) % 1000
        assert (feed.read(number)["label"] == expected).all()
    assert (feed.read(100, rank=1, of=3)["label"] == [701, 704]).all()


REFUSED = (
    ('source: "gone"', r"\(layer 'd'\): source \"gone\" is not there \(tried .*gone\); put"),
    ('source: ""', "names no source"),
    ('source: "level"', "source level is a LevelDB.*--backend=lmdb"),
    ('source: "db"', "met no backend, which means LEVELDB.*db is an LMDB: say backend: LMDB"),
    ('source: "db" backend: LEVELDB', "met backend: LEVELDB, which is not read here"),
    ('source: "empty" backend: LMDB', "empty: holds no record"),
    ('source: "folder" backend: LMDB', "folder: is no LMDB"),
    ('source: "broken" backend: LMDB', "broken: cannot be read as LMDB"),
    ('source: "half" backend: LMDB', r"half: data.mdb is cut off: \d+ bytes of \d+; copy it again"),
    ('source: "words" backend: LMDB', "record 00000000: is no Datum"),
    ('source: "short" backend: LMDB', "holds 5 numbers and says 3 x 8 x 10"),
    ('source: "jpeg" backend: LMDB', "record 00000000: cannot be read as an image"),
    *(
        (f'source: "db" backend: LMDB }} transform_param {{ {transform}', message)
        for transform, message in (
            ("crop_size: 9", "cuts out 9 x 9; expected larger images, or a smaller crop_size"),
            ("mean_value: [1, 2]", "has 3 channels, and .* 2 mean values"),
            ('mean_file: "m"', r'\(layer \'d\'\): mean_file "m" is not there'),
            ('mean_file: "s.binaryproto"', "the mean of .* is 3 x 4 x 4; expected a mean_file as"),
            ('mean_file: "m" mean_value: 1', "has both mean_file and mean_value"),
            ("force_color: 1 force_gray: 1", "has both force_color and force_gray"),
        )
    ),
)


@pytest.mark.parametrize("params, message", REFUSED, ids=[params for params, _ in REFUSED])
def test_databases_that_cannot_be_read_are_refused(database, here, params, message):
    write_lmdb(here / "empty", [])
    write_lmdb(here / "half", [datum(database[0], 1)] * 999)
    os.truncate(here / "half" / "data.mdb", 40960)
    write_lmdb(here / "words", [b"not a datum at all"])
    write_lmdb(here / "short", [datum(database[0], 1).replace(database[0].tobytes(), b"12345")])
    write_lmdb(here / "jpeg", [wire.block(4, b"no jpeg") + wire.integer(7, 1)])
    (here / "folder").mkdir()
    (here / "level").mkdir()
    (here / "level" / "CURRENT").write_text("MANIFEST-000001\n")
    (here / "broken").mkdir()
    (here / "broken" / "data.mdb").write_bytes(b"x" * 9000)
    write_mean("s.binaryproto", np.zeros((3, 4, 4), "f4"))
    text = (
        'layer { name: "d" type: "Data" top: "data" top: "label" '
        f"data_param {{ batch_size: 2 {params} }} }}"
    )
    if "short" in params:  # the length of the bytes goes with them
        fields = b"".join(wire.integer(i, d) for i, d in enumerate((3, 8, 10), 1))
        write_lmdb(here / "cut", [fields + wire.block(4, b"12345")])
        text = text.replace("short", "cut")
    with pytest.raises(DataError, match=message):
        open_text(text)


@pytest.mark.parametrize(
    "size", [(256, 256), (20, 31), (15, 70), (12, 15), (60, 75), (29, 1), (37, 50)]
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_are_resized_bit_for_bit_as_opencv_does(size, channels):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the reference")
    image = random_images(1, (24, 30, channels))[0] if size != (37, 50) else None
    image = random_images(1, (37, 50, channels))[0] if image is None else image
    expected = cv2.resize(image, size[::-1]).reshape(*size, channels)
    assert (resize(image, *size) == expected).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_opencv_does(here, orientation):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the reference")
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(random_images(1, (9, 7, 3))[0]).save(stream, "jpeg", exif=exif)
    for flag, colour in ((1, True), (0, False), (-1, None)):
        expected = cv2.imdecode(np.frombuffer(stream.getvalue(), np.uint8), flag)
        found = decode(stream.getvalue(), colour, "it")
        assert (found == expected.reshape(found.shape)).all()


def write_images(here, count=5, size=(6, 8)):
    """Files 0.png to 4.png in ``set`` and their list, as blue-first arrays."""
    (here / "set").mkdir()
    images = random_images(count, (3, *size))
    for number, image in enumerate(images):
        (here / "set" / f"{number}.png").write_bytes(encoded(image, "png"))
    lines = [f"set/{number}.png {number * 11}" for number in range(count)]
    (here / "list.txt").write_text("\n".join(lines) + "\n")
    return images


def test_image_files_come_in_the_order_of_their_list(here):
    images = write_images(here)
    feed = open_text(image_data(3, transform="scale: 0.5 crop_size: 4"))
    assert feed.size == 5 and feed.shapes["data"] == (3, 3, 4, 4)
    found = feed.read(1)
    assert found["label"].tolist() == [33, 44, 0]
    assert (found["data"] == images[[3, 4, 0], :, 1:5, 2:6] * np.float32(0.5)).all()


def test_image_files_are_found_beside_the_list_and_under_their_root(here):
    images = write_images(here)
    feed = open_feed(parse_net(image_data(), "other/net.prototxt").phase("TEST")[0], "TEST")
    assert (feed.read(0)["data"] == images[:2]).all()
    (here / "list.txt").write_text("0.png 1\n")
    assert (open_text(image_data(1, 'root_folder: "set/"')).read(0)["data"] == images[:1]).all()
    with pytest.raises(DataError, match=r"first image of its list \(list.txt:1\) is not there"):
        open_text(image_data())


def test_image_files_are_resized_and_made_grey_as_caffe_does(here):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the reference")
    images = write_images(here)
    found = open_text(image_data(5, "new_height: 9 new_width: 5")).read(0)["data"]
    grey = open_text(image_data(5, "new_height: 9 new_width: 5 is_color: false")).read(0)["data"]
    assert grey.shape == (5, 1, 9, 5)
    for index, image in enumerate(images):
        expected = cv2.resize(np.ascontiguousarray(image.transpose(1, 2, 0)), (5, 9))
        assert (found[index] == expected.transpose(2, 0, 1)).all()
        flat = cv2.cvtColor(np.ascontiguousarray(image.transpose(1, 2, 0)), cv2.COLOR_BGR2GRAY)
        assert np.abs(grey[index, 0] - cv2.resize(flat, (5, 9))).max() <= 1


def test_shuffled_and_skipped_image_files(here):
    write_images(here)
    feed = open_text(image_data(5, "shuffle: true"), "TRAIN")
    rounds = [tuple(feed.read(number, seed=3)["label"].tolist()) for number in range(6)]
    assert all(sorted(found) == [0, 11, 22, 33, 44] for found in rounds) and len(set(rounds)) > 3
    skipped = open_text(image_data(1, "rand_skip: 5"))
    assert {skipped.read(0, seed=seed)["label"][0] for seed in range(40)} == {0, 11, 22, 33, 44}
    with pytest.raises(DataError, match="rand_skip 6 with 5 images"):
        open_text(image_data(1, "rand_skip: 6"))


def test_lists_and_images_that_are_wrong_are_named(here):
    write_images(here)
    feed = open_text(image_data(5))
    (here / "set" / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="set/3.png: cannot be read as an image"):
        feed.read(0)
    (here / "list.txt").write_text("set/0.png 1\nset/1.png one\n")
    with pytest.raises(DataError, match="list.txt:2: met 'set/1.png one'"):
        open_text(image_data())
    (here / "list.txt").unlink()
    with pytest.raises(DataError, match=r"net.prototxt:1 \(layer 'd'\): source \"list.txt\" is"):
        open_text(image_data())


def dummy(fillers, shape="dim: 4 dim: 3 dim: 5 dim: 5", tops=("a",)):
    names = " ".join(f'top: "{top}"' for top in tops)
    return (
        f'layer {{ name: "d" type: "DummyData" {names} dummy_data_param {{ '
        f"shape {{ {shape} }} {fillers} }} }}"
    )


def test_every_filler_has_the_distribution_of_caffe():
    def made(filler, shape="dim: 40 dim: 30 dim: 5 dim: 5"):
        return open_text(dummy(f"data_filler {{ {filler} }}", shape)).read(0, seed=2)["a"]

    assert (made('type: "constant" value: 2.5') == 2.5).all()
    uniform = made('type: "uniform" min: -2 max: 4')
    assert -2 <= uniform.min() < -1.9 and 3.9 < uniform.max() <= 4
    gaussian = made('type: "gaussian" mean: 1 std: 3')
    assert abs(gaussian.mean() - 1) < 0.06 and abs(gaussian.std() - 3) < 0.06
    sparse = made('type: "gaussian" sparse: 10')
    assert abs((sparse != 0).mean() - 10 / 40) < 0.01
    ball = made('type: "positive_unitball"')
    assert ball.min() >= 0 and np.allclose(ball.reshape(40, -1).sum(axis=1), 1)
    fans = {"FAN_IN": 750, "FAN_OUT": 1000, "AVERAGE": 875}
    for norm, fan in fans.items():
        bound = made(f'type: "xavier" variance_norm: {norm}').max()
        assert 0.99 * np.sqrt(3 / fan) < bound <= np.sqrt(3 / fan)
        spread = made(f'type: "msra" variance_norm: {norm}').std()
        assert abs(spread / np.sqrt(2 / fan) - 1) < 0.02
    row = [0.25, 0.75, 0.75, 0.25]
    kernel = made('type: "bilinear"', "dim: 1 dim: 1 dim: 4 dim: 4")[0, 0]
    assert np.allclose(kernel, np.outer(row, row))


def test_dummy_data_is_drawn_anew_for_every_batch_and_shared_out():
    text = dummy('data_filler { type: "gaussian" } data_filler { value: 7 }', tops=("a", "b"))
    feed = open_text(text)
    assert feed.size is None and feed.batch == 4 and feed.shapes["b"] == (4, 3, 5, 5)
    first, second = feed.read(0, seed=1), feed.read(1, seed=1)
    assert (first["a"] != second["a"]).all() and (first["b"] == 7).all()
    assert (feed.read(1, seed=1, rank=1, of=2)["a"] == second["a"][1::2]).all()
    assert (feed.read(1, seed=2)["a"] != second["a"]).all()


def test_fillers_that_cannot_be_are_refused():
    for filler, message in (
        ('type: "gausian"', "unknown filler 'gausian'; did you mean 'gaussian'"),
        ('type: "xavier" sparse: 3', "sparse is for gaussian fillers, and this is xavier"),
        ('type: "bilinear"', "bilinear filler is for a blob N x C x K x K, and this one is 2 x 3"),
    ):
        with pytest.raises(NetError, match=message):
            open_text(dummy(f"data_filler {{ {filler} }}", "dim: 2 dim: 3"))
    with pytest.raises(DataError, match=r"'a' has the shape \(2, 0\)"):
        open_text(dummy("", "dim: 2 dim: 0"))


def test_window_data_is_refused_by_name():
    text = (
        'layer { name: "w" type: "WindowData" top: "data" top: "label" '
        'window_data_param { source: "windows.txt" batch_size: 2 } }'
    )
    with pytest.raises(DataError, match=r"\(layer 'w'\): WindowData is not read here; give data"):
        open_text(text)


def test_databases_and_folders_in_place_of_a_layer(here, database):
    images = write_images(here)
    for number in range(5):
        (here / "classes" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        file = here / "set" / f"{number}.png"
        (here / "classes" / "ab"[number % 2] / file.name).write_bytes(file.read_bytes())
    text = data_layer(5, "crop_size: 4", source="gone", more="")
    found = open_text(text, override="classes").read(0)
    assert found["label"].tolist() == [0, 0, 0, 1, 1]
    assert (found["data"] == images[[0, 2, 4, 1, 3], :, 1:5, 2:6]).all()
    assert open_text(text, override="db").read(0)["label"].tolist() == [10, 11, 12, 13, 14]
    with pytest.raises(DataError, match="set: its images have no classes for 'label'"):
        open_text(text, override="set")
    for path, message in (
        ("nothing", "nothing: no such file or folder"),
        ("list.txt", "cannot ta"),
    ):
        with pytest.raises(DataError, match=message):
            open_text(text, override=path)


def test_a_net_may_take_images_without_labels(database):
    feed = open_text(data_layer(2, top="data"))
    assert set(feed.read(0)) == {"data"} == set(feed.shapes)


def test_records_that_begin_alike_are_read_like_any_other():
    images = random_images(3)
    alike = [datum(image, label) for image, label in zip(images, (7, -3, 2**31 - 1))]
    odd = [
        alike[0] + wire.integer(1, 1),  # channels said once more, behind the data
        alike[0] + b"\x35\0\0\x80\x3f",  # a float as well
        datum(images[0], 300, "png"),
        datum(random_images(1, (3, 8, 11))[0], 4),
        alike[1],
    ]
    reader = DatumReader()
    for record in [*alike, *odd, alike[0]]:
        found, alone = reader(record), DatumReader()(record)
        assert (found.shape, found.data, found.label, found.encoded) == (
            alone.shape, alone.data, alone.label, alone.encoded,
        )  # fmt: skip
        assert (found.floats is None) == (alone.floats is None)
        assert label_of(memoryview(record)) == alone.label
    assert [reader(record).label for record in alike] == [7, -3, 2**31 - 1]
    for broken in (alike[0][:-1], alike[0][:50], alike[0] + b"\x0d"):
        with pytest.raises(DataError, match="is no Datum"):
            reader(broken)
        with pytest.raises(DataError, match="is no Datum"):
            label_of(broken)
