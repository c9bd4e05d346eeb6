"""Predicts how long a net, or the chain that replaces a layer, takes: a profile times its work."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..cost import Sizes
from ..net.shapes import NetShapes
from .lower import works_of, works_of_parts
from .profile import Profile
from .work import Work


@dataclass(frozen=True)
class LayerTime:
    """One layer's work and predicted milliseconds for the whole batch; None where unknown.

    ``fused``: the layer before does this one's work too.  ``guessed``: kinds of work that the
    profile lacks, each with the kind whose speed stood in.
    """

    works: tuple[Work, ...] | None
    ms: float | None
    fused: bool = False
    guessed: tuple[tuple[str, str], ...] = ()


def predict(shapes: NetShapes, profile: Profile) -> tuple[LayerTime, ...]:
    """The predicted time of every layer of a net, in order."""
    fused = _fused(shapes) if profile.runtime == "onnxruntime" else set()
    return tuple(
        LayerTime((), 0.0, fused=True) if index in fused else _layer_time(entry, profile)
        for index, entry in enumerate(shapes.layers)
    )


def _layer_time(entry, profile: Profile) -> LayerTime:
    works = works_of(entry, profile.runtime)
    if works is None:
        return LayerTime(None, None)
    guessed = []
    for kind in dict.fromkeys(one.kind for one in works):
        found = profile.model(kind)
        if found and found[1] != kind:
            guessed.append((kind, found[1]))
    return LayerTime(tuple(works), profile.ms(works), guessed=tuple(guessed))


def _fused(shapes: NetShapes) -> set[int]:
    """Layers that ONNX Runtime does together with the convolution or product before them.

    Rectifiers and batch normalisation (with the Scale behind it) right behind a convolution, as
    long as nothing else reads what lies between; and what it drops from a graph for inference.
    """
    found: set[int] = set()
    heads: dict[int, str] = {}  # layer -> type of the convolution that it has become one with
    for index, entry in enumerate(shapes.layers):
        kind = entry.layer.type
        if kind in ("Convolution", "InnerProduct"):
            heads[index] = kind
        if kind in ("Dropout", "Input", "Split", "Flatten", "Reshape"):
            found.add(index)
        if len(shapes.graph.sources[index]) != 1:
            continue
        maker = shapes.graph.sources[index][0][0]
        alone = sum(m == maker for source in shapes.graph.sources for m, _ in source) == 1
        fits = {"Convolution": ("ReLU", "BatchNorm", "Scale"), "InnerProduct": ()}
        if alone and kind in fits.get(heads.get(maker, ""), ()):
            found.add(index)
            if kind != "ReLU":
                heads[index] = heads[maker]
    return found


def predicted_ms(
    parts: Iterable, sizes: Sizes, profile: Profile, bias: bool = True, kind: str = "conv",
    images: int = 1,
) -> float:  # fmt: skip
    """Milliseconds of the chain of small layers ``parts`` on maps of ``sizes``, for ``images``.

    parts: what a scheme puts in place of one layer (``Scheme.parts``); ``dense_part`` gives the
    layer itself.  kind: 'conv' or 'fc', as of its Geometry.
    """
    works = works_of_parts(parts, sizes, profile.runtime, bias, kind, images)
    ms = profile.ms(works)
    return float("nan") if ms is None else ms


@dataclass(frozen=True)
class DensePart:
    """A dense layer as a chain of one, for ``predicted_ms``."""

    out: int
    inp: int
    kh: int
    kw: int
    group: int
    axes: str = "hw"


def dense_part(geometry) -> DensePart:
    """The layer of a ``decompose.Geometry`` as it is."""
    return DensePart(geometry.T, geometry.S, geometry.D, geometry.E, geometry.group)
