"""From the shapes of a net to the graph of its inference: which layers, in which order, as what.

Layers that only score a net are left out; the others write their nodes themselves (``net/layers``),
or, where they cannot and a domain is given, become a node of that domain with their parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import ExportError, suggest
from ..files.schema import load_schema
from ..net.layers import lookup
from ..net.shapes import NetShapes
from ..net.weights import match_weights
from .batch import is_input
from .custom import stored_arrays, write_custom
from .graph import Graph, LayerGraph, Unsupported, reads
from .model import Model, Value

_WITHOUT_EFFECT = frozenset(
    "engine visualize visualize_threshold save_file save_output_param".split()
)
"""Parameters of forks' layers that say how to run or show them, not what they compute."""


def assemble(
    shapes: NetShapes, kept: list[int], dims, weights, opset: int, domain: str = ""
) -> Graph:
    """The nodes of all layers in ``kept``; tops of data layers that nothing reads are no inputs.

    ``dims`` are those of every layer; ``domain`` is for layers that ONNX cannot hold ("": they are
    refused).
    """
    blobs = match_weights(shapes, kept, weights)
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
        arrays = blobs.get(index, []) if entry.params else stored_arrays(weights, layer)
        g = LayerGraph(graph, layer, shape_pair, dims[index], arrays)
        _write_layer(entry, g, domain)
    return graph


def _check_names(layer) -> None:
    for name in (layer.name, *layer.bottoms, *layer.tops):
        if not name.isprintable() and name != name.encode("utf-8", "replace").decode():
            raise ExportError(
                f"{layer.where()}: the name {name!r} is not UTF-8, which names in ONNX have to be; "
                "rename it in the prototxt and the caffemodel"
            )


def _write_layer(entry, g: LayerGraph, domain: str) -> None:
    """The nodes of one layer, its own or, where it has none, one of ``domain``."""
    layer = entry.layer
    kind = lookup(layer.type)
    if not hasattr(kind, "onnx"):
        if not domain:
            raise ExportError(
                f"{layer.where()}: layer type '{layer.type}' cannot be written as ONNX; "
                "take the layer out of the net, replace it by layers that can, or give "
                "--custom-op-domain to write it as an operator of your own"
            )
        write_custom(layer, g, domain)
        return
    if entry.unknown:
        raise ExportError(
            f"{layer.where()}: {layer.type}: a shape that it needs is not known: {entry.unknown}; "
            "give that blob's shape with --input"
        )
    mark = g.mark()
    try:
        if kind.origin:
            _check_fields(layer, g)
        kind.onnx(layer, g)
    except Unsupported:
        if not domain:
            raise
        g.rewind(mark)
        write_custom(layer, g, domain)


def _check_fields(layer, g: LayerGraph) -> None:
    """Refuse a fork's layer with a parameter that may make it another fork's."""
    for name in load_schema("forks").messages["LayerParameter"]:
        params = layer.params(name)
        for field in params.unknown():
            if not field.endswith("_filler") and field not in _WITHOUT_EFFECT:
                g.unsupported(f"{name}.{field} is not known, and may change what it computes")


def is_evaluation(kind: str) -> bool:
    """Whether layers of a type only score a net: losses (of any fork), accuracies, sinks."""
    return kind.endswith("Loss") or kind in ("Accuracy", "HDF5Output")


def sift(shapes: NetShapes) -> tuple[list[int], tuple[str, ...]]:
    """Indices of the layers that inference needs, and the names of the others.

    Left out are evaluation layers, and layers that read what only those make.
    """
    kept, left_out, missing = [], [], set()
    for index, layer in enumerate(shapes.graph.layers):
        if is_evaluation(layer.type) or missing & set(layer.bottoms):
            left_out.append(layer.name)
            missing |= set(layer.tops)
        else:
            kept.append(index)
            missing -= set(layer.tops)
    return kept, tuple(left_out)


def outputs_of(
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
    for blob in outputs:
        if graph.dims[graph.tensors[blob]] is None:
            raise ExportError(
                f"{shapes.net.doc.path or 'the net'}: the shape of the output '{blob}' is not "
                f"known, and ONNX asks for one; give it with --input {blob}=..."
            )
    if not outputs:
        raise ExportError("the net has no layer that computes an output; nothing to export")
    return outputs


def model_of(net, graph: Graph, carriers: Mapping[str, str], metadata: Mapping) -> Model:
    """The finished graph as a model; ``carriers`` are the tensors of its outputs by blob."""
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
        metadata=dict(metadata),
    )
