"""The prototxts of one net, each with its shapes in the TRAIN and the TEST phase.

A train_val begins with a database, whose images only its owner knows; their shape is taken from the
deploy net's input unless the user gives it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import NetError
from ..net.net import Net
from ..net.shapes import NetShapes, infer

PHASES = ("TRAIN", "TEST")
DATABASES = ("Data", "ImageData", "HDF5Data", "WindowData")
"""Layers whose images are known only to whoever has the database."""

Inputs = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Described:
    """A prototxt as it was: the shapes of its data, its shapes in each phase, and why a phase has
    none."""

    net: Net
    inputs: Inputs
    phases: Mapping[str, NetShapes]
    problems: Mapping[str, str]


def describe(net: Net, inputs: Inputs) -> Described:
    """Infer both phases of ``net``; raises NetError when neither can be inferred."""
    phases, problems, failure = {}, {}, None
    for phase in PHASES:
        try:
            phases[phase] = infer(net, phase, inputs)
        except NetError as error:
            problems[phase], failure = str(error), error
    if not phases:
        raise failure
    return Described(net, inputs, phases, problems)


def describe_all(
    net: Net, shapes: NetShapes, inputs: Inputs | None, also: Sequence[Net]
) -> list[Described]:
    """The net itself, whose shapes are known, and the other prototxts of the same net."""
    data = {
        entry.layer.tops[0]: entry.tops[0]
        for entry in shapes.layers
        if not entry.bottoms and entry.tops
    }
    own = describe(net, inputs or {})
    return [own, *(describe(other, _data_shapes(other, data, inputs)) for other in also)]


def _data_shapes(net: Net, data: Inputs, inputs: Inputs | None) -> dict[str, tuple[int, ...]]:
    """Shapes for the data layers of another prototxt.

    What the user gave counts first; else a data layer that does not say its own shape takes that
    of the input of the same name, or the first one, without its batch.
    """
    image = next(iter(data.values()), None)
    found = {}
    for layer in net.layers:
        top = layer.tops[0] if layer.tops and not layer.bottoms else None
        if inputs and top in inputs:
            found[top] = inputs[top]
        elif layer.type in DATABASES and (data.get(top) or image):
            shape = (data.get(top) or image)[1:]
            crop = layer.params("transform_param")["crop_size"]
            found[top] = (*shape[:-2], crop, crop) if crop and len(shape) == 3 else shape
        if layer.type == "HDF5Data":  # it says nothing of its labels either: one for each image
            found.update((label, (inputs or {}).get(label, (1,))) for label in layer.tops[1:])
    return found
