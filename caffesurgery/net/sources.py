"""Shapes of what feeds a net: from its text, from the caller, or guessed and said so.

Follows BVLC Caffe 1.0 where the text is enough (Input, DummyData, MemoryData, resized images); a
database's images are only known from outside.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import NetError, suggest
from .layers import MaybeShape, Shape, lookup
from .layers.base import check_arity, show
from .layers.data import Parameter, Source
from .net import Layer, Net

_IMAGE_AXES = 4


def source_shapes(
    net: Net, layers: Sequence[Layer], given: dict, batch: int | None, notes: list[str]
) -> dict[int, list[MaybeShape]]:
    """Shapes of the tops of every layer without bottoms, by layer index.

    ``given`` is changed in place: its shapes become tuples with their batch.  What was assumed is
    added to ``notes``.
    """
    _check_given(net, given, batch)
    made: dict[int, list[MaybeShape]] = {}
    for index, layer in enumerate(layers):
        entry = lookup(layer.type)
        if isinstance(entry, Source) and not isinstance(entry, Parameter):
            check_arity(entry, layer)
            made[index] = _shapes(layer, entry, given, batch, notes)
    return _rebatch(made, batch) if batch else made


def _check_given(net: Net, given: dict, batch: int | None) -> None:
    """Refuse shapes for what is no input, and dimensions that are none."""
    if batch is not None and batch < 1:
        raise NetError(f"batch {batch} is no batch size; expected 1 or more")
    layers = net.layers + ((net.input_layer,) if net.input_layer else ())
    free = set()
    for layer in layers:
        entry = lookup(layer.type)
        if entry is None or isinstance(entry, Source) or layer.type == "Python":
            free.update(layer.tops)
    for name, shape in given.items():
        if name not in free:
            raise NetError(
                f"a shape is given for '{name}', which is no input of the net "
                f"{net.doc.path or '<text>'}; {suggest(name, free)}"
            )
        given[name] = tuple(int(dim) for dim in shape)
        if any(dim < 1 for dim in given[name]):
            raise NetError(f"input {name}={show(given[name])}: dimensions must be 1 or more")


def _shapes(
    layer: Layer, entry: Source, given: dict, batch: int | None, notes: list[str]
) -> list[MaybeShape]:
    """Shapes of one source's tops: what is given, else what the text says, else what is likely."""
    shapes = list(entry.tops(layer, []))
    stated = entry.batch(layer)
    for top, name in enumerate(layer.tops):
        if name in given:
            declared = shapes[top] if top < len(shapes) else None
            given[name] = _complete(given[name], declared, stated or batch, notes, name)
            shapes[top] = given[name]
    if shapes[0] is None:
        shapes[0], why = entry.guess(layer)
        if shapes[0]:
            notes.append(f"{layer.where()}: '{layer.tops[0]}' taken as {show(shapes[0])}: {why}")
    if entry.labels and shapes[0] and layer.tops[1:] and layer.tops[1] not in given:
        shapes[1] = shapes[0][:1]
    missing = [name for name, shape in zip(layer.tops, shapes) if shape is None]
    if missing:
        example = {name: (3, 227, 227) if name == layer.tops[0] else (1,) for name in missing}
        words = (f"--input {name}={','.join(map(str, e))}" for name, e in example.items())
        raise NetError(
            f"{layer.where()}: {layer.type} does not say the shape of {', '.join(missing)}; give it"
            f" as inputs={example} or {' '.join(words)}"
        )
    return shapes


def _complete(
    shape: Shape, declared: MaybeShape, stated: int | None, notes: list[str], name: str
) -> Shape:
    """A shape that the caller gave, with its batch in front where that was left out.

    It was left out where the net declares one axis more, or, for a data layer, where there are
    fewer than 4 axes and the first is not the batch size that the layer states.
    """
    if declared is not None:
        return declared[:1] + shape if len(shape) + 1 == len(declared) else shape
    if len(shape) >= _IMAGE_AXES or shape[:1] == (stated,):
        return shape
    if stated:
        return (stated, *shape)
    if len(shape) == _IMAGE_AXES - 1:
        notes.append(f"'{name}' taken as one image of {show(shape)}; no batch size is given")
        return (1, *shape)
    return shape


def _rebatch(made: dict[int, list[MaybeShape]], batch: int) -> dict[int, list[MaybeShape]]:
    """The shapes with another batch: the leading dimension of the first one, wherever it is met."""
    leading = [shape[0] for shapes in made.values() for shape in shapes if shape]
    old = leading[0] if leading else None
    return {
        index: [(batch, *s[1:]) if s and s[0] == old else s for s in shapes]
        for index, shapes in made.items()
    }
