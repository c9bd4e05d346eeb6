"""Layers that are not trained: learning rates of 0 in a prototxt, and back, as edits of its text.

A net and names of layers go in, the edited text comes out; every byte that says nothing about
rates stays.  A blob that layers share through ``param { name }`` has one rate, so it is frozen in
all of them, as Caffe demands.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple, Optional

from ..errors import NetError, UsageError, suggest
from ..files.text import Document, Field, Message
from ..net.layers import lookup
from ..net.net import Layer, Net
from ..net.shapes import infer

Rates = tuple[Optional[float], Optional[float]]
"""lr_mult and decay_mult of one blob; None takes the statement out, which leaves Caffe's 1."""
_FROZEN: Rates = (0.0, 0.0)
_NEW = ("lr_mult", "decay_mult")
_OLD = ("blobs_lr", "weight_decay")
_HEAD = frozenset(("name", "type", "bottom", "top", "param", "include", "exclude", *_OLD))


def frozen(net: Net, layers: Collection[str], blobs: Mapping[str, int] | None = None) -> str:
    """The net's text with a rate and decay of 0 for every blob of the layers named.

    ``blobs`` tells how many parameter blobs a layer has, by its name (a caffemodel knows); without
    it the number comes from the net's shapes or the layer's type.  BatchNorm has no rates: Caffe
    never trains its blobs.  UsageError for a name that is not in the net, NetError where the
    number of blobs cannot be told.
    """
    chosen = _chosen(net, layers)
    counts = blob_counts(net, chosen, blobs or {})
    shared = {spec.name for layer in chosen for spec in layer.specs if spec.name}
    names = {layer.name for layer in chosen}
    wanted = {}
    for layer in net.layers:
        if layer.name in names:
            wanted[layer] = [_FROZEN] * max(counts[layer.name], len(layer.specs))
        elif any(spec.name in shared for spec in layer.specs):
            own = ((spec.name in shared, _kept(spec)) for spec in layer.specs)
            wanted[layer] = [_FROZEN if one else kept for one, kept in own]
    return _edited(net.doc, wanted)


def thawed(net: Net, layers: Collection[str], like: Net) -> str:
    """The net's text with the rates that the layers named have in the net ``like``.

    A layer that ``like`` does not have gets Caffe's own rates, 1 and 1.
    """
    chosen = {layer.name for layer in _chosen(net, layers)}
    models = {layer.name: layer.specs for layer in reversed(like.layers)}
    wanted = {}
    for layer in net.layers:
        specs = models.get(layer.name, ())
        if layer.name in chosen:
            wanted[layer] = [_kept(spec) for spec in specs][: len(layer.specs)]
    return _edited(net.doc, wanted, drop=True)


def blob_counts(net: Net, layers: Collection[Layer], known: Mapping[str, int]) -> dict[str, int]:
    """How many parameter blobs each layer has; 0 for one that Caffe never trains."""
    shapes = {}
    for phase in ("TRAIN", "TEST"):
        try:
            found = infer(net, phase).layers
        except NetError:
            continue
        shapes.update((e.layer.name, len(e.params)) for e in found if e.params is not None)
    counts = {}
    for layer in layers:
        if layer.type == "BatchNorm":
            counts[layer.name] = 0
        else:
            count = known.get(layer.name, shapes.get(layer.name))
            counts[layer.name] = _count_by_type(layer) if count is None else count
    return counts


def _count_by_type(layer: Layer) -> int:
    """The number of blobs as it is for any size of bottom: it hangs on the layer's settings."""
    kind = lookup(layer.type)
    if kind is not None:
        channels = 8 * max(1, layer.params("convolution_param")["group"])
        try:
            return len(kind.blobs(layer, [(1, channels, 64, 64)] * max(1, len(layer.bottoms))))
        except NetError:
            pass
    raise NetError(
        f"{layer.where()}: how many parameter blobs type '{layer.type}' has is not known here; "
        "give the weights too"
    )


def _chosen(net: Net, names: Collection[str]) -> list[Layer]:
    known = {layer.name for layer in net.layers}
    for name in names:
        if name not in known:
            raise UsageError(
                f"{net.doc.path or 'the net'}: no layer '{name}' to freeze; {suggest(name, known)}"
            )
    return [layer for layer in net.layers if layer.name in set(names)]


def _kept(spec) -> Rates:
    lr, decay = (getattr(spec, name) if name in spec.given else None for name in _NEW)
    return lr, decay


class _Edit(NamedTuple):
    """A change of the text: ``field`` spans what ``new`` takes the place of."""

    field: Field
    new: str


def _edited(doc: Document, wanted: Mapping[Layer, list[Rates]], drop: bool = False) -> str:
    edits: list[_Edit] = []
    for layer, rates in wanted.items():
        message = layer.field.value
        if layer.dialect == "V2":
            edits += _params(doc, message, rates, drop)
        else:
            inner = message.last("layer") if layer.dialect == "V0" else message
            for index, word in enumerate(_OLD):
                edits += _list(doc, inner, word, [rate[index] for rate in rates])
    return doc.replace(edits)


def _params(doc: Document, layer: Message, rates: list[Rates], drop: bool) -> Iterator[_Edit]:
    """Changes of ``param { ... }`` statements, one for each blob; new ones where they lack."""
    there = [
        (field, value)
        for field in layer.fields_named("param")
        for value in (field.value if isinstance(field.value, tuple) else (field.value,))
    ]
    for (_, param), values in zip(there, rates):
        for name, value in zip(_NEW, values):
            yield from _scalar(doc, param, name, value)
    if drop:
        for field, _ in there[len(rates) :]:
            yield _Edit(_with_space(doc, field), "")
    missing = [
        "param { " + " ".join(f"{name}: {value:g}" for name, value in zip(_NEW, values)) + " }"
        for values in rates[len(there) :]
    ]
    yield from _inserted(doc, layer, missing)


def _scalar(doc: Document, message: Message, name: str, value: float | None) -> Iterator[_Edit]:
    """One optional number of a message, set or taken out."""
    fields = message.fields_named(name)
    if value is None:
        for field in fields:
            yield _Edit(_with_space(doc, field), "")
    elif fields:
        yield _Edit(fields[-1], f"{name}: {value:g}")
    else:
        at = message.fields[-1].end if message.fields else message.start
        yield _Edit(Field(name, at, at, message), f" {name}: {value:g}")


def _list(doc: Document, layer: Message, word: str, rates: list) -> Iterator[_Edit]:
    """A list of the old dialects, one number for each blob: written anew where it stands."""
    fields = layer.fields_named(word)
    said = any(rate is not None for rate in rates)
    new = [f"{word}: {1 if rate is None else rate:g}" for rate in rates] if said else []
    if not fields:
        yield from _inserted(doc, layer, new)
        return
    for index, field in enumerate(fields):
        last = index == len(fields) - 1
        text = " ".join(new[index:] if last else new[index : index + 1])
        yield _Edit(field if text else _with_space(doc, field), text)


def _inserted(doc: Document, layer: Message, new: list[str]) -> Iterator[_Edit]:
    """New statements behind the last of the head of a layer, written as the lines there are."""
    if not new:
        return
    heads = [field for field in layer.fields if field.name in _HEAD]
    last = heads[-1]
    line_end = doc.text.find("\n", last.end)
    behind = [field for field in layer.fields if field.start > last.start]
    alone = line_end >= 0 and doc.text.rfind("\n", 0, last.start) >= layer.start - 1
    if alone and line_end < layer.end and not any(f.start < line_end for f in behind):
        at = line_end - (doc.text[line_end - 1] == "\r")
        between = doc.newline + doc.indent(last)
    else:
        at, between = last.end, " "
    yield _Edit(Field("", at, at, layer), "".join(between + statement for statement in new))


def _with_space(doc: Document, field: Field) -> Field:
    """A statement with the space before it, and with its line where it has one to itself."""
    start = len(doc.text[: field.start].rstrip(" \t"))
    ends = doc.text[field.end : field.end + 2].startswith(("\n", "\r\n"))
    if start and doc.text[start - 1] == "\n" and ends:
        start -= 1 + doc.text[: start - 1].endswith("\r")
    return Field(field.name, start, field.end, field.value)
