"""Finds the parameter blobs of every layer in a caffemodel, as Caffe's CopyTrainedLayersFrom does.

Layers are matched by name and blobs by shape, and a blob that layers share needs to be stored with
one of them only; unlike Caffe, a layer that finds no weights is an error and not a silent filler.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..errors import WeightsError, some
from .match import match, stored_blobs
from .shapes import NetShapes


def match_weights(shapes: NetShapes, kept: Iterable[int], weights) -> dict[int, list[np.ndarray]]:
    """Layer index -> its blobs in the shapes that Caffe expects, for the layers in ``kept``.

    ``weights`` may be None for a net without parameters.  Raises WeightsError that names the layers
    without weights and those whose blobs differ in number or shape.
    """
    found = match(shapes, stored_blobs(weights) if weights is not None else {})
    kept = [index for index in kept if shapes.layers[index].params]
    arrays: dict[tuple[int, int], np.ndarray] = {}
    faults = [sentence for _, sentence in found.wrong]
    wrong = {name for name, _ in found.wrong}
    for index in kept:
        entry = shapes.layers[index]
        name = entry.layer.name
        if weights is not None and name in weights and name not in wrong:
            # of a shared blob Caffe keeps what it copied last
            arrays.update(zip(entry.owners, (blob.array() for blob in weights.blobs(name))))
    missing = []
    for index in kept:
        entry = shapes.layers[index]
        if entry.layer.name not in wrong and not all(owner in arrays for owner in entry.owners):
            missing.append(f"'{entry.layer.name}' ({entry.layer.type}, line {entry.layer.line})")
    if missing:
        faults.append(f"no weights for {some(missing)}")
    if faults:
        raise _misfit(shapes, weights, faults, found.unused)
    return {
        index: [
            arrays[owner].reshape(shape)
            for owner, shape in zip(shapes.layers[index].owners, shapes.layers[index].params)
        ]
        for index in kept
    }


def unused_weights(shapes: NetShapes, weights) -> tuple[str, ...]:
    """Names of the layers with blobs in the file that no layer of the net takes."""
    return match(shapes, stored_blobs(weights)).unused if weights is not None else ()


def _misfit(shapes: NetShapes, weights, faults: list[str], unused: tuple) -> WeightsError:
    net = shapes.net.doc.path or "the net"
    if weights is None:
        return WeightsError(f"{net} has parameters but no weights are given: {faults[0]}")
    if unused:
        faults.append(f"weights that no layer takes: {some(unused)}")
    return WeightsError(
        f"{weights.path} does not belong to {net}:\n  "
        + "\n  ".join(faults[:8])
        + "\ngive the caffemodel that was trained with this prototxt"
    )
