"""Writes a Caffe net and its weights as an ONNX model that computes what Caffe's TEST phase does.

Data layers become inputs, loss and accuracy layers are left out (so a train_val net ends in its
logits), and the first axis of inputs and outputs is symbolic wherever the net allows it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import ExportError
from ..files.atomic import refuse_existing, writing
from ..net.shapes import infer
from ..net.weights import unused_weights
from .assemble import assemble, model_of, outputs_of, sift
from .batch import fixed_dims, open_sizes, symbolic_dims
from .graph import Dims
from .model import LARGEST, NEWEST_OPSET, Model
from .provenance import provenance
from .simplify import simplify

OLDEST_OPSET = 11
"""Since opset 11 Pad, Clip and TopK take their numbers as inputs."""

Progress = Callable[[float], None]
"""Called with the share that is done, 0 to 1."""

Change = Callable[[Model], Model]
"""What is done to a whole model before it is written."""


@dataclass(frozen=True)
class Export:
    """A net as an ONNX model in memory, and what was decided on the way."""

    model: Model
    dynamic: bool
    fixed_because: str
    left_out: tuple[str, ...]
    unused: tuple[str, ...]
    outputs: Mapping[str, str]
    """Output blob -> the tensor that carries it (the same name but for a changed input)."""
    custom: tuple[str, ...] = ()
    """Layer types that were written as operators of a domain of their own."""


@dataclass(frozen=True)
class ExportReport:
    """What was written: shapes have ``"batch"`` for the symbolic axis.

    ``data`` is the file beside it with the weights ("": they are in ``path``), ``custom`` the layer
    types that became operators of a domain of their own; ``left_out`` names the layers that
    inference does not need (losses, accuracies and what hangs on them), ``unused`` the layers of
    the caffemodel that the net has not, and ``fixed_because`` says why the batch is not symbolic
    ("" when it is).
    """

    path: str
    data: str
    opset: int
    inputs: tuple[tuple[str, Dims], ...]
    outputs: tuple[tuple[str, Dims], ...]
    nodes: int
    custom: tuple[str, ...]
    parameters: int
    bytes: int
    dynamic_batch: bool
    fixed_because: str
    left_out: tuple[str, ...]
    unused: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """What an export may decide.

    ``inputs`` gives shapes that the net's text does not (data layers, tops of unknown types) or
    that replace it; ``batch`` fixes the first axis, which is symbolic by default; ``dynamic_size``
    leaves height and width open too; ``keep_blobs`` makes blobs in between outputs; ``fold`` moves
    BatchNorm and Scale into the layers before them; ``domain`` takes the layers that ONNX cannot
    hold, which are refused without it.
    """

    opset: int = 13
    inputs: Mapping[str, Sequence[int]] | None = None
    batch: int | None = None
    dynamic_size: bool = False
    keep_blobs: Sequence[str] = ()
    fold: bool = True
    domain: str = ""

    def __post_init__(self):
        if not OLDEST_OPSET <= self.opset <= NEWEST_OPSET:
            raise ExportError(f"opset {self.opset}: expected {OLDEST_OPSET} to {NEWEST_OPSET}")
        if self.domain in ("ai.onnx", "ai.onnx.ml") or not self.domain.isascii():
            raise ExportError(
                f"domain {self.domain!r} cannot hold operators of your own; choose a name like "
                "com.example"
            )


def export_onnx(
    net,
    weights,
    path: str | os.PathLike,
    *,
    changes: Sequence[Change] = (),
    one_file_up_to: int = LARGEST,
    force: bool = False,
    progress: Progress | None = None,
    **options,
) -> ExportReport:
    """Write ``net`` with ``weights`` to ``path`` as ONNX, whole or not at all.

    ``options`` are the fields of :class:`Options`; ``changes`` are made to the model, one after the
    other, before it is checked and written (half precision, preprocessing, labels).  A model of
    more than ``one_file_up_to`` bytes keeps its weights in ``path`` + ".data".

    Raises ExportError for a layer that ONNX or this exporter does not know (by name, type and
    line) and for an unknown blob, WeightsError for weights that do not fit, FileError where
    ``path`` exists and ``force`` is not given.
    """
    refuse_existing([path], force)
    made = build(net, weights, **options)
    model = made.model
    parameters = sum(a.size for a in model.initializers.values() if a.dtype.kind == "f")
    model = replace(model, metadata={**model.metadata, **provenance(net, weights)})
    for change in changes:
        model = change(model)
    model.check()

    def written(done: int, total: int) -> None:
        if weights is not None:
            weights.release(0, weights.size)
        if progress:
            progress(done / total)

    size, data = _write(model, os.fspath(path), one_file_up_to, force, written)
    return ExportReport(
        path=os.fspath(path),
        data=data,
        opset=model.opset,
        inputs=tuple((value.name, value.dims) for value in model.inputs),
        outputs=tuple((value.name, value.dims) for value in model.outputs),
        nodes=len(model.nodes),
        custom=made.custom,
        parameters=parameters,
        bytes=size,
        dynamic_batch=made.dynamic,
        fixed_because=made.fixed_because,
        left_out=made.left_out,
        unused=made.unused,
    )


def _write(model: Model, path: str, most: int, force: bool, progress) -> tuple[int, str]:
    """(Bytes in all, name of the file with the weights or "")."""
    if model.size() <= most:
        with writing(path, force) as stream:
            return model.write(stream, progress), ""
    data = f"{os.path.basename(path)}.data"
    with writing(path, force) as stream, writing(f"{path}.data", force) as weights:
        model.write_apart(stream, weights, data, progress)
        return stream.tell() + weights.tell(), data


def build(net, weights, **options) -> Export:
    """The ONNX model of ``net`` in memory, its weights still views; see :class:`Options`."""
    choice = Options(**options)
    shapes = infer(net, "TEST", inputs=choice.inputs, batch=choice.batch)
    if choice.batch is None:
        dims, reason = symbolic_dims(shapes, choice.inputs)
    else:
        dims, reason = fixed_dims(shapes), f"batch {choice.batch} was asked for"
    if choice.dynamic_size:
        dims = open_sizes(shapes, choice.inputs, choice.batch, dims)
    kept, left_out = sift(shapes)
    graph = assemble(shapes, kept, dims, weights, choice.opset, choice.domain)
    tops = outputs_of(shapes, kept, graph, choice.keep_blobs)
    simplify(graph, [graph.tensors[blob] for blob in tops], choice.fold)
    outputs = graph.finish(tops)
    return Export(
        model=model_of(net, graph, outputs, {"source": "caffe"}),
        dynamic=not reason,
        fixed_because=reason,
        left_out=left_out,
        unused=unused_weights(shapes, weights),
        outputs=outputs,
        custom=tuple(sorted({node.op for node in graph.nodes if node.domain})),
    )
