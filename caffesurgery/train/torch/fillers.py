"""Weight fillers of Caffe: the first values of parameter blobs, from a seed.

The distributions are those of filler.hpp of BVLC Caffe 1.0; the random numbers are NumPy's, drawn
for each blob from the seed, the layer's name and the blob's number, so that a layer's weights do
not depend on the layers before it.
"""

from __future__ import annotations

from math import ceil, sqrt
from zlib import crc32

import numpy as np

from ...errors import TrainError
from ...net.shapes import LayerShapes

_BOTH = ("weight_filler", "bias_filler")
_MESSAGES = {
    "Convolution": ("convolution_param", _BOTH),
    "ConvolutionDepthwise": ("convolution_param", _BOTH),
    "DepthwiseConvolution": ("convolution_param", _BOTH),
    "Deconvolution": ("convolution_param", _BOTH),
    "InnerProduct": ("inner_product_param", _BOTH),
    "Embed": ("embed_param", _BOTH),
    "Scale": ("scale_param", ("filler", "bias_filler")),
    "Bias": ("bias_param", ("filler",)),
    "PReLU": ("prelu_param", ("filler",)),
    "Normalize": ("norm_param", ("scale_filler",)),
}
"""Where a layer type's fillers stand, blob by blob."""

_FIRST = {"Scale": 1.0, "Normalize": 1.0, "PReLU": 0.25}
"""What fills the first blob where the text names no filler; 0 for all other types."""


def filled(entry: LayerShapes, seed: int) -> list[np.ndarray]:
    """The first float32 values of a layer's blobs; TrainError names an unknown filler."""
    fillers = _fillers(entry)
    return [
        _fill(entry, fillers[number], shape, _generator(entry, number, seed))
        for number, shape in enumerate(entry.params or ())
    ]


def _generator(entry: LayerShapes, number: int, seed: int) -> np.random.Generator:
    name = entry.layer.name.encode("utf-8", "surrogateescape")
    return np.random.default_rng([seed, crc32(name), number])


def _fillers(entry: LayerShapes) -> list:
    """For each blob its filler's message, or the number that fills it."""
    layer, count = entry.layer, len(entry.params or ())
    if layer.type in ("LSTM", "RNN"):
        params = layer.params("recurrent_param")
        biases = {1} if layer.type == "LSTM" else {1, count - 1}
        return [params["bias_filler" if i in biases else "weight_filler"] for i in range(count)]
    if layer.type not in _MESSAGES:
        return [0.0] * count
    message, names = _MESSAGES[layer.type]
    params = layer.params(message)
    fillers = [params[name] if params.has(name) else 0.0 for name in names]
    if not params.has(names[0]):
        fillers[0] = _FIRST.get(layer.type, 0.0)
    # a Scale of two bottoms learns its term alone
    two = layer.type == "Scale" and len(layer.bottoms) == 2
    return fillers[1:] if two else fillers[:count]


def _fill(entry: LayerShapes, filler, shape, rng: np.random.Generator) -> np.ndarray:
    if isinstance(filler, float):
        return np.full(shape, filler, np.float32)
    kind = filler["type"]
    if kind not in _FILLERS:
        raise TrainError(
            f"{filler.where()}: filler type '{kind}' is unknown; expected one of "
            f"{', '.join(_FILLERS)}"
        )
    if filler["sparse"] != -1 and kind != "gaussian":
        raise TrainError(f"{filler.where()}: sparse goes with filler type 'gaussian' only")
    return np.asarray(_FILLERS[kind](filler, tuple(shape), rng), np.float32).reshape(shape)


def _gaussian(filler, shape, rng) -> np.ndarray:
    values = rng.standard_normal(shape, np.float32) * filler["std"] + filler["mean"]
    if filler["sparse"] >= 0:
        values = values * (rng.random(shape, np.float32) < filler["sparse"] / shape[0])
    return values


def _uniform(filler, shape, rng) -> np.ndarray:
    low, high = filler["min"], filler["max"]
    return low + (high - low) * rng.random(shape, np.float32)


def _fan(filler, shape) -> float:
    """Inputs of a number, outputs, or their average, as ``variance_norm`` says."""
    count = int(np.prod(shape))
    fan_in = count // shape[0]
    fan_out = count // shape[1] if len(shape) > 1 else count
    choices = {"FAN_IN": fan_in, "FAN_OUT": fan_out, "AVERAGE": (fan_in + fan_out) / 2}
    return choices[filler["variance_norm"]]


def _xavier(filler, shape, rng) -> np.ndarray:
    bound = sqrt(3 / _fan(filler, shape))
    return bound * (2 * rng.random(shape, np.float32) - 1)


def _msra(filler, shape, rng) -> np.ndarray:
    return sqrt(2 / _fan(filler, shape)) * rng.standard_normal(shape, np.float32)


def _bilinear(filler, shape, rng) -> np.ndarray:
    if len(shape) != 4 or shape[2] != shape[3]:
        raise TrainError(
            f"{filler.where()}: filler type 'bilinear' takes square kernels, met {shape}"
        )
    size = shape[3]
    factor = ceil(size / 2)
    centre = (size - 1) / (2 * factor)
    line = 1 - np.abs(np.arange(size) / factor - centre)
    return np.broadcast_to(np.outer(line, line), shape)


def _unitball(filler, shape, rng) -> np.ndarray:
    rows = rng.random((shape[0], int(np.prod(shape[1:]))), np.float32)
    return rows / rows.sum(1, keepdims=True)


_FILLERS = {
    "constant": lambda filler, shape, rng: np.full(shape, filler["value"], np.float32),
    "gaussian": _gaussian,
    "uniform": _uniform,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
    "positive_unitball": _unitball,
}
