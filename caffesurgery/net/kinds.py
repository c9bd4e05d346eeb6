"""Tells a net from the other files that are written as prototxt, for errors that help.

Solvers, plans, label maps and other frameworks' graphs parse as well as nets do; what gives them
away is the names of their top-level fields.
"""

from __future__ import annotations

from ..errors import NetError
from ..files.schema import load_schema
from ..files.text import Document, Message

_NET_PARTS = ("layer", "layers", "input")
_OTHERS = (
    ({"item"}, "a label map"),
    ({"node", "versions", "library"}, "a TensorFlow graph"),
    ({"max_batch_size", "platform", "instance_group"}, "an inference server's configuration"),
    ({"model", "train_config", "train_input_reader"}, "a TensorFlow pipeline"),
)
_LAYER_FIELDS = {"type", "bottom", "top"}


def refuse_other_kinds(doc: Document) -> None:
    """NetError, saying what the document seems to be, unless it can be a net."""
    names = set(doc.root.names())
    if names.intersection(_NET_PARTS) and not _is_plan(doc.root):
        return
    raise NetError(
        f"{doc.path or '<text>'}: expected a net (statements 'layer {{ ... }}'), but this "
        f"{_seems(doc.root, names)}"
    )


def _seems(root: Message, names: set[str]) -> str:
    if not names:
        return "file is empty"
    if _is_plan(root):
        return "seems to be a plan for caffesurgery; give the net's own prototxt"
    solver = set(load_schema().messages["SolverParameter"]) - {"name", "type", "state"}
    if names & solver:
        return f"seems to be a solver{_trained_by(root)}"
    for fields, kind in _OTHERS:
        if names & fields:
            return f"seems to be {kind}; give a prototxt of Caffe"
    if names & _LAYER_FIELDS:
        return "seems to be the inside of a single layer; put it into layer { ... }"
    return f"has only {', '.join(sorted(names)[:5])}; is it the right file?"


def _trained_by(root: Message) -> str:
    """The hint at the net that a solver names."""
    for name in ("net", "train_net"):
        value = root.last(name)
        if value is not None and getattr(value, "kind", "") == "string":
            return f", which trains the net '{value.string()}'; give that file instead"
    return "; give the prototxt of the net that it trains"


def _is_plan(root: Message) -> bool:
    """Whether the layers name methods instead of types."""
    if "layers" in root.names() and isinstance(root.last("layers"), Message):
        return False
    layers = [value for value in root.all("layer") if isinstance(value, Message)]
    return bool(layers) and all(
        "method" in (names := layer.names()) and "type" not in names for layer in layers
    )
