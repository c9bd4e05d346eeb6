"""What every layer type knows: the blobs it takes and gives, their shapes, its parameters, MACs.

A layer type is one class with one registered instance; shapes go in and out as tuples of int.  The
arithmetic and the checks are those of BVLC Caffe 1.0 (LayerSetUp and Reshape of each layer), so a
net that Caffe refuses is refused here, with the layer's place in the file.
"""

from __future__ import annotations

from math import prod
from typing import Optional

from ...errors import NetError

Shape = tuple[int, ...]
MaybeShape = Optional[Shape]

INT_MAX = 2**31 - 1
MAX_AXES = 32

_TYPES: dict[str, LayerType] = {}


class LayerType:
    """One entry of the layer table; the defaults are those of a layer without parameters that
    gives one blob shaped like its one bottom.

    ``takes`` and ``gives`` bound the number of bottoms and tops (None: no upper bound), ``paired``
    asks for one top per bottom, ``auto_tops`` lets tops be left out (loss layers), and
    ``in_place`` says whether top 0 may be bottom 0.  A type that has a method ``onnx(layer, g)``
    can be exported; export/graph.py says what ``g`` offers it.  ``any_size`` says that the nodes
    written hold for every height and width, ``origin`` which fork a type comes from ("" for BVLC
    Caffe), ``not_exported`` what of it ONNX cannot hold.
    """

    types: tuple[str, ...] = ()
    takes: tuple[int, int | None] = (1, 1)
    gives: tuple[int, int | None] = (1, 1)
    paired = False
    auto_tops = False
    in_place = True
    any_size = False
    origin = ""
    not_exported = ""

    def arity(self, layer) -> tuple[tuple[int, int | None], tuple[int, int | None]]:
        """The bounds (takes, gives) for this very layer, where its parameters have a say."""
        return self.takes, self.gives

    def tops(self, layer, bottoms: list[Shape]) -> list[MaybeShape]:
        """Shapes of the tops; None for a top whose shape the net's text does not determine."""
        return [bottoms[0]] * max(1, len(layer.tops))

    def blobs(self, layer, bottoms: list[Shape]) -> list[Shape]:
        """Shapes of the parameter blobs in Caffe's order."""
        return []

    def macs(self, layer, bottoms: list[Shape], tops: list[Shape]) -> int:
        """Multiply-adds of one forward pass over the whole batch; biases are not counted."""
        return 0


def register(cls: type[LayerType]) -> type[LayerType]:
    """Class decorator: enters the layer type under each of its names."""
    entry = cls()
    for name in cls.types:
        if name in _TYPES:
            raise AssertionError(f"layer type {name!r} is registered twice")
        _TYPES[name] = entry
    return cls


def lookup(name: str) -> LayerType | None:
    """The entry of a layer type by its V2 name, or None for a type that BVLC Caffe has not."""
    return _TYPES.get(name)


def known_types() -> tuple[str, ...]:
    """All registered names, sorted."""
    return tuple(sorted(_TYPES))


def refuse(layer, text: str) -> NetError:
    """The error for a layer that Caffe would not set up: ``raise refuse(layer, ...)``."""
    return NetError(f"{layer.where()}: {layer.type}: {text}")


def count(shape: Shape, start: int = 0, end: int | None = None) -> int:
    """Number of elements of the axes start..end (end excluded; Blob::count)."""
    return prod(shape[start:end])


def show(shape: MaybeShape) -> str:
    """A shape as people write it: ``10x3x227x227``; a scalar is ``()``."""
    if shape is None:
        return "unknown"
    return "x".join(map(str, shape)) if shape else "()"


def axis_of(layer, shape: Shape, axis: int, name: str = "axis") -> int:
    """The axis counted from the front (Blob::CanonicalAxisIndex); negative ones count from the
    back."""
    if not -len(shape) <= axis < len(shape):
        raise refuse(
            layer,
            f"{name} {axis} is out of range for a bottom of {len(shape)} axes "
            f"({show(shape)}); expected {-len(shape)} to {len(shape) - 1}",
        )
    return axis % len(shape)


def legacy(layer, shape: Shape) -> tuple[int, int, int, int]:
    """(num, channels, height, width) of a bottom of at most 4 axes; missing ones are 1."""
    if len(shape) > 4:
        raise refuse(layer, f"takes bottoms of at most 4 axes, met {show(shape)}")
    return tuple(shape) + (1,) * (4 - len(shape))  # type: ignore[return-value]


def four_axes(layer, shape: Shape) -> Shape:
    """The shape itself, refused unless it has the 4 axes num, channels, height, width."""
    if len(shape) != 4:
        raise refuse(
            layer, f"takes a bottom of 4 axes (num, channels, height, width), met {show(shape)}"
        )
    return shape


def check_shape(layer, shape: Shape, what: str) -> None:
    """What Blob::Reshape checks: no negative dimension, at most 32 axes and 2^31-1 elements."""
    if len(shape) > MAX_AXES:
        raise refuse(layer, f"{what} has {len(shape)} axes; Caffe's blobs have at most {MAX_AXES}")
    if any(dim < 0 for dim in shape):
        raise refuse(
            layer,
            f"{what} would be {show(shape)}; a dimension below 0 means that the bottom is "
            "too small for this layer",
        )
    if prod(shape) > INT_MAX:
        raise refuse(
            layer,
            f"{what} would be {show(shape)}, {prod(shape)} elements; "
            f"Caffe's blobs hold at most {INT_MAX}",
        )


def check_arity(entry: LayerType, layer) -> None:
    """Refuse a layer with more or fewer bottoms or tops than its type has (CheckBlobCounts)."""
    takes, gives = entry.arity(layer)
    for names, (low, high), what in ((layer.bottoms, takes, "bottom"), (layer.tops, gives, "top")):
        if entry.auto_tops and what == "top":
            low = 0
        if len(names) < low or (high is not None and len(names) > high):
            bound = f"{low}" if low == high else f"{low} to {high}" if high else f"at least {low}"
            raise refuse(layer, f"has {len(names)} {what}(s), expected {bound}")
    if entry.paired and len(layer.bottoms) != len(layer.tops):
        raise refuse(
            layer,
            f"has {len(layer.bottoms)} bottoms and {len(layer.tops)} tops; "
            "expected one top for each bottom",
        )
    if not entry.in_place and layer.bottoms and layer.tops[:1] == layer.bottoms[:1]:
        raise refuse(layer, f"cannot work in place on '{layer.tops[0]}'; give its top a new name")
    given = len(layer.loss_weights)
    made = max(len(layer.tops), gives[0]) if entry.auto_tops else len(layer.tops)
    if given and given != made:
        raise refuse(
            layer, f"has {given} loss_weight(s) for {made} top(s); expected none or one for each"
        )
