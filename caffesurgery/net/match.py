"""Do these weights belong to this net?  Decided as Caffe decides when it loads a caffemodel.

Caffe copies blobs by layer name, stops at a shape or a number of blobs that differs, and says
nothing about a layer that finds no weights, nor about weights that find no layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import WeightsError, some
from .layers.base import show
from .shapes import NetShapes


@dataclass(frozen=True)
class Stored:
    """Shape of a stored blob; ``legacy`` when the file gives it as num, channels, height, width."""

    shape: tuple[int, ...]
    legacy: bool = False

    def fits(self, expected: Sequence[int]) -> bool:
        """Caffe's Blob::ShapeEquals: legacy shapes are compared with leading ones."""
        if not self.legacy:
            return tuple(self.shape) == tuple(expected)
        return len(expected) <= 4 and (1,) * (4 - len(expected)) + tuple(expected) == (
            (1,) * (4 - len(self.shape)) + tuple(self.shape)
        )


@dataclass(frozen=True)
class Match:
    """What fits and what does not; each problem is a sentence that names the layer.

    ``missing``: layers with parameters that find no weights; ``wrong``: a differing shape or number
    of blobs (Caffe stops); ``unused``: weights that no layer of the net takes.
    """

    missing: tuple[str, ...]
    wrong: tuple[tuple[str, str], ...]
    unused: tuple[str, ...]


def stored_blobs(weights) -> dict[str, list[Stored]]:
    """Shapes of every layer of a caffemodel that has blobs; the last of several wins."""
    return {
        name: [Stored(blob.shape, blob.legacy_dims) for blob in weights.blobs(name)]
        for name in weights.names()
        if weights.blobs(name)
    }


def match(shapes: NetShapes, stored: Mapping[str, Sequence[Stored]]) -> Match:
    """Compare what the layers of a net expect with what is stored, by layer name."""
    missing, wrong, taken = [], [], set()
    for entry in shapes.layers:
        name = entry.layer.name
        if name in stored:
            taken.add(name)
        if not entry.params:
            continue
        if name not in stored:
            missing.append(name)
            continue
        problem = _difference(entry.params, stored[name])
        if problem:
            wrong.append((name, f"{entry.layer.where()}: {problem}"))
    known = all(entry.params is not None for entry in shapes.layers)
    unused = [name for name in stored if name not in taken] if known else []
    return Match(tuple(missing), tuple(wrong), tuple(unused))


def _difference(expected: Sequence, stored: Sequence[Stored]) -> str:
    if len(expected) != len(stored):
        return f"expects {len(expected)} blobs, the weights hold {len(stored)}"
    for index, (shape, blob) in enumerate(zip(expected, stored)):
        if not blob.fits(shape):
            return (
                f"blob {index} is expected to be {show(tuple(shape))}, "
                f"the weights hold {show(tuple(blob.shape))}"
            )
    return ""


def require_match(shapes: NetShapes, weights, net_path: str | None) -> Match:
    """Raise WeightsError, naming layers and shapes, unless every layer finds its weights."""
    found = match(shapes, stored_blobs(weights))
    if not found.missing and not found.wrong:
        return found
    lines = [f"{weights.path} does not belong to {net_path or 'the net'}:"]
    lines += [f"  {sentence}" for _, sentence in found.wrong[:5]]
    if found.missing:
        lines.append(f"  no weights for {some(found.missing)}")
    if found.unused:
        lines.append(f"  weights that no layer takes: {some(found.unused)}")
    lines.append("give the caffemodel that was trained with this prototxt")
    raise WeightsError("\n".join(lines))
