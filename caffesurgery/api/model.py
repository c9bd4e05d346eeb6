"""A net with its weights as a value: ``load``, ``inspect``, and progress by stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import DataError, NetError, WeightsError
from ..files import caffemodel
from ..files.caffemodel import Caffemodel
from ..net.match import require_match
from ..net.net import Net, read_net
from ..net.shapes import NetShapes, infer
from ..report import inspect_net

Progress = Callable[[str, str, float], None]
"""Called with a stage ('decompose'), what it works on ('conv2') and the share done (0 to 1)."""


@dataclass(frozen=True)
class Model:
    """A net, the shapes of its blobs, and its weights (None when only the prototxt was read)."""

    net: Net
    shapes: NetShapes
    weights: Caffemodel | None = None
    inputs: Mapping[str, tuple[int, ...]] | None = None
    phase: str = "TEST"

    @property
    def name(self) -> str:
        """The net's own name, or that of its file."""
        return self.net.name or Path(self.net.doc.path or "net").stem

    def require_weights(self) -> Caffemodel:
        """The weights; WeightsError when the model was loaded without them."""
        if self.weights is None:
            raise WeightsError(
                f"{self.net.doc.path}: loaded without weights; give the caffemodel too"
            )
        return self.weights


def load(
    prototxt,
    caffemodel_path=None,
    *,
    phase: str = "TEST",
    batch: int | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
) -> Model:
    """Read a net and, if given, its weights, and check that they belong together.

    prototxt: path of a net (deploy, train_val ...); caffemodel_path: path of its weights
    phase: 'TEST' or 'TRAIN'; batch: replaces the first dimension of the inputs
    inputs: shapes, by blob, of data that the file does not describe, e.g. {"data": (3, 32, 32)};
        by default those of the data themselves, where the data layers of the phase find them
    Raises FileError, ParseError, NetError or WeightsError, each naming the place.
    """
    net = read_net(prototxt)
    shapes, inputs = _shapes(net, phase, inputs, batch)
    if caffemodel_path is None:
        return Model(net, shapes, None, inputs, phase)
    weights = caffemodel.read(caffemodel_path)
    require_match(shapes, weights, net.doc.path)
    return Model(net, shapes, weights, inputs, phase)


def _shapes(net: Net, phase: str, inputs: Mapping | None, batch: int | None):
    """The shapes of a net, and the inputs that they are from.

    A database is only opened where the text does not say what is in it.
    """
    try:
        return infer(net, phase, inputs, batch), inputs
    except NetError:
        from ..data.layer_images import layer_shapes

        try:
            found = layer_shapes(net, phase)
        except DataError:  # not here: that its shape is not said is what stands in the way
            found = {}
        if not found:
            raise
    inputs = {**found, **(inputs or {})}
    return infer(net, phase, inputs, batch), inputs


def inspect(model: Model) -> dict:
    """The documented report of a model: layers, shapes, parameters, multiply-adds for one image."""
    notes = [*model.net.warnings, *model.shapes.notes]
    return inspect_net(model.name, model.net.doc.path or "", model.phase, model.shapes, notes)


def stage_of(progress: Progress | None, stage: str):
    """The progress of one stage: a callback that takes what it works on and the share done."""
    return partial(progress, stage) if progress else None
