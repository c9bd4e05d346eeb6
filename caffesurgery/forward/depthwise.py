"""Depthwise convolutions and their derivatives without columns, by the C extension ``_depthwise``.

A column of a depthwise kernel is used for one product only, so that writing columns takes several
times as long as the products.  What times a net writes them all the same, as Caffe does; what only
wants the values of layers comes here.  Where the extension was not built, or with
``CAFFESURGERY_PURE=1`` in the environment, no layer ``fits`` and all is done by columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..compiled import extension
from ..net.layers import lookup
from ..net.layers.window import conv_window
from ..net.shapes import LayerShapes

_depthwise = extension("_depthwise")
backend = "columns" if _depthwise is None else "C"


def fits(entry: LayerShapes) -> bool:
    """Whether a layer is a depthwise convolution over planes, with one kernel for each channel."""
    kinds = ("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise")
    if _depthwise is None or entry.layer.type not in kinds or len(entry.bottoms) != 1:
        return False
    (bottom,), (top,) = entry.bottoms, entry.tops
    axis, window = conv_window(entry.layer, bottom)
    if axis != 1 or len(window.kernel) != 2 or 0 in (*bottom, *top):
        return False
    return lookup(entry.layer.type).groups(entry.layer, bottom[1]) == bottom[1] == top[1]


def make(entry: LayerShapes, blobs: Sequence[np.ndarray], bottom: np.ndarray, top: np.ndarray):
    """Fills the top (N, C, OH, OW) of a layer that ``fits``; arrays are float32, C-contiguous."""
    _depthwise.tops(bottom, _kernels(blobs[0]), top, *_window(entry))
    for bias in blobs[1:]:
        np.add(top, bias.reshape(-1, 1, 1), top)


def slopes_by_images(entry: LayerShapes, blobs: Sequence[np.ndarray], slope: np.ndarray):
    """The slopes by the bottom (N, C, H, W), from those by the top."""
    found = np.empty(entry.bottoms[0], np.float32)
    _depthwise.images(found, _kernels(blobs[0]), slope, *_window(entry))
    return found


def slopes_by_kernels(entry: LayerShapes, blobs: Sequence[np.ndarray], bottom, slope: np.ndarray):
    """The slopes by the kernel, of its shape, from those by the top; summed over items."""
    found = np.empty(blobs[0].shape, np.float32)
    _depthwise.kernels(bottom, _kernels(found), slope, *_window(entry))
    return found


def _kernels(blob: np.ndarray) -> np.ndarray:
    return np.require(blob, np.float32, "CA").reshape(-1, *blob.shape[-2:])


def _window(entry: LayerShapes) -> tuple:
    _, window = conv_window(entry.layer, entry.bottoms[0])
    return tuple(window.pad), tuple(window.stride), tuple(window.dilation)
