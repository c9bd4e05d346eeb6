"""An ONNX model on its way to a file: checked without its large weights, then streamed.

The nodes go through the onnx library; the initializers are appended to the serialized graph on the
wire, each straight from its NumPy view, so that a model never exists in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

from .. import __version__
from ..errors import ExportError
from ..files.wire import header
from .graph import Body, Dims, Node

Progress = Callable[[int, int], None]
"""Called with (bytes of weights written, bytes in all)."""

NEWEST_OPSET = min(26, onnx.defs.onnx_opset_version())
"""The newest opset that the layers have been tried with and the onnx library knows."""

LARGEST = 2**31 - 1
"""Bytes that a protobuf message, and so an ONNX file without external data, may have."""

_IR_VERSION = 8
_INLINE = 1 << 12
"""Initializers up to this many bytes, shapes and axes among them, count as part of the graph."""
_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
}
_CHUNK = 1 << 24
_ALIGNMENT = 64
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9


@dataclass(frozen=True)
class Value:
    """A tensor of ``kind``; ``dims`` has a str for a symbolic axis and None for an open one."""

    name: str
    dims: Dims
    kind: str = "float32"


@dataclass(frozen=True)
class Model:
    """A whole ONNX model; ``values`` are the shapes of tensors in between."""

    name: str
    opset: int
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    values: tuple[Value, ...]
    nodes: tuple[Node, ...]
    initializers: Mapping[str, np.ndarray]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all initializers as they are written."""
        return sum(array.nbytes for array in self.initializers.values())

    def check(self) -> None:
        """Run onnx's checker with full shape inference, large initializers standing as inputs.

        Raises ExportError when it finds fault, which a shape that contradicts Caffe's is.
        """
        model = self._weightless()
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ExportError(
                f"{self.name}: onnx's checker refuses the model: {error}. "
                "This is a fault of the exporter; please report it with the prototxt"
            ) from error

    def kinds(self) -> dict[str, str]:
        """Tensor name -> its NumPy type, as onnx infers them ("float32", "int64", "bool" ...)."""
        model = self._weightless()
        graph = onnx.shape_inference.infer_shapes(model).graph
        found = {tensor.name: tensor.data_type for tensor in graph.initializer}
        for value in (*graph.input, *graph.value_info, *graph.output):
            found[value.name] = value.type.tensor_type.elem_type
        return {
            name: helper.tensor_dtype_to_np_dtype(kind).name
            for name, kind in found.items()
            if kind not in (TensorProto.UNDEFINED, TensorProto.STRING)
        }

    def size(self) -> int:
        """Bytes of the model as one file."""
        front, _, length = self._frame()
        return len(front) + length

    def _frame(self) -> tuple[bytes, dict[str, bytes], int]:
        """All up to the initializers, the header of each, and the bytes of them together."""
        graph = self._graph().SerializeToString()
        headers = {name: _header(name, array) for name, array in self.initializers.items()}
        length = sum(
            _framed(_GRAPH_INITIALIZER, len(headers[name]) + array.nbytes)
            for name, array in self.initializers.items()
        )
        head = self._head().SerializeToString() + header(_MODEL_GRAPH, len(graph) + length)
        return head + graph, headers, length

    def write(self, stream: BinaryIO, progress: Progress | None = None) -> int:
        """Write the ModelProto with everything in it; returns its size in bytes."""
        front, headers, length = self._frame()
        whole = len(front) + length
        if whole > LARGEST:
            raise ExportError(
                f"{self.name}: the model has {whole:,} bytes, and an ONNX file of one "
                f"piece at most {LARGEST:,}; write its weights to a file of their own"
            )
        stream.write(front)
        done, total = 0, max(1, self.weight_bytes)
        for name, array in self.initializers.items():
            size = len(headers[name]) + array.nbytes
            stream.write(header(_GRAPH_INITIALIZER, size) + headers[name])
            for chunk in _chunks(array):
                done += stream.write(chunk)
                if progress:
                    progress(done, total)
        return whole

    def write_apart(
        self, stream: BinaryIO, data: BinaryIO, location: str, progress: Progress | None = None
    ) -> None:
        """Write the ModelProto to ``stream``, but its large initializers to ``data``.

        ``data`` becomes the file ``location`` beside the model; ONNX Runtime maps it.
        """
        model, large = self._skeleton()
        offset, total = 0, max(1, self.weight_bytes)
        for name, array in large.items():
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(_tensor(name, array))
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": location, "offset": offset, "length": array.nbytes}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            for chunk in _chunks(array):
                offset += data.write(chunk)
                if progress:
                    progress(offset, total)
            offset += data.write(bytes(-offset % _ALIGNMENT))
        stream.write(model.SerializeToString())

    def _skeleton(self) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        """The model with its small initializers, and the large ones."""
        model = self._head()
        model.graph.CopyFrom(self._graph())
        large = {}
        for name, array in self.initializers.items():
            if array.nbytes > _INLINE:
                large[name] = array
            else:
                tensor = model.graph.initializer.add()
                tensor.CopyFrom(_tensor(name, array))
                tensor.raw_data = b"".join(_chunks(array))
        return model, large

    def _weightless(self) -> onnx.ModelProto:
        """The model with its large initializers standing as inputs."""
        model, large = self._skeleton()
        for name, array in large.items():
            kind = _TYPES[array.dtype.name]
            model.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
        return model

    def _head(self) -> onnx.ModelProto:
        opset = helper.make_opsetid("", self.opset)
        domains = sorted({node.domain for node in self.nodes if node.domain})
        model = onnx.ModelProto(
            ir_version=max(_IR_VERSION, helper.find_min_ir_version_for([opset])),
            producer_name="caffesurgery",
            producer_version=__version__,
            opset_import=[opset, *(helper.make_opsetid(domain, 1) for domain in domains)],
        )
        helper.set_model_props(model, dict(self.metadata))
        return model

    def _graph(self) -> onnx.GraphProto:
        return helper.make_graph(
            [node_proto(node) for node in self.nodes],
            self.name,
            [_info(value) for value in self.inputs],
            [_info(value) for value in self.outputs],
            value_info=[_info(value) for value in self.values],
        )


def _info(value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, _TYPES[value.kind], list(value.dims))


def node_proto(node: Node) -> onnx.NodeProto:
    """The node as onnx has it."""
    made = helper.make_node(node.op, node.inputs, node.outputs, name=node.name)
    made.attribute.extend(
        helper.make_attribute(key, _body(value) if isinstance(value, Body) else value)
        for key, value in sorted(node.attrs.items())
    )
    if node.domain:
        made.domain = node.domain
    return made


def _body(body: Body) -> onnx.GraphProto:
    inputs = [_info(Value(*pair)) for pair in body.inputs]
    outputs = [_info(Value(*pair)) for pair in body.outputs]
    return helper.make_graph([node_proto(node) for node in body.nodes], body.name, inputs, outputs)


def _tensor(name: str, array: np.ndarray) -> TensorProto:
    """The TensorProto of an initializer without its data."""
    return TensorProto(name=name, data_type=_TYPES[array.dtype.name], dims=array.shape)


def _header(name: str, array: np.ndarray) -> bytes:
    """The TensorProto of an initializer up to its data, which has to follow."""
    return _tensor(name, array).SerializeToString() + header(_TENSOR_RAW_DATA, array.nbytes)


def _chunks(array: np.ndarray) -> Iterator[memoryview | bytes]:
    """The bytes of an array in little-endian C order, a few megabytes at a time."""
    little = array.dtype.newbyteorder("<")
    if not array.flags.c_contiguous or array.dtype != little:
        array = np.ascontiguousarray(array, dtype=little)
    flat = array.reshape(-1).view(np.uint8)
    for start in range(0, flat.size, _CHUNK):
        yield flat[start : start + _CHUNK].data


def _framed(number: int, size: int) -> int:
    """Bytes of a field of ``size`` bytes, tag and length included."""
    return len(header(number, size)) + size
