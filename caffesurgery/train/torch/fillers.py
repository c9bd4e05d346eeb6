"""The first values of parameter blobs: which filler each has, and its numbers from a seed.

The random numbers are drawn for each blob from the seed, the layer's name and the blob's number, so
that a layer's weights do not depend on the layers before it.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np

from ...data.fillers import fill
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
    """The first float32 values of a layer's blobs; NetError names an unknown filler."""
    fillers = _fillers(entry)
    return [
        _fill(fillers[number], shape, _generator(entry, number, seed))
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


def _fill(filler, shape, rng: np.random.Generator) -> np.ndarray:
    if isinstance(filler, float):
        return np.full(shape, filler, np.float32)
    return fill(filler, tuple(shape), rng)
