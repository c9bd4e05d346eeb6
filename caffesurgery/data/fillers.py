"""Caffe's fillers: what blobs start from, and what DummyData gives.

The distributions are those of BVLC Caffe's filler.hpp; the numbers are NumPy's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..errors import NetError, suggest
from ..net.params import Params

Shape = tuple[int, ...]


def fill(filler: Params, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """A float32 array of ``shape`` as a FillerParameter says; NetError for an unknown type.

    Fans are counted as Caffe does: shape[0] outputs, and shape[1] inputs of the rest.
    """
    kind = filler["type"]
    if kind not in _FILLERS:
        raise NetError(f"{filler.where()}: unknown filler '{kind}'; {suggest(kind, _FILLERS)}")
    if filler["sparse"] != -1 and kind != "gaussian":
        raise NetError(f"{filler.where()}: sparse is for gaussian fillers, and this is {kind}")
    return np.ascontiguousarray(_FILLERS[kind](filler, shape, rng), np.float32)


def _constant(filler: Params, shape: Shape, rng) -> np.ndarray:
    return np.full(shape, filler["value"], np.float32)


def _uniform(filler: Params, shape: Shape, rng) -> np.ndarray:
    return _between(filler["min"], filler["max"], shape, rng)


def _gaussian(filler: Params, shape: Shape, rng) -> np.ndarray:
    made = rng.standard_normal(shape, np.float32)
    made = made * np.float32(filler["std"]) + np.float32(filler["mean"])
    if filler["sparse"] >= 0:
        made *= rng.random(shape) < filler["sparse"] / shape[0]
    return made


def _positive_unitball(filler: Params, shape: Shape, rng) -> np.ndarray:
    made = rng.random((shape[0], math.prod(shape[1:])), np.float32)
    return (made / made.sum(axis=1, keepdims=True)).reshape(shape)


def _xavier(filler: Params, shape: Shape, rng) -> np.ndarray:
    bound = math.sqrt(3 / _fan(filler, shape))
    return _between(-bound, bound, shape, rng)


def _msra(filler: Params, shape: Shape, rng) -> np.ndarray:
    return rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / _fan(filler, shape)))


def _bilinear(filler: Params, shape: Shape, rng) -> np.ndarray:
    if len(shape) != 4 or shape[2] != shape[3]:
        raise NetError(
            f"{filler.where()}: a bilinear filler is for a blob N x C x K x K, and this one is "
            f"{' x '.join(map(str, shape))}"
        )
    half = math.ceil(shape[3] / 2)
    centre = (shape[3] - 1) / (2 * half)
    weights = 1 - np.abs(np.arange(shape[3]) / half - centre)
    return np.broadcast_to(weights[:, None] * weights, shape)


def _between(low: float, high: float, shape: Shape, rng) -> np.ndarray:
    return rng.random(shape, np.float32) * np.float32(high - low) + np.float32(low)


def _fan(filler: Params, shape: Shape) -> float:
    count = math.prod(shape)
    into, out = count // shape[0], count // shape[1] if len(shape) > 1 else count
    return {"FAN_IN": into, "FAN_OUT": out}.get(filler["variance_norm"], (into + out) / 2)


_FILLERS: dict[str, Callable] = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
}
