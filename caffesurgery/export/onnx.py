"""Writes a Caffe net and its weights as an ONNX model that computes what Caffe's TEST phase does.

Data layers become inputs, loss and accuracy layers are left out (so a train_val net ends in its
logits), and the first axis of inputs and outputs is symbolic wherever the net allows it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import ExportError, suggest
from ..files.atomic import refuse_existing, writing
from ..net.layers import lookup
from ..net.shapes import NetShapes, infer
from ..net.weights import match_weights, unused_weights
from .batch import fixed_dims, is_input, symbolic_dims
from .graph import Dims, Graph, LayerGraph, reads
from .model import NEWEST_OPSET, Model, Value
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


@dataclass(frozen=True)
class ExportReport:
    """What was written: shapes have ``"batch"`` for the symbolic axis.

    ``left_out`` names the layers that inference does not need (losses, accuracies and what hangs
    on them), ``unused`` the layers of the caffemodel that the net has not, and ``fixed_because``
    says why the batch is not symbolic ("" when it is).
    """

    path: str
    opset: int
    inputs: tuple[tuple[str, Dims], ...]
    outputs: tuple[tuple[str, Dims], ...]
    nodes: int
    parameters: int
    bytes: int
    dynamic_batch: bool
    fixed_because: str
    left_out: tuple[str, ...]
    unused: tuple[str, ...]


def export_onnx(
    net,
    weights,
    path: str | os.PathLike,
    *,
    opset: int = 13,
    inputs: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    keep_blobs: Sequence[str] = (),
    fold: bool = True,
    changes: Sequence[Change] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write ``net`` with ``weights`` to ``path`` as one ONNX file, whole or not at all.

    ``inputs`` gives shapes that the net's text does not (data layers) or that replace it;
    ``batch`` fixes the first axis, which is symbolic by default; ``keep_blobs`` makes blobs in
    between outputs too.  ``fold`` moves BatchNorm and Scale into the layers before them;
    ``changes`` are made to the model, one after the other, before it is checked and written (half
    precision, preprocessing, labels).

    Raises ExportError for a layer that ONNX or this exporter does not know (by name, type and
    line) and for an unknown blob, WeightsError for weights that do not fit, FileError where
    ``path`` exists and ``force`` is not given.
    """
    refuse_existing([path], force)
    made = build(
        net, weights, opset=opset, inputs=inputs, batch=batch, keep_blobs=keep_blobs, fold=fold
    )
    model = made.model
    parameters = sum(a.size for a in model.initializers.values() if a.dtype.kind == "f")
    for change in changes:
        model = change(model)
    model.check()

    def written(done: int, total: int) -> None:
        if weights is not None:
            weights.release(0, weights.size)
        if progress:
            progress(done / total)

    with writing(path, force) as stream:
        size = model.write(stream, written)
    return ExportReport(
        path=os.fspath(path),
        opset=opset,
        inputs=tuple((value.name, value.dims) for value in model.inputs),
        outputs=tuple((value.name, value.dims) for value in model.outputs),
        nodes=len(model.nodes),
        parameters=parameters,
        bytes=size,
        dynamic_batch=made.dynamic,
        fixed_because=made.fixed_because,
        left_out=made.left_out,
        unused=made.unused,
    )


def build(
    net,
    weights,
    *,
    opset: int = 13,
    inputs: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    keep_blobs: Sequence[str] = (),
    fold: bool = True,
) -> Export:
    """The ONNX model of ``net`` in memory, its weights still views; see :func:`export_onnx`."""
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ExportError(f"opset {opset}: expected {OLDEST_OPSET} to {NEWEST_OPSET}")
    shapes = infer(net, "TEST", inputs=inputs, batch=batch)
    if batch is None:
        dims, reason = symbolic_dims(shapes, inputs)
    else:
        dims, reason = fixed_dims(shapes), f"batch {batch} was asked for"
    kept, left_out = _sift(shapes)
    graph = _graph(shapes, kept, dims, match_weights(shapes, kept, weights), opset)
    blobs = _outputs(shapes, kept, graph, keep_blobs)
    simplify(graph, [graph.tensors[blob] for blob in blobs], fold)
    outputs = graph.finish(blobs)
    return Export(
        model=_model(net, graph, outputs),
        dynamic=not reason,
        fixed_because=reason,
        left_out=left_out,
        unused=unused_weights(shapes, weights),
        outputs=outputs,
    )


def _graph(shapes: NetShapes, kept: list[int], dims, blobs, opset: int) -> Graph:
    """The nodes of all layers in ``kept``; tops of data layers that nothing reads are no inputs."""
    layers = [entry.layer for entry in shapes.layers]
    graph = Graph(opset, {blob for layer in layers for blob in (*layer.bottoms, *layer.tops)})
    needed = {blob for index in kept for blob in layers[index].bottoms}
    for index in kept:
        layer, entry = layers[index], shapes.layers[index]
        _check_names(layer)
        if is_input(layer):
            for blob, axes in zip(layer.tops, dims[index][1]):
                if blob in needed:
                    graph.add_input(blob, axes)
            continue
        shape_pair = (entry.bottoms, entry.tops)
        _write_layer(layer, LayerGraph(graph, layer, shape_pair, dims[index], blobs.get(index, [])))
    return graph


def _check_names(layer) -> None:
    for name in (layer.name, *layer.bottoms, *layer.tops):
        if not name.isprintable() and name != name.encode("utf-8", "replace").decode():
            raise ExportError(
                f"{layer.where()}: the name {name!r} is not UTF-8, which names in ONNX have to be; "
                "rename it in the prototxt and the caffemodel"
            )


def _write_layer(layer, g: LayerGraph) -> None:
    entry = lookup(layer.type)
    if entry is None or not hasattr(entry, "onnx"):
        raise ExportError(
            f"{layer.where()}: layer type '{layer.type}' cannot be written as ONNX; "
            "take the layer out of the net, or replace it by layers that can"
        )
    entry.onnx(layer, g)


def _is_evaluation(layer) -> bool:
    """Whether a layer only scores a net: losses (of any fork), accuracies, sinks."""
    return layer.type.endswith("Loss") or layer.type in ("Accuracy", "HDF5Output")


def _sift(shapes: NetShapes) -> tuple[list[int], tuple[str, ...]]:
    """Indices of the layers that inference needs, and the names of the others.

    Left out are evaluation layers, and layers that read what only those make.
    """
    kept, left_out, missing = [], [], set()
    for index, layer in enumerate(shapes.graph.layers):
        if _is_evaluation(layer) or missing & set(layer.bottoms):
            left_out.append(layer.name)
            missing |= set(layer.tops)
        else:
            kept.append(index)
            missing -= set(layer.tops)
    return kept, tuple(left_out)


def _outputs(
    shapes: NetShapes, kept: list[int], graph: Graph, keep_blobs: Sequence[str]
) -> list[str]:
    """The net's outputs, in the order of their layers, then ``keep_blobs``."""
    unread: dict[str, None] = {}
    for index in kept:
        layer = shapes.graph.layers[index]
        for blob in layer.bottoms:
            unread.pop(blob, None)
        if not is_input(layer):
            unread.update(dict.fromkeys(layer.tops))
    outputs = list(unread)
    for blob in keep_blobs:
        if blob not in graph.tensors:
            raise ExportError(
                f"{shapes.net.doc.path or 'the net'}: no blob '{blob}' in what is exported; "
                f"{suggest(blob, graph.tensors)}"
            )
        if blob not in outputs:
            outputs.append(blob)
    if not outputs:
        raise ExportError("the net has no layer that computes an output; nothing to export")
    return outputs


def _model(net, graph: Graph, carriers: Mapping[str, str]) -> Model:
    outputs = tuple(Value(name, graph.dims[name]) for name in carriers.values())
    declared = {*graph.inputs, *carriers.values(), *graph.initializers}
    made = {name for node in graph.nodes for name in node.outputs}
    values = tuple(
        Value(name, dims)
        for name, dims in graph.dims.items()
        if name in made and name not in declared and dims is not None
    )
    read = {name for node in graph.nodes for name in reads(node)}
    return Model(
        name=(net.name or "net").encode("utf-8", "replace").decode(),
        opset=graph.opset,
        inputs=tuple(Value(name, dims) for name, dims in graph.inputs.items()),
        outputs=outputs,
        values=values,
        nodes=tuple(graph.nodes),
        initializers={k: v for k, v in graph.initializers.items() if k in read},
        metadata={"source": "caffe"},
    )
