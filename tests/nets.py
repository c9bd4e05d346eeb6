"""Small nets with seeded weights for the tests, written with the package's own writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from caffesurgery.files import caffemodel
from caffesurgery.net.net import parse_net
from caffesurgery.net.shapes import infer
from caffesurgery.zoo import layer_weights

SMALL = """# a comment that must survive
name: "small"
input: "data"  input_dim: 2 input_dim: 6 input_dim: 13 input_dim: 11

layer {
  name: "conv1"
  type: "Convolution"
  bottom: "data"
  top: "conv1"
  param { lr_mult: 1 decay_mult: 1 }
  param { lr_mult: 2 decay_mult: 0 }
  convolution_param {
    num_output: 8
    kernel_size: 3  # square
    stride: 2
    pad: 1
    weight_filler { type: "xavier" }
    bias_filler { type: "constant" value: 0.5 }
  }
}
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer {
  name: "conv2"
  type: "Convolution"
  bottom: "conv1"
  top: "conv2"
  convolution_param {
    num_output: 12 group: 2 kernel_h: 3 kernel_w: 5 pad_h: 2 pad_w: 4 dilation: 2
    engine: CAFFE
  }
}
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
layer {
  name: "fc"
  type: "InnerProduct"
  bottom: "conv2"
  top: "fc"
  inner_product_param { num_output: 7 }
}
layer {
  name: "score"
  type: "InnerProduct"
  bottom: "fc"
  top: "score"
  inner_product_param { num_output: 5 bias_term: false }
}
# the end
"""


def write_net(folder: Path, text: str = SMALL, name: str = "deploy", inputs=None, dialect="V2"):
    """Write ``text`` and seeded weights for it; returns the two paths."""
    folder.mkdir(parents=True, exist_ok=True)
    prototxt, weights = folder / f"{name}.prototxt", folder / f"{name}.caffemodel"
    prototxt.write_bytes(text if isinstance(text, bytes) else text.encode())
    shapes = infer(parse_net(text, str(prototxt)), "TEST", inputs)
    layers = [
        caffemodel.NewLayer(
            entry.layer.name,
            entry.layer.type,
            entry.layer.bottoms,
            entry.layer.tops,
            layer_weights(entry, seed=1),
        )
        for entry in shapes.layers
        if entry.params
    ]
    caffemodel.write(weights, "small", layers, dialect=dialect, force=True)
    return prototxt, weights


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference over the largest value of ``b``."""
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))
