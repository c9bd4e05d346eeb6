"""Derivatives of the layers that a polish goes through: one function for each layer type.

A function is given a ``Pass`` (a layer, what it read and made, and the slopes of its tops: what is
minimised, derived by each of their values) and returns the slopes of its bottoms and of its blobs.
Only the first top of a layer is derived.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from ..cost.columns import columns_of, image_of
from ..forward import depthwise
from ..forward.convolution import is_direct
from ..forward.pooling import shares
from ..net.layers import lookup
from ..net.layers.base import axis_of
from ..net.layers.pooling import end_pads
from ..net.layers.window import Window, conv_sizes, conv_window, pool_window
from ..net.shapes import LayerShapes
from .onward import has_statistics
from .statistics import rates

Slopes = tuple[Sequence[np.ndarray], Sequence[np.ndarray]]
"""Of the bottoms, as far as they are asked for, and of the blobs."""


@dataclass(frozen=True, eq=False)
class Pass:
    """A layer on the way back; arrays are float32 and of the shapes that ``entry`` says.

    slope: of the first top; further: whether the bottoms' slopes are asked for, and ``learns``
    whether those of the blobs are
    """

    entry: LayerShapes
    blobs: Sequence[np.ndarray]
    bottoms: Sequence[np.ndarray]
    top: np.ndarray
    slope: np.ndarray
    further: bool
    learns: bool

    @property
    def bottom(self) -> np.ndarray:
        """The first bottom."""
        return self.bottoms[0]


Derivative = Callable[[Pass], Slopes]
_COLUMNS = 1 << 17
"""Numbers of patches that are laid out at a time: what stays in a processor's cache."""
_DERIVATIVES: dict[str, Derivative] = {}


def derives(*types: str):
    """Decorator: registers the derivative of layer types."""

    def register(function: Derivative) -> Derivative:
        _DERIVATIVES.update((name, function) for name in types)
        return function

    return register


def derivative_of(entry: LayerShapes) -> Derivative | None:
    """The derivative of a layer; None for one that has none here."""
    layer = entry.layer
    params = {
        "Eltwise": lambda: layer.params("eltwise_param")["operation"] == "SUM",
        "Pooling": lambda: layer.params("pooling_param")["pool"] in ("MAX", "AVE"),
        "LRN": lambda: layer.params("lrn_param")["norm_region"] == "ACROSS_CHANNELS",
        "Scale": lambda: len(layer.bottoms) == 1 and entry.params[0] == entry.bottoms[0][1:2],
        "BatchNorm": lambda: has_statistics(entry),
    }
    known = params.get(layer.type, lambda: True)()
    return _DERIVATIVES.get(layer.type) if known and len(layer.tops) == 1 else None


@derives("Convolution")
def _convolution(back: Pass) -> Slopes:
    if depthwise.fits(back.entry):
        return _depthwise(back)
    axis, window = conv_window(back.entry.layer, back.bottom.shape)
    items, channels = prod(back.bottom.shape[:axis]), back.bottom.shape[axis]
    group = lookup(back.entry.layer.type).groups(back.entry.layer, channels)
    kernel = back.blobs[0].reshape(group, len(back.blobs[0]) // group, -1)
    slope = back.slope.reshape(items, group, kernel.shape[1], -1)
    pixels = slope.shape[3]
    images = back.bottom.reshape(items, channels, *back.bottom.shape[axis + 1 :])
    before = np.empty_like(images) if back.further else None
    own = np.zeros(kernel.shape, np.float32)
    some = max(1, _COLUMNS // (kernel.shape[2] * group * pixels))
    for at in range(0, items, some):
        part = slice(at, at + some)
        if back.learns:
            seen = _columns(images[part], window).reshape(-1, group, kernel.shape[2], pixels)
            own += np.matmul(seen, slope[part].swapaxes(2, 3)).sum(0).swapaxes(1, 2)
        if before is not None:
            taps = kernel.swapaxes(1, 2)  # NumPy is slow at products of a column and a row
            made = taps * slope[part] if taps.shape[2] == 1 else np.matmul(taps, slope[part])
            _images(made, window, before[part])
    found = [own.reshape(back.blobs[0].shape)]
    found += [slope.sum((0, 3)).reshape(blob.shape) for blob in back.blobs[1:]]
    further = () if before is None else (before.reshape(back.bottom.shape),)
    return further, found if back.learns else ()


def _depthwise(back: Pass) -> Slopes:
    slope, found = np.ascontiguousarray(back.slope), []
    if back.learns:
        found = [depthwise.slopes_by_kernels(back.entry, back.blobs, back.bottom, slope)]
        found += [slope.sum((0, 2, 3)).reshape(blob.shape) for blob in back.blobs[1:]]
    before = [depthwise.slopes_by_images(back.entry, back.blobs, slope)] if back.further else []
    return before, found


def _columns(images: np.ndarray, window: Window) -> np.ndarray:
    """What each place of a kernel meets of images (b, C, *spatial), one after the other."""
    if is_direct(window):
        return images
    sizes = conv_sizes(images.shape[2:], window)
    planes = images.reshape(-1, *images.shape[2:])
    columns = np.empty((len(planes) * prod(window.kernel), prod(sizes)), np.float32)
    columns_of(planes, columns, window.kernel, window.pad, window.stride, window.dilation)()
    return columns


def _images(columns: np.ndarray, window: Window, images: np.ndarray) -> None:
    """The sums over columns, put into ``images`` (b, C, *spatial)."""
    if is_direct(window):
        np.copyto(images, columns.reshape(images.shape))
        return
    planes = images.reshape(-1, *images.shape[2:])
    flat = columns.reshape(len(planes) * prod(window.kernel), -1)
    image_of(flat, planes, window.kernel, window.pad, window.stride, window.dilation)()


@derives("InnerProduct")
def _inner_product(back: Pass) -> Slopes:
    params = back.entry.layer.params("inner_product_param")
    axis = axis_of(back.entry.layer, back.bottom.shape, params["axis"])
    rows = back.bottom.reshape(prod(back.bottom.shape[:axis]), -1)
    slope = back.slope.reshape(len(rows), -1)
    matrix = back.blobs[0].T if params["transpose"] else back.blobs[0]
    found: list[np.ndarray] = []
    if back.learns:
        own = rows.T @ slope if params["transpose"] else slope.T @ rows
        found = [own, *(slope.sum(0).reshape(blob.shape) for blob in back.blobs[1:])]
    return ((slope @ matrix).reshape(back.bottom.shape),) if back.further else (), found


@derives("BatchNorm")
def _batch_norm(back: Pass) -> Slopes:
    rate = rates(back.blobs, back.entry.layer.params("batch_norm_param")["eps"])
    return (back.slope * _channels(rate, back.slope),), ()


@derives("Scale")
def _scale(back: Pass) -> Slopes:
    over = tuple(axis for axis in range(back.slope.ndim) if axis != 1)
    found: list[np.ndarray] = []
    if back.learns:
        found = [(back.slope * back.bottom).sum(over), back.slope.sum(over)]
    before = (back.slope * _channels(back.blobs[0], back.slope),) if back.further else ()
    return before, found[: len(back.blobs)]


def _channels(factor: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.asarray(factor, np.float32).reshape(-1, *(1,) * (like.ndim - 2))


@derives("ReLU")
def _relu(back: Pass) -> Slopes:
    below = np.float32(back.entry.layer.params("relu_param")["negative_slope"])
    return (np.where(back.bottom > 0, back.slope, below * back.slope),), ()


@derives("Sigmoid")
def _sigmoid(back: Pass) -> Slopes:
    return (back.slope * back.top * (1 - back.top),), ()


@derives("TanH")
def _tanh(back: Pass) -> Slopes:
    return (back.slope * (1 - back.top**2),), ()


@derives("Dropout", "Flatten", "Reshape")
def _as_it_is(back: Pass) -> Slopes:
    """In the TEST phase Dropout does nothing."""
    return (back.slope.reshape(back.bottom.shape),), ()


@derives("Eltwise")
def _sum(back: Pass) -> Slopes:
    params = back.entry.layer.params("eltwise_param")
    shares_ = list(params["coeff"]) or [1.0] * len(back.bottoms)
    return [np.float32(share) * back.slope for share in shares_], ()


@derives("Concat")
def _concat(back: Pass) -> Slopes:
    params = back.entry.layer.params("concat_param")
    axis = params["concat_dim"] if params.has("concat_dim") else params["axis"]
    ends = np.cumsum([bottom.shape[axis] for bottom in back.bottoms])[:-1]
    return np.split(back.slope, ends, axis), ()


@derives("Pooling")
def _pooling(back: Pass) -> Slopes:
    """Of a maximum it goes to the first place in the window that has it, as in Caffe."""
    window = pool_window(back.entry.layer, back.bottom.shape)
    spatial, sizes = back.bottom.shape[2:], back.top.shape[2:]
    greatest = back.entry.layer.params("pooling_param")["pool"] == "MAX"
    around = ((0, 0), (0, 0), *zip(window.pad, end_pads(spatial, window, sizes)))
    lowest = np.finfo(np.float32).min
    bottom = np.pad(back.bottom, around, constant_values=lowest) if greatest else None
    before = np.zeros([n + sum(pads) for n, pads in zip(back.bottom.shape, around)], np.float32)
    slope = back.slope.copy() if greatest else back.slope * shares(spatial, window, sizes)
    for tap in np.ndindex(*window.kernel):
        place = (..., *(
            slice(begin, begin + (count - 1) * stride + 1, stride)
            for begin, count, stride in zip(tap, sizes, window.stride)
        ))  # fmt: skip
        if bottom is None:
            before[place] += slope
            continue
        met = bottom[place] == back.top
        before[place] += np.where(met, slope, np.float32(0))
        slope[met] = 0
    inside = (..., *(slice(pad, pad + size) for pad, size in zip(window.pad, spatial)))
    return (np.ascontiguousarray(before[inside]),), ()


@derives("LRN")
def _lrn(back: Pass) -> Slopes:
    """y = x s^-beta, s = k + alpha / n (sum of x^2 over n channels around)."""
    params = back.entry.layer.params("lrn_param")
    size, beta = params["local_size"], np.float32(params["beta"])
    rate = np.float32(params["alpha"] / size)
    base = rate * _nearby(np.square(back.bottom), size) + np.float32(params["k"])
    across = _nearby(back.slope * back.top / base, size)
    return (back.slope * base**-beta - 2 * rate * beta * back.bottom * across,), ()


def _nearby(values: np.ndarray, size: int) -> np.ndarray:
    """The sum over ``size`` channels around each."""
    half, count = size // 2, values.shape[1]
    around = ((0, 0), (half, half), *((0, 0),) * (values.ndim - 2))
    wide = np.pad(values, around)
    return sum(wide[:, k : k + count] for k in range(size))
