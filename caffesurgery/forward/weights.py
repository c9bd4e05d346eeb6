"""Parameter blobs for a net to be run with: those of a caffemodel, or seeded ones.

Layers are matched by name and blobs by shape as in Caffe's CopyTrainedLayersFrom, and a blob that
layers share needs to be stored with one of them only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np

from ..net.shapes import LayerShapes, NetShapes
from ..net.weights import match_weights

Blobs = Mapping[int, Sequence[np.ndarray]]
"""Layer index -> its parameter blobs in the shapes that Caffe expects."""


def load(shapes: NetShapes, weights) -> Blobs:
    """The blobs of every layer from a caffemodel, as views on the file where they can be.

    Raises WeightsError that names the layers without weights and those whose blobs differ.
    """
    return match_weights(shapes, range(len(shapes.layers)), weights)


def seeded(shapes: NetShapes, seed: int = 0) -> Blobs:
    """Random blobs (float32) of a size that keeps activations alive, the same for the same seed.

    Matrices and kernels have the variance of He's initialisation, all else is between 0 and 1.
    """
    own: dict[tuple[int, int], np.ndarray] = {}
    for index, entry in enumerate(shapes.layers):
        made = _layer(entry, seed) if entry.params else []
        own.update(((index, number), blob) for number, blob in enumerate(made))
    return {
        index: [own[owner] for owner in entry.owners]
        for index, entry in enumerate(shapes.layers)
        if entry.params
    }


def _layer(entry: LayerShapes, seed: int) -> list[np.ndarray]:
    name = entry.layer.name.encode("utf-8", "surrogateescape")
    rng = np.random.default_rng([seed, crc32(name)])
    if entry.layer.type == "BatchNorm":
        mean, variance, factor = entry.params
        return [
            rng.random(mean, np.float32) - np.float32(0.5),
            rng.random(variance, np.float32) + np.float32(0.5),
            np.ones(factor, np.float32),
        ]
    if entry.layer.type == "BN":  # of a fork: one of its blobs may be a variance
        return [rng.random(shape, np.float32) + np.float32(0.5) for shape in entry.params]
    return [_blob(shape, rng) for shape in entry.params]


def _blob(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    blob = np.asarray(rng.random(shape, np.float32))
    if len(shape) > 1:
        blob -= np.float32(0.5)  # what is left has the variance 1/12
        blob *= np.float32(np.sqrt(24 / np.prod(shape[1:])))
    return blob
