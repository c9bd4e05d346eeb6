"""What an ONNX file holds, as far as others need it: its nodes, and how they hang together."""

from __future__ import annotations

import os
from dataclasses import dataclass

import onnx

from ..errors import FileError


@dataclass(frozen=True)
class ReadNode:
    """A node of an ONNX file.

    ``before`` and ``after`` are the names of the nodes that it reads from and that read from it;
    ``open`` says that a shape of what it reads is not fixed.
    """

    name: str
    op: str
    before: frozenset[str]
    after: tuple[str, ...]
    open: bool


def read_graph(path: str | os.PathLike) -> tuple[ReadNode, ...]:
    """The nodes of the ONNX file at ``path``; nameless ones get a number.

    Raises FileError for a file that is no ONNX model.
    """
    graph = _load(path).graph
    names = [node.name or str(index) for index, node in enumerate(graph.node)]
    maker = {out: name for node, name in zip(graph.node, names) for out in node.output}
    fixed = {tensor.name for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shape = value.type.tensor_type
        if shape.HasField("shape") and all(dim.HasField("dim_value") for dim in shape.shape.dim):
            fixed.add(value.name)
    after: dict[str, list[str]] = {name: [] for name in names}
    before = {}
    for node, name in zip(graph.node, names):
        before[name] = frozenset(maker[read] for read in node.input if read in maker)
        for other in before[name]:
            after[other].append(name)
    return tuple(
        ReadNode(
            name,
            node.op_type,
            before[name],
            tuple(after[name]),
            any(read and read not in fixed for read in node.input),
        )
        for node, name in zip(graph.node, names)
    )


def _load(path: str | os.PathLike) -> onnx.ModelProto:
    """The model with the shapes that onnx infers."""
    try:
        with open(path, "rb") as stream:
            model = onnx.load(stream, load_external_data=False)
        if not model.graph.node:
            raise ValueError("it has no nodes")
        return onnx.shape_inference.infer_shapes(model)
    except FileNotFoundError:
        raise FileError(f"{path}: no such file; expected an ONNX model") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # protobuf's errors depend on its version
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileError(f"{path}: not an ONNX model ({first})") from error
