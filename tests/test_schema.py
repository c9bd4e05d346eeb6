"""The shipped schemas: equal to Caffe's published tables, and to what protoc makes of them."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from protos import descriptor_set

from caffesurgery.errors import ParseError
from caffesurgery.files.resources import resource
from caffesurgery.files.schema import SCALARS, load_schema, parse_schema


def _rows(shared):
    with open(shared("schema", "schema_facts.tsv"), newline="") as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    fields = [row for row in rows if row["kind"] != "enum_value"]
    return fields, [row for row in rows if row["kind"] == "enum_value"]


def _plain(field):
    """A FieldType's default as the table writes it."""
    if field.default is None:
        return ""
    if field.type == "bool":
        return str(field.default).lower()
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)


def test_every_field_of_caffe_is_there_and_no_other(shared):
    rows, _ = _rows(shared)
    ours = [
        (message, *map(str, (f.name, f.number, f.label, f.type, _plain(f), f.packed, f.deprecated)))
        for message, fields in load_schema().messages.items()
        for f in fields.values()
    ]
    columns = ("message", "field", "number", "label", "type", "default")
    theirs = [
        (*(row[c] for c in columns), str(row["packed"] == "true"), str(bool(row["deprecated"])))
        for row in rows
    ]
    assert sorted(ours) == sorted(theirs)
    assert (len(load_schema().messages), len(ours)) == (63, 423)


def test_every_enum_value_of_caffe_is_there_and_no_other(shared):
    _, rows = _rows(shared)
    ours = [
        (enum, name, str(number))
        for enum, values in load_schema().enums.items()
        for name, number in values.items()
    ]
    assert sorted(ours) == sorted((row["message"], row["field"], row["number"]) for row in rows)
    assert len(load_schema().enums) == 26


def _described(messages, prefix=""):
    for message in messages:
        yield prefix + message.name, message
        yield from _described(message.nested_type, f"{prefix}{message.name}.")


@pytest.mark.parametrize("name", ["caffe", "surgery"])
def test_protoc_reads_the_same_fields(name):
    (file,) = descriptor_set(name).file
    schema = load_schema(name)
    described = dict(_described(file.message_type))
    assert set(described) == set(schema.messages)
    for message, fields in schema.messages.items():
        assert [f.name for f in described[message].field] == list(fields), message
        for proto in described[message].field:
            _same_field(proto, fields[proto.name], f".{file.package}.")


def _same_field(proto, field, package):
    label = {1: "optional", 2: "required", 3: "repeated"}[proto.label]
    kind = {11: "message", 14: "enum"}.get(proto.type, "scalar")
    assert (field.number, field.label, field.kind) == (proto.number, label, kind), field
    if kind == "scalar":
        type_name = type(proto).Type.Name(proto.type)
        assert type_name == f"TYPE_{field.type.upper()}"
    else:
        assert proto.type_name == package + field.type
    assert (field.packed, field.deprecated) == (proto.options.packed, proto.options.deprecated)
    if not proto.HasField("default_value"):
        assert field.default is None
    elif field.type == "float":
        assert np.float32(field.default) == np.float32(proto.default_value)
    else:
        assert _plain(field) == proto.default_value


def test_protoc_reads_the_same_enums():
    (file,) = descriptor_set("caffe").file
    enums = {enum.name: enum for enum in file.enum_type}
    for message, proto in _described(file.message_type):
        enums.update({f"{message}.{enum.name}": enum for enum in proto.enum_type})
    values = {name: {v.name: v.number for v in enum.value} for name, enum in enums.items()}
    assert values == load_schema().enums


def test_a_field_of_its_own_type_has_a_typed_default():
    schema = parse_schema(
        """syntax = "proto2"; /* block
        comment */ package p;  // line comment
        message A { optional B.E e = 1 [default = TWO, deprecated = true];
          message B { enum E { ONE = 1; TWO = -2; } repeated int32 n = 0x10 [packed=true]; }
          optional B b = 3; required double d = 4 [default = -1e-3];
          optional string s = 5 [default = "a // b"]; optional bytes y = 6 [default = 'z'];
          optional bool t = 7 [default = true]; optional uint64 u = 8 [default = 0x7F];
          optional float f = 9; }
        """
    )
    a = schema.messages["A"]
    assert (a["e"].type, a["e"].kind, a["e"].default, a["e"].deprecated) == (
        "A.B.E",
        "enum",
        "TWO",
        True,
    )
    assert (a["b"].type, a["b"].kind) == ("A.B", "message")
    defaults = [a[name].default for name in "dsytuf"]
    assert defaults == [-1e-3, "a // b", b"z", True, 127, None]
    n = schema.messages["A.B"]["n"]
    assert (n.number, n.label, n.packed) == (16, "repeated", True)
    assert schema.enums == {"A.B.E": {"ONE": 1, "TWO": -2}}
    assert a["d"].type in SCALARS


@pytest.mark.parametrize(
    ("text", "line", "met"),
    [
        ("message A {\n optional int32 x = 1\n}", 3, "met '}'"),
        ("message A {\n\n optional C x = 1; }", 3, "met 'C'"),
        ("message A { optional int32 x = 1 [default = many]; }", 1, "met 'many'"),
        ("message A { optional int32 x = 1;", 1, "met 'end of file'"),
        ("message A { repeated int32 x = 1 [packed = 1]; }", 1, "met '1'"),
        ('syntax = "proto3";', 1, "met '\"proto3\"'"),
        ("\n@", 2, "met '@'"),
    ],
)
def test_a_mistake_in_a_schema_names_its_line(text, line, met):
    with pytest.raises(ParseError, match="a.proto") as error:
        parse_schema(text, "a.proto")
    assert error.value.line == line
    assert met in str(error.value)


def test_another_caffe_pb2_in_the_same_process_does_no_harm(tmp_path):
    """pycaffe registers the same message names in protobuf's default pool; ours stay out of it."""
    grpc_tools = pytest.importorskip("grpc_tools", reason="needs protoc (grpcio-tools)")
    folder = resource("proto")
    from grpc_tools import protoc

    included = Path(grpc_tools.__file__).parent / "_proto"
    arguments = [
        "protoc",
        f"-I{folder}",
        f"-I{included}",
        f"--python_out={tmp_path}",
        "caffe.proto",
    ]
    assert protoc.main(arguments) == 0
    code = (
        "import caffe_pb2, caffesurgery\n"
        "from caffesurgery.export import onnx\n"
        "from caffesurgery.net.net import parse_net\n"
        "net = caffe_pb2.NetParameter(); net.layer.add(name='a', type='ReLU')\n"
        "assert parse_net(str(net)).layers[0].type == 'ReLU'\n"
    )
    paths = os.pathsep.join((str(tmp_path), str(Path(__file__).resolve().parent.parent)))
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
