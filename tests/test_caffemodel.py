"""Caffemodels: read as protobuf and Caffe read them, written back bit for bit, never trusted."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from protos import message_class

from caffesurgery.errors import FileError, WeightsError
from caffesurgery.files import wire
from caffesurgery.files.caffemodel import NewLayer, read, read_mean, rewrite, write
from caffesurgery.files.dialects import DIALECTS, V0_TYPES, v1_type_names

FOLDERS = ("corpus/caffemodel", "data", "golden", "training")
BROKEN = {  # files of the corpus that no protobuf reads, and what is said of them
    "Ascend-Huawei+models/customop_model/caffe/concat.caffemodel": "7-bit text",
    "Ascend-Huawei+models@history/customop_model/caffe/concat.caffemodel": "transferred as text",
    "anson0910+CNN_face_detection_models/face_12_cal/face_12_cal_soft_quantize_3.caffemodel": (
        "the file is empty (0 bytes)"
    ),
}
rng = np.random.default_rng(7)


def saved(tmp_path: Path, content) -> Path:
    """A file of these bytes, or of this message."""
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


def rewritten(model, replacements) -> bytes:
    out = io.BytesIO()
    rewrite(model, replacements, out)
    return out.getvalue()


def written(*layers, **options) -> bytes:
    out = io.BytesIO()
    write(out, "net", layers, **options)
    return out.getvalue()


def net(**fields):
    return message_class("NetParameter")(**fields)


def v2(**fields):
    return net(layer=[{"name": "a", "type": "Scale", **fields}])


def assert_equal_to_protobuf(model, message):
    """``model`` holds what the protobuf library decoded into ``message``."""
    assert same_text(model.net_name, message.name)
    theirs = message.layers or message.layer
    ours = [layer for layer in model.layers if layer.dialect == model.dialect]
    assert len(ours) == len(theirs)
    for layer, other in zip(ours, theirs):
        inner = other.layer if layer.dialect == "V0" else other
        assert same_text(layer.name, inner.name)
        assert len(layer.blobs) == len(inner.blobs)
        for blob, proto in zip(layer.blobs, inner.blobs):
            assert_equal_blob(blob, proto)


def same_text(ours, theirs):
    """protobuf gives a string that is no UTF-8 as bytes."""
    theirs = theirs if isinstance(theirs, bytes) else theirs.encode()
    return ours.encode("utf-8", "surrogateescape") == theirs


def assert_equal_blob(blob, proto):
    legacy = [n for n in ("num", "channels", "height", "width") if proto.HasField(n)]
    dims = (proto.num, proto.channels, proto.height, proto.width)
    assert blob.legacy_dims == bool(legacy)
    assert blob.shape == (dims if legacy else tuple(proto.shape.dim))
    dtype = np.float64 if len(proto.double_data) else np.float32
    array = blob.array()
    assert (array.dtype, blob.dtype) == (dtype, dtype)
    assert array.shape == blob.shape
    values = np.array(proto.double_data or proto.data, dtype)
    assert array.tobytes() == values.tobytes()
    assert blob.has_diff == bool(proto.double_diff or proto.diff)
    assert not array.flags.writeable


# -- real files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_real_file_reads_as_protobuf_does_and_is_written_back_identical(folder, shared):
    root = shared(*folder.split("/"))
    paths = [
        p for p in sorted(root.rglob("*.caffemodel")) if str(p.relative_to(root)) not in BROKEN
    ]
    assert paths
    for path in paths:
        content = path.read_bytes()
        model = read(path)
        assert_equal_to_protobuf(model, message_class("NetParameter").FromString(content))
        assert rewritten(model, {}) == content, path


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_real_file_is_refused_with_a_reason(name, shared):
    with pytest.raises(WeightsError) as error:
        read(shared("corpus", "caffemodel", *name.split("/")))
    assert BROKEN[name] in str(error.value)
    assert str(error.value).startswith(str(shared("corpus")))


def test_real_files_have_the_published_counts(shared):
    rows = json.loads(shared("corpus", "caffemodels.json").read_text())
    rows = [row for row in rows if row.get("parse_ok") and row["size"]]
    for row in rows:
        model = read(shared("corpus", "caffemodel", row["rel"]))
        with_blobs = [layer for layer in model.layers if layer.blobs]
        found = (model.dialect, model.parameters(), len(model.layers), len(with_blobs))
        assert found == (
            row["format"],
            row["params"],
            row["n_layers"],
            row["n_layers_with_blobs"],
        ), row["rel"]
        for layer, published in zip(with_blobs, row["layers_with_blobs"]):
            assert (layer.name, layer.type) == (published["name"], published["type"])
            assert [list(blob.shape) for blob in layer.blobs] == published["shapes"]


def test_blobs_are_written_as_real_caffes_wrote_them(shared):
    """Bit for bit, in V2 and V1: what is read and given to the writer comes out as it was."""
    for path in (
        shared("data", "res56", "res56.caffemodel"),
        shared("corpus", "caffemodel", "vadim-v-lebedev+cp-decomposition/lenet/lenet.caffemodel"),
        *sorted(shared("golden").glob("act_*/net.caffemodel")),
    ):
        model, content = read(path), path.read_bytes()
        for layer in model.layers:
            blobs = [blob.array() for blob in layer.blobs]
            new = NewLayer(layer.name, layer.type, (), (), blobs)
            out = written(new, dialect=model.dialect)
            for blob in layer.blobs:
                assert content[blob.start : blob.end] in out, (path, layer.name)


def test_a_mean_image_is_read_as_protobuf_does(shared):
    path = shared("data", "cifar10_quick", "mean.binaryproto")
    proto = message_class("BlobProto").FromString(path.read_bytes())
    mean = read_mean(path)
    assert mean.shape == (1, 3, 32, 32)
    assert mean.ravel().tolist() == list(proto.data)


# -- what protobuf and Caffe allow -----------------------------------------------------------------


def floats(*values) -> bytes:
    return np.array(values, "<f4").tobytes()


def one_blob(*parts: bytes) -> bytes:
    """A V2 net with one layer 'a' and one blob of these bytes."""
    blob = wire.block(7, b"".join(parts))
    layer = wire.string(1, "a") + wire.string(2, "Scale") + blob
    return wire.block(100, layer)


def unpacked(*values) -> bytes:
    return b"".join(b"\x2d" + floats(value) for value in values)


def shape(*dims) -> bytes:
    return wire.block(7, wire.packed(1, dims))


@pytest.mark.parametrize(
    "parts",
    [
        [wire.block(5, floats(*range(6)))],
        [wire.block(5, floats(0, 1)), wire.block(5, b""), wire.block(5, floats(2, 3, 4, 5))],
        [wire.block(5, b""), wire.block(5, floats(*range(6)))],
        [unpacked(*range(6))],
        [unpacked(0, 1), wire.block(5, floats(2, 3)), unpacked(4), wire.block(5, floats(5))],
        [b"\xad\x80\x00" + floats(0), unpacked(*range(1, 6))],  # a tag longer than it need be
        [wire.integer(5, 9), unpacked(*range(6))],  # of another wire type: an unknown field
        [unpacked(0, 1), wire.integer(77, 1), unpacked(2, 3, 4, 5)],
    ],
    ids="packed chunks empty unpacked mixed longtag wiretype interrupted".split(),
)
def test_numbers_packed_unpacked_and_in_several_pieces(parts, tmp_path):
    content = one_blob(shape(2, 3), *parts)
    (blob,) = read(saved(tmp_path, content)).blobs("a")
    assert blob.array().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert_equal_blob(blob, net().FromString(content).layer[0].blobs[0])


def test_a_long_run_of_unpacked_numbers_ends_where_it_ends(tmp_path):
    values = rng.random(5000).astype(np.float32)
    for count in (8, 9, 4999, 5000):
        rest = wire.block(5, values[count:].tobytes())
        content = one_blob(unpacked(*values[:count]), rest, shape(5000))
        (blob,) = read(saved(tmp_path, content)).blobs("a")
        assert np.array_equal(blob.array(), values)


def test_numbers_in_one_packed_piece_are_a_view_on_the_file(tmp_path):
    model = read(saved(tmp_path, v2(blobs=[{"shape": {"dim": [4]}, "data": range(4)}])))
    first, again = model.blobs("a")[0].array(), model.blobs("a")[0].array()
    assert np.shares_memory(first, again)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"num": 1, "channels": 1, "height": 2, "width": 3}, (1, 1, 2, 3)),
        ({"num": 1, "channels": 1, "height": 2, "width": 3, "shape": {"dim": [6]}}, (1, 1, 2, 3)),
        ({"shape": {"dim": [2, 3]}}, (2, 3)),
        ({"shape": {"dim": [2, 3, 1, 1, 1, 1]}}, (2, 3, 1, 1, 1, 1)),
    ],
)
def test_legacy_dims_count_before_a_shape(fields, expected, tmp_path):
    (blob,) = read(saved(tmp_path, v2(blobs=[{"data": range(6), **fields}]))).blobs("a")
    assert blob.shape == blob.array().shape == expected
    assert blob.legacy_dims == ("num" in fields)


def test_a_blob_without_axes_is_one_number_and_a_zero_extent_is_none(tmp_path):
    empty = {"shape": {"dim": [3, 0, 2]}}
    legacy = {"num": 5}
    model = read(saved(tmp_path, v2(blobs=[{"data": [2.5]}, empty, legacy])))
    scalar, none, old = model.blobs("a")
    assert (scalar.shape, scalar.array().tolist()) == ((), 2.5)
    assert (none.shape, none.array().shape, none.count) == ((3, 0, 2), (3, 0, 2), 0)
    assert (old.shape, old.array().shape) == ((5, 0, 0, 0), (5, 0, 0, 0))


def test_a_shape_in_parts_is_joined_and_unpacked_dims_are_read(tmp_path):
    content = one_blob(
        wire.block(7, wire.integer(1, 2)), wire.block(5, floats(*range(6))), shape(3)
    )
    (blob,) = read(saved(tmp_path, content)).blobs("a")
    assert blob.shape == (2, 3)
    assert_equal_blob(blob, net().FromString(content).layer[0].blobs[0])


def test_double_data_counts_before_data_and_diffs_are_seen(tmp_path):
    dims = {"shape": {"dim": [2]}}
    both = {**dims, "data": [1, 2], "double_data": [0.1, 0.2], "double_diff": [0, 1]}
    message = v2(blobs=[both, {**dims, "data": [1, 2], "diff": [3, 4]}])
    model = read(saved(tmp_path, message))
    double, single = model.blobs("a")
    assert double.dtype == np.float64
    assert double.array().tolist() == [0.1, 0.2]
    assert (double.has_diff, single.has_diff) == (True, True)
    assert_equal_to_protobuf(model, message)


def half(dims, numbers, type_number=2) -> bytes:
    raw = np.array(numbers, "<f2").tobytes()
    return one_blob(shape(*dims), wire.integer(10, type_number), wire.block(12, raw))


def test_half_precision_of_nvidias_fork_is_read_as_float32(tmp_path):
    path = saved(tmp_path, half((2, 2), [1, 0.5, -2, 65504]))
    (blob,) = read(path).blobs("a")
    assert blob.readable
    assert blob.dtype == blob.array().dtype == np.float32
    assert blob.array().tolist() == [[1, 0.5], [-2, 65504]]
    assert rewritten(read(path), {}) == path.read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        half((4,), [1, 2, 3, 4], type_number=3),
        half((4,), [1, 2, 3]),
        one_blob(shape(4), wire.block(11, b"\0" * 8)),
    ],
    ids=["integers", "too_few", "another_fork"],
)
def test_numbers_in_a_forks_own_field_are_kept_and_refused_when_asked_for(content, tmp_path):
    path = saved(tmp_path, content)
    model = read(path)
    (blob,) = model.blobs("a")
    assert (blob.shape, blob.count, blob.readable) == ((4,), 4, False)
    with pytest.raises(WeightsError, match="layer 'a', blob 0.*a fork of Caffe") as error:
        blob.array()
    assert str(path) in str(error.value)
    assert rewritten(model, {}) == content


def test_unknown_fields_and_groups_are_carried_along(tmp_path):
    group = b"\xa3\x7f" + wire.integer(1, 5) + b"\x0b\x0c" + b"\xa4\x7f"  # group 2036, one inside
    unknown = wire.block(999, b"fork") + group + wire.integer(1000, -1)
    message = v2(blobs=[{"shape": {"dim": [1]}, "data": [3]}])
    (layer,) = message.layer
    content = unknown + wire.block(100, unknown + layer.SerializeToString()) + unknown
    model = read(saved(tmp_path, content))
    assert_equal_to_protobuf(model, net().FromString(content))
    assert rewritten(model, {}) == content
    assert rewritten(model, {"a": []}) == unknown + unknown


def blob_of(*values):
    return {"shape": {"dim": [len(values)]}, "data": values}


def test_of_several_layers_of_one_name_the_last_counts_as_in_caffe(tmp_path):
    layers = [{"name": n, "blobs": [blob_of(v)]} for n, v in (("a", 1), ("b", 2), ("a", 3))]
    model = read(saved(tmp_path, net(layer=layers)))
    assert model.names() == ["a", "b"]
    assert model.blobs("a")[0].array().tolist() == [3]
    assert len(model.layers) == 3
    assert model.parameters() == 2


def test_layers_without_blobs_are_there(tmp_path):
    model = read(saved(tmp_path, net(name="n", layer=[{"name": "relu", "type": "ReLU"}])))
    assert (model.net_name, model.dialect) == ("n", "V2")
    assert "relu" in model and "conv" not in model
    assert model.blobs("relu") == []
    with pytest.raises(WeightsError, match="no layer 'rely'; did you mean 'relu'"):
        model.blobs("rely")


def test_v1_layers_have_v2_type_names(tmp_path):
    layers = [
        {"name": f"l{number}", "type": number, "blobs": [blob_of(number)]}
        for number in v1_type_names()
    ]
    message = net(layers=layers)
    model = read(saved(tmp_path, message))
    assert model.dialect == "V1"
    assert_equal_to_protobuf(model, message)
    types = {layer.name: layer.type for layer in model.layers}
    assert (types["l4"], types["l14"], types["l21"]) == (
        "Convolution",
        "InnerProduct",
        "SoftmaxWithLoss",
    )
    assert list(types.values()) == list(v1_type_names().values())


def test_an_unknown_v1_type_number_leaves_the_one_before_as_in_protobuf(tmp_path):
    message = wire.string(4, "a") + wire.integer(5, 4)
    model = read(saved(tmp_path, wire.block(2, message + wire.integer(5, 555))))
    assert model.layer("a").type == "Convolution"


def test_v0_layers_inside_v1_are_found(tmp_path):
    layers = [
        {"bottom": ["data"], "layer": {"name": n, "type": t, "blobs": [blob_of(1, 2)]}}
        for n, t in (("c", "conv"), ("f", "innerproduct"), ("x", "a_fork_s"))
    ]
    message = net(layers=layers)
    model = read(saved(tmp_path, message))
    assert model.dialect == "V0"
    assert [layer.type for layer in model.layers] == ["Convolution", "InnerProduct", "a_fork_s"]
    assert_equal_to_protobuf(model, message)


def test_a_v0_layer_in_parts_is_merged(tmp_path):
    parts = [
        wire.string(1, "old") + wire.block(50, shape(1) + wire.block(5, floats(1))),
        wire.string(1, "new") + wire.block(50, shape(1) + wire.block(5, floats(2))),
    ]
    content = wire.block(2, b"".join(wire.block(1, part) for part in parts))
    model = read(saved(tmp_path, content))
    assert [blob.array().tolist() for blob in model.blobs("new")] == [[1], [2]]
    assert_equal_to_protobuf(model, net().FromString(content))


def test_layers_count_before_layer_in_a_file_with_both(tmp_path):
    message = v2(blobs=[blob_of(1)])
    message.layers.add(name="a", type=4).blobs.add(num=1, channels=1, height=1, width=1, data=[2])
    model = read(saved(tmp_path, message))
    assert (model.dialect, len(model.layers)) == ("V1", 2)
    assert model.blobs("a")[0].array().item() == 2


# -- writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["V2", "V1", "V0"])
def test_a_new_file_is_what_the_protobuf_library_would_write(dialect):
    weights, bias = rng.random((2, 3)).astype(np.float32), rng.random(2).astype(np.float32)
    out = written(
        NewLayer("ip", "InnerProduct", ["data"], ["ip", "x"], [weights, bias]),
        NewLayer("relu", "ReLU", ["ip"], ["ip"]),
        dialect=dialect,
    )
    layers = [
        {"name": "ip", "bottom": ["data"], "top": ["ip", "x"]},
        {"name": "relu", "bottom": ["ip"], "top": ["ip"]},
    ]
    if dialect == "V2":
        dims = {"shape": {"dim": [2, 3]}}, {"shape": {"dim": [2]}}
        types = "InnerProduct", "ReLU"
    else:
        ones = {"num": 1, "channels": 1}
        dims = {**ones, "height": 2, "width": 3}, {**ones, "height": 1, "width": 2}
        types = (14, 18) if dialect == "V1" else ("innerproduct", "relu")
    for layer, type_name in zip(layers, types):
        layer["type"] = type_name
    layers[0]["blobs"] = [
        {**dim, "data": array.ravel()} for dim, array in zip(dims, (weights, bias))
    ]
    if dialect == "V0":
        layers = [
            {**{k: entry.pop(k) for k in ("bottom", "top")}, "layer": entry} for entry in layers
        ]
    message = net(name="net", **{"layer" if dialect == "V2" else "layers": layers})
    assert net().FromString(out) == message
    assert out == message.SerializeToString()


def test_arrays_of_any_kind_are_written_as_float32(tmp_path):
    arrays = [
        np.arange(6.0).reshape(2, 3).T,
        np.arange(4, dtype=np.int64)[::2],
        np.float64(7.25),
        np.zeros((0, 5), np.float32),
        np.ones((1, 2, 1, 2, 1), np.float16),
    ]
    for dialect in ("V2", "V1"):
        layer = NewLayer("a", "Convolution", (), (), arrays)
        model = read(saved(tmp_path, written(layer, dialect=dialect)))
        for blob, array in zip(model.blobs("a"), arrays):
            got = blob.array()
            assert got.dtype == np.float32
            assert np.array_equal(got.reshape(array.shape), array)
            if dialect == "V1":
                assert len(blob.shape) == max(4, array.ndim)


def test_blobs_are_made_when_their_layer_is_written(tmp_path):
    out, made = io.BytesIO(), []

    def blobs(name):
        def make():
            made.append((name, out.tell()))
            return [np.ones(3, np.float32)]

        return make

    write(out, "n", (NewLayer(n, "Scale", (), (), blobs(n)) for n in "abc"))
    assert [name for name, _ in made] == list("abc")
    assert made[0][1] < made[1][1] < made[2][1]


def v1_net():
    blobs = [{"num": 1, "channels": 1, "height": 1, "width": 2, "data": [1, 2], "diff": [0, 0]}]
    return net(name="v1", layers=[{"name": n, "type": 14, "blobs": blobs} for n in "abc"])


def v0_net():
    blobs = [{"num": 1, "channels": 1, "height": 1, "width": 2, "data": [1, 2]}]
    inner = [{"name": n, "type": "innerproduct", "blobs": blobs} for n in "abc"]
    return net(name="v0", layers=[{"bottom": ["x"], "layer": entry} for entry in inner])


def v2_net():
    return net(
        name="v2", layer=[{"name": n, "type": "Scale", "blobs": [blob_of(1)]} for n in "abc"]
    )


@pytest.mark.parametrize("make", [v2_net, v1_net, v0_net])
def test_a_replaced_layer_is_in_the_files_dialect_and_all_else_untouched(make, tmp_path):
    message = make()
    content = message.SerializeToString()
    model = read(saved(tmp_path, content))
    new = [
        NewLayer("b_vt", "InnerProduct", ["x"], ["b_vt"], [np.ones((2, 3), np.float32)]),
        NewLayer("b_ud", "InnerProduct", ["b_vt"], ["b"], lambda: [np.ones((4, 2))]),
    ]
    out = rewritten(model, {"b": new, "c": []})
    again = read(saved(tmp_path, out))
    assert (again.names(), again.dialect) == (["a", "b_vt", "b_ud"], model.dialect)
    start, end = model.layer("b").start, model.layer("b").end
    assert out[:start] == content[:start]
    assert end == model.layer("c").start
    assert_equal_to_protobuf(again, net().FromString(out))
    assert again.blobs("b_ud")[0].shape[-2:] == (4, 2)
    assert again.blobs("b_ud")[0].legacy_dims == (model.dialect != "V2")
    assert again.layer("b_vt").type == "InnerProduct"


def test_a_v2_file_with_legacy_dims_gets_new_layers_with_legacy_dims(tmp_path):
    old = {"num": 1, "channels": 1, "height": 1, "width": 1, "data": [1]}
    model = read(saved(tmp_path, net(layer=[{"name": n, "blobs": [old]} for n in "ab"])))
    out = rewritten(model, {"b": [NewLayer("b", "Scale", (), (), [np.ones(2)])]})
    assert read(saved(tmp_path, out)).blobs("b")[0].legacy_dims


def test_replacing_a_layer_that_is_there_twice_leaves_one(tmp_path):
    layers = [{"name": n, "blobs": [blob_of(v)]} for n, v in (("a", 1), ("b", 2), ("a", 3))]
    model = read(saved(tmp_path, net(layer=layers)))
    out = rewritten(model, {"a": [NewLayer("a", "Scale", (), (), [np.ones(5)])]})
    again = read(saved(tmp_path, out))
    assert [layer.name for layer in again.layers] == ["b", "a"]
    assert again.blobs("a")[0].shape == (5,)


def test_a_layer_that_the_file_has_not_cannot_be_replaced(tmp_path):
    model = read(saved(tmp_path, v2_net()))
    target = tmp_path / "out.caffemodel"
    with pytest.raises(WeightsError, match="no layer 'conv9' to replace"):
        rewrite(model, {"conv9": []}, target)
    assert not target.exists()


@pytest.mark.parametrize("dialect", ["V1", "V0"])
def test_a_type_that_an_old_dialect_has_not_is_refused(dialect):
    with pytest.raises(WeightsError, match=f"'bn'.*{dialect}.*'BatchNorm'.*upgrade_net_proto"):
        written(NewLayer("bn", "BatchNorm", (), ()), dialect=dialect)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "net.caffemodel"

    def stopped():
        yield NewLayer("a", "Scale", (), (), [np.ones(10)])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(target, "n", stopped())
    assert list(tmp_path.rglob("*.caffemodel*")) == []
    write(target, "n", [NewLayer("a", "Scale", (), (), [np.ones(10)])])
    before = target.read_bytes()
    with pytest.raises(FileError, match="--force"):
        write(target, "n", [])
    assert target.read_bytes() == before
    rewrite(read(target), {"a": []}, target, force=True)  # over the very file that is mapped
    assert read(target).names() == []


def test_progress_ends_at_the_size_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("caffesurgery.files.caffemodel_write._PIECE", 100)
    seen = []
    source = saved(tmp_path, written(NewLayer("a", "Scale", (), (), [np.ones(300)])))
    target = tmp_path / "out.caffemodel"
    rewrite(
        read(source), {"a": [NewLayer("a", "Scale", (), (), [np.ones(200)])]}, target, seen.append
    )
    assert seen == sorted(seen)
    assert len(seen) > 8
    assert seen[-1] == target.stat().st_size


def test_a_stream_that_takes_part_of_what_it_is_given_gets_everything(tmp_path):
    class Slow(io.RawIOBase):
        taken = b""

        def write(self, piece):
            self.taken += bytes(piece[:7])
            return min(len(piece), 7)

    source = saved(tmp_path, v1_net())
    slow = Slow()
    rewrite(read(source), {}, slow)
    assert slow.taken == source.read_bytes()


def test_a_file_longer_than_caffe_reads_is_refused(monkeypatch):
    monkeypatch.setattr("caffesurgery.files.caffemodel_write.MAX_BYTES", 1000)
    with pytest.raises(WeightsError, match="longer than 1000 bytes"):
        written(NewLayer("a", "Scale", (), (), [np.ones(300)]))


# -- files that are something else, or broken ------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n", "git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "an HTML or XML page"),
        (b'name: "LeNet"\nlayer { name: "a" type: "ReLU" }\n', "given in the wrong order"),
        (b"\x89HDF\r\n\x1a\n" + bytes(500), "an HDF5 file"),
        (b"PK\x03\x04" + bytes(500), "a zip archive"),
        (b"\x1f\x8b\x08" + bytes(500), "compressed with gzip"),
        (b"\x93NUMPY\x01\x00" + bytes(500), "a NumPy file"),
        (b"\x80\x02\x8a\x0al\xfc\x9c\x46" + bytes(500), "a Python pickle"),
    ],
)
def test_a_file_of_another_kind_is_named(content, said, tmp_path):
    path = saved(tmp_path, content)
    for reader in (read, read_mean):
        with pytest.raises(WeightsError) as error:
            reader(path)
        assert str(error.value).startswith(f"{path}: ")
        assert said in str(error.value)


def test_a_transfer_that_broke_a_file_is_named(tmp_path):
    weights = np.frombuffer(rng.bytes(40_000), "<f4")
    whole = written(NewLayer("a", "Scale", ["x"], ["y"], [weights]))
    stripped = bytes(byte & 0x7F for byte in whole)
    for content, said in (
        (whole[:-1], "needs 1 bytes more than there are; the file is truncated or damaged"),
        (whole.replace(b"\n", b"\r\n"), "it was transferred as text"),
        (stripped, "no byte has its high bit set"),
        (bytes(500), "it begins with zeros"),
    ):
        with pytest.raises(WeightsError, match=said):
            read(saved(tmp_path, content))


def test_other_messages_of_caffe_are_named(tmp_path):
    state = message_class("SolverState")(iter=7, learned_net="x.caffemodel", history=[blob_of(1)])
    with pytest.raises(WeightsError, match="a solver's state"):
        read(saved(tmp_path, state))
    mean = message_class("BlobProto")(num=1, channels=1, height=1, width=1, data=[1])
    with pytest.raises(WeightsError, match="a single blob"):
        read(saved(tmp_path, mean))
    with pytest.raises(WeightsError, match="expected a single blob"):
        read_mean(saved(tmp_path, v2_net()))


def test_a_missing_file_and_a_folder_are_said_so(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        read(tmp_path / "none.caffemodel")
    with pytest.raises(FileError, match="this is a folder"):
        read(tmp_path)


GROUPS = b"\x0b" * 200 + b"\x0c" * 200
HOSTILE = {
    "length beyond the end": (wire.header(100, 1 << 40) + b"abc", "bytes more than there are"),
    "length inside a layer": (wire.block(100, wire.header(7, 50) + b"x"), "more than there are"),
    "negative extent": (one_blob(shape(-1, 4)), "layer 'a', blob 0 .*shape -1 x 4"),
    "negative legacy dim": (one_blob(wire.integer(1, -5)), "shape -5 x 0 x 0 x 0"),
    "2^63 elements": (one_blob(shape(2**21, 2**21, 2**21)), "at most 2147483647 elements"),
    "2^62 extent": (one_blob(shape(2**62, 0)), "at most 2147483647 elements"),
    "too few numbers": (one_blob(shape(2, 3), unpacked(1, 2)), "2 numbers.* 2 x 3 needs 6"),
    "too many numbers": (one_blob(shape(1), unpacked(1, 2)), "2 numbers.* shape 1 needs 1"),
    "no numbers": (one_blob(shape(2, 3)), "0 numbers.* needs 6"),
    "numbers without shape": (one_blob(unpacked(1, 2)), r"shape \(\) needs 1"),
    "diff does not fit": (
        one_blob(shape(1), unpacked(1), wire.block(6, floats(1, 2))),
        "2 gradients",
    ),
    "half a float": (one_blob(shape(1), wire.block(5, b"abcdef")), "6 bytes .*of 4 bytes each"),
    "33 axes": (one_blob(shape(*[1] * 33), unpacked(1)), "more than the 32 axes"),
    "deep groups": (wire.block(100, GROUPS), "groups nested more than 100 deep"),
    "open group": (wire.block(100, b"\x0b"), "group 1 never ends"),
    "crossed groups": (wire.block(100, b"\x0b\x13\x0c\x14"), "the end of group 1 inside another"),
    "stray end of a group": (b"\x0c", "never began"),
    "overlong number": (b"\x0a" + b"\xff" * 11, "more than 10 bytes"),
    "number cut short": (wire.block(100, b"\x08\xff"), "a number runs over the end"),
    "wire type 7": (wire.block(100, b"\x0f"), "wire type 7"),
    "field number 0": (wire.block(100, b"\x02\x00"), "field number 0"),
    "field number 2^29": (wire.block(100, wire.encoded(1 << 32)), "field number 536870912"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_ends_in_one_error(case, tmp_path):
    content, said = HOSTILE[case]
    with pytest.raises(WeightsError, match=said) as error:
        read(saved(tmp_path, content))
    assert "byte " in str(error.value)
    assert "\n" not in str(error.value)


def traced_peak(function) -> int:
    """Bytes of memory that a call takes at its worst."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


EMPTY_LAYER, EMPTY_BLOB = wire.block(2, b""), wire.block(6, wire.integer(1, 0))


@pytest.mark.parametrize(
    "content",
    [
        EMPTY_LAYER * 30_000,
        wire.block(100, wire.string(1, "")) * 30_000,
        wire.block(2, EMPTY_BLOB) * 30_000,
        wire.block(2, EMPTY_BLOB * 30_000),
    ],
    ids=["empty layers", "names", "blobs", "blobs of one layer"],
)
def test_a_huge_number_of_layers_is_refused_in_bounded_memory(content, tmp_path, monkeypatch):
    monkeypatch.setattr("caffesurgery.files.caffemodel.MAX_GATHERED", 3000)
    path = saved(tmp_path, content)

    def refused():
        with pytest.raises(WeightsError, match="no net has so many"):
            read(path)

    assert traced_peak(refused) < 3e6


def test_huge_numbers_of_unknown_fields_and_of_pieces_take_no_memory(tmp_path):
    pieces = one_blob(shape(10_000), wire.block(5, floats(1)) * 10_000)
    path = saved(tmp_path, wire.integer(999, 1) * 10_000 + pieces)
    assert traced_peak(lambda: read(path).blobs("a")[0].array()) < 300_000


def test_reading_never_loads_the_protobuf_library():
    code = (
        "import sys, caffesurgery.files.caffemodel, caffesurgery.files.schema as s; s.load_schema()"
        "; assert not any(name.startswith('google') for name in sys.modules)"
    )
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


# -- random files ----------------------------------------------------------------------------------

names = st.text(max_size=6)
finite = st.floats(width=32, allow_nan=False)


@st.composite
def blobs(draw):
    dims = draw(st.lists(st.integers(0, 3), max_size=4))
    count = int(np.prod(dims))
    blob = {}
    if len(dims) == 4 and draw(st.booleans()):
        blob = dict(zip(("num", "channels", "height", "width"), dims))
    elif dims or draw(st.booleans()):
        blob["shape"] = {"dim": dims}
    data = st.lists(finite, min_size=count, max_size=count)
    blob[draw(st.sampled_from(["data", "double_data"]))] = draw(data)
    if draw(st.booleans()):
        blob[draw(st.sampled_from(["diff", "double_diff"]))] = draw(data)
    return blob


@st.composite
def nets(draw):
    def layer(type_name):
        return {
            "name": draw(names),
            "type": type_name,
            "blobs": draw(st.lists(blobs(), max_size=3)),
        }

    dialect = draw(st.sampled_from(list(DIALECTS)))
    message = net(name=draw(names), input=draw(st.lists(names, max_size=2)))
    for _ in range(draw(st.integers(0, 3))):
        if dialect == "V2":
            entry = message.layer.add(**layer(draw(names)))
            entry.convolution_param.num_output = draw(st.integers(0, 9))
        elif dialect == "V1":
            message.layers.add(top=["t"], **layer(draw(st.sampled_from(list(v1_type_names())))))
        else:
            message.layers.add(layer=layer(draw(st.sampled_from(list(V0_TYPES)))))
    return message


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("random")


fuzzed = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@fuzzed
@given(nets())
def test_random_nets_read_as_protobuf_reads_them(scratch, message):
    content = message.SerializeToString()
    if not content:
        return
    model = read(saved(scratch, content))
    assert_equal_to_protobuf(model, message)
    assert rewritten(model, {}) == content


@fuzzed
@given(nets(), st.data())
def test_a_damaged_net_reads_as_protobuf_does_or_ends_in_one_error(scratch, message, data):
    content = bytearray(message.SerializeToString())
    if not content:
        return
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    content = bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        model = read(saved(scratch, content))
        arrays = [blob.array() for layer in model.layers for blob in layer.blobs]
    except WeightsError:
        return
    assert sum(array.size for array in arrays) <= len(content)
    assert rewritten(model, {}) == content
    try:
        decoded = net().FromString(content)
    except Exception:  # protobuf also looks into messages that are only carried along here
        return
    if {layer.dialect for layer in model.layers} <= {model.dialect}:
        assert_equal_to_protobuf(model, decoded)
