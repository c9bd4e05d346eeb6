"""Computes, while a graph is written, the nodes that depend on constants alone.

onnx's reference implementation runs each of them, so what comes out is what the node would have
given at run time; the prior boxes of SSD, joined and cut, are the usual case.
"""

from __future__ import annotations

import numpy as np
from onnx import helper
from onnx.reference import ReferenceEvaluator

from .graph import Graph, Node
from .model import node_proto

_LARGEST = 1 << 24
"""Bytes of inputs from which on a node stays: what it makes would only swell the file."""


def fold_constants(graph: Graph) -> None:
    """Replace nodes whose inputs are all initializers by what they give, in place."""
    nodes = []
    for node in graph.nodes:
        known = [graph.initializers.get(name) for name in node.inputs if name]
        if node.domain or not known or any(array is None for array in known):
            nodes.append(node)
            continue
        values = _run(graph, node) if sum(a.nbytes for a in known) <= _LARGEST else None
        if values is None:
            nodes.append(node)
        else:
            graph.initializers.update(zip(node.outputs, values))
    graph.nodes = nodes


def _run(graph: Graph, node: Node) -> list[np.ndarray] | None:
    """The outputs of a node, or None where they cannot be initializers."""
    feeds = {name: graph.initializers[name] for name in node.inputs if name}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in feeds.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.outputs]
    opsets = [helper.make_opsetid("", graph.opset)]
    made = helper.make_model(
        helper.make_graph([node_proto(node)], "constant", inputs, outputs), opset_imports=opsets
    )
    values = [np.asarray(value) for value in ReferenceEvaluator(made).run(None, feeds)]
    fits = all(v.dtype in (np.float32, np.int64) and v.nbytes <= _LARGEST for v in values)
    return values if fits else None
