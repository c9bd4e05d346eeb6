"""Which axes of a net follow its batch: shapes inferred at two batch sizes, compared.

An axis follows the batch if it grows in proportion with the inputs' first axis.  In a net where
anything else grows (a parameter blob, a second axis), or which no longer fits at another batch, no
axis can be left open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import NetError
from ..net.shapes import NetShapes, infer
from .graph import BATCH, Dims

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
