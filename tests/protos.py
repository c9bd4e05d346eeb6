"""The shipped schemas through the protobuf library, in a descriptor pool of the tests' own."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pytest

from caffesurgery.files.resources import resource


@functools.cache
def descriptor_set(name: str = "caffe"):
    """What protoc makes of ``proto/<name>.proto``; skips the test where protoc is not there."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools brings protoc")
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from grpc_tools import protoc

    source = resource("proto", f"{name}.proto")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "set.bin")
        argv = ["protoc", f"-I{source.parent}", f"--descriptor_set_out={out}", source.name]
        assert protoc.main(argv) == 0
        return FileDescriptorSet.FromString(out.read_bytes())


@functools.cache
def message_class(full_name: str):
    """A message class of caffe.proto ("NetParameter") for the protobuf library."""
    files = descriptor_set("caffe")
    from google.protobuf import descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{full_name}"))
