"""Which axes of a net follow its batch, or its size: shapes inferred twice and compared.

An axis follows the batch if it grows in proportion with the inputs' first axis.  In a net where
anything else grows (a parameter blob, a second axis), or which no longer fits at another batch, no
axis can be left open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from ..errors import ExportError, NetError
from ..net.layers import lookup
from ..net.shapes import NetShapes, infer
from .graph import BATCH, HEIGHT, WIDTH, Dims

_MORE = (64, 96)
"""Rows and columns that an image is larger the second time; multiples of usual strides."""

LayerDims = tuple[tuple, tuple]  # dims of the bottoms, dims of the tops


def is_input(layer) -> bool:
    """Whether a layer feeds the net: any without bottoms, but for a learned blob."""
    return not layer.bottoms and layer.type != "Parameter"


def fixed_dims(shapes: NetShapes) -> list[LayerDims]:
    """The dims of every layer with nothing symbolic."""
    return [(entry.bottoms, entry.tops) for entry in shapes.layers]


def symbolic_dims(
    shapes: NetShapes, inputs: Mapping[str, Sequence[int]] | None
) -> tuple[list[LayerDims], str]:
    """(Dims of every layer, "") with the batch symbolic, or (the fixed ones, why it is not)."""
    sources = [e.tops[0] for e in shapes.layers if is_input(e.layer) and e.tops and e.tops[0]]
    if not sources:
        return fixed_dims(shapes), "it has no input"
    lost = next((entry for entry in shapes.layers if entry.unknown), None)
    if lost is not None:
        return fixed_dims(shapes), lost.unknown
    size = sources[0][0]
    other = 2 * size + 1
    try:
        larger = infer(shapes.net, "TEST", inputs=inputs, batch=other)
    except NetError as error:
        return fixed_dims(shapes), f"at batch {other} the net does not fit: {error}"
    dims = []
    for small, large in zip(shapes.layers, larger.layers):
        try:
            dims.append(_layer_dims(small, large, size, other))
        except _Rigid:
            return fixed_dims(shapes), f"{small.layer.where()}: its shapes do not follow the batch"
    return dims, ""


class _Rigid(Exception):
    """A shape that depends on the batch otherwise than by its first axis."""


def _layer_dims(small, large, size: int, other: int) -> LayerDims:
    if small.params != large.params:
        raise _Rigid
    return (
        tuple(_dims(a, b, size, other) for a, b in zip(small.bottoms, large.bottoms)),
        tuple(_dims(a, b, size, other) for a, b in zip(small.tops, large.tops)),
    )


def _dims(small, large, size: int, other: int) -> Dims | None:
    """One shape at both batches as dims; the first axis is None where it is a multiple."""
    if small == large:
        return small
    if len(small) != len(large) or small[1:] != large[1:] or small[0] * other != large[0] * size:
        raise _Rigid
    return (BATCH if small[0] == size else None, *small[1:])


def open_sizes(
    shapes: NetShapes,
    inputs: Mapping[str, Sequence[int]] | None,
    batch: int | None,
    dims: list[LayerDims],
) -> list[LayerDims]:
    """``dims`` with heights and widths of 4-axis inputs, and all that follows them, symbolic.

    ExportError names the layer that holds for one size only.
    """
    images = {
        top: shape
        for entry in shapes.layers
        if is_input(entry.layer)
        for top, shape in zip(entry.layer.tops, entry.tops)
        if shape and len(shape) == 4
    }
    if not images:
        raise ExportError("no input has a height and a width that could be left open")
    grown = {name: (*s[:2], s[2] + _MORE[0], s[3] + _MORE[1]) for name, s in images.items()}
    try:
        larger = infer(shapes.net, "TEST", inputs={**(inputs or {}), **grown}, batch=batch)
    except NetError as error:
        raise ExportError(f"height and width cannot be left open: {error}") from error
    first = next(iter(images.values()))
    names = {(first[2], first[2] + _MORE[0]): HEIGHT, (first[3], first[3] + _MORE[1]): WIDTH}
    opened = []
    for small, large, pair in zip(shapes.layers, larger.layers, dims):
        if small.params != large.params:
            raise ExportError(
                f"{small.layer.where()}: {small.layer.type}: its weights are for one height and "
                "width, which can therefore not be left open"
            )
        both = zip((small.bottoms, small.tops), (large.bottoms, large.tops), pair)
        wide = tuple(tuple(map(partial(_sized, names), *three)) for three in both)
        entry = lookup(small.layer.type)
        if wide != pair and not is_input(small.layer) and not (entry and entry.any_size):
            raise ExportError(
                f"{small.layer.where()}: {small.layer.type} is written for one height and width; "
                "export fixed sizes"
            )
        opened.append(wide)
    return opened


def _sized(names: Mapping, small, large, dims: Dims) -> Dims:
    """``dims`` with what differs between the sizes replaced by a symbol, or None."""
    if small is None or small == large:
        return dims
    if len(small) != len(large):
        raise ExportError("the number of a blob's axes depends on the size; export fixed sizes")
    return tuple(axis if a == b else names.get((a, b)) for a, b, axis in zip(small, large, dims))
