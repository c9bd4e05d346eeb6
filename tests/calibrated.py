"""Small nets for the tests of calibration: as values, with seeded weights and images."""

from __future__ import annotations

import numpy as np

from caffesurgery import forward
from caffesurgery.calibration import Shaped, sample_of
from caffesurgery.net.net import parse_net
from caffesurgery.net.shapes import infer

INPUT = """layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 1 dim: 4 dim: 9 dim: 8 } } }
"""

LINEAR = (
    INPUT
    + """
layer { name: "grouped" type: "Convolution" bottom: "data" top: "grouped" convolution_param {
  num_output: 6 group: 2 kernel_h: 3 kernel_w: 2 pad_h: 2 pad_w: 0 stride_h: 1 stride_w: 2
  dilation: 2 } }
layer { name: "point" type: "Convolution" bottom: "grouped" top: "point"
  convolution_param { num_output: 5 kernel_size: 1 } }
layer { name: "fc" type: "InnerProduct" bottom: "point" top: "fc"
  inner_product_param { num_output: 3 } }
"""
)

BLOCK = (
    INPUT
    + """
layer { name: "first" type: "Convolution" bottom: "data" top: "first"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 bias_term: false } }
layer { name: "norm" type: "BatchNorm" bottom: "first" top: "first" }
layer { name: "scale" type: "Scale" bottom: "first" top: "first" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "first" top: "first" }
layer { name: "second" type: "Convolution" bottom: "first" top: "second"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 bias_term: false } }
layer { name: "norm2" type: "BatchNorm" bottom: "second" top: "second" }
layer { name: "sum" type: "Eltwise" bottom: "first" bottom: "second" top: "sum" }
layer { name: "relu2" type: "ReLU" bottom: "sum" top: "sum" }
layer { name: "third" type: "Convolution" bottom: "sum" top: "third"
  convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "relu3" type: "ReLU" bottom: "third" top: "third" }
layer { name: "fc" type: "InnerProduct" bottom: "third" top: "fc"
  inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
)
"""A residual block whose shortcut is read twice, then layers without BatchNorm; most in place."""


def net_of(text: str):
    """(Shapes for any batch, seeded blobs) of a net."""
    net = parse_net(text, "net.prototxt")
    shaped = Shaped(lambda batch: infer(net, "TEST", None, batch))
    return shaped, dict(forward.seeded(shaped(1)))


def images(count: int, seed: int = 0, shape=(4, 9, 8)) -> np.ndarray:
    """Images whose neighbouring pixels and channels have to do with each other."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((count, 2, *shape[1:]), np.float32)
    mixing = np.random.default_rng(99).standard_normal((shape[0], 2))
    mixed = np.einsum("nchw,dc->ndhw", coarse, mixing)
    mixed = mixed + np.roll(mixed, 1, 3) + 0.2 * rng.standard_normal(mixed.shape)
    return mixed.astype(np.float32)


def sample(count: int, seed: int = 0, batch: int = 4):
    """``images`` as a sample."""
    return sample_of({"data": images(count, seed)}, batch)
