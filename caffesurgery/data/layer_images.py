"""The images and labels that a net's own data layer gives, one after the other."""

from __future__ import annotations

import functools

import numpy as np

from ..errors import DataError
from ..net.layers import lookup
from ..net.net import Layer, Net
from .feed import Batches, Feed
from .images import Images
from .items import Items
from .layers import feeds_net, open_feed
from .pictures import PictureSource

_FED = ("Input", "MemoryData", "DummyData")
"""Layers whose data come from a program, or from nowhere."""
_JUDGES = ("Accuracy", "SoftmaxWithLoss")
_IMAGE_AXES = 3
_PIECE = 1024


def layer_images(net: Net, phase: str = "TEST") -> Images:
    """What the data layer of a net's ``phase`` gives, prepared as in the TEST phase.

    Labels are what Accuracy or a loss layer takes, or the layer's second top.  Raises DataError for
    a net without such a layer, with several, or whose data are not there.
    """
    path = net.doc.path or "<text>"
    layers = [layer for layer in net.phase(phase) if feeds_net(layer) and layer.type not in _FED]
    if not layers:
        strange = [
            f"'{layer.name}' is of type {layer.type}, which is not read here"
            for layer in net.phase(phase)
            if not layer.bottoms and layer.tops and lookup(layer.type) is None
        ]
        why = f" ({'; '.join(strange)})" if strange else ""
        raise DataError(
            f"{path}: has no layer with data of its own in the {phase} phase{why}; give images "
            "(to --images or --calibrate), or the train_val that has such a layer"
        )
    feeds = [open_feed(layer, "TEST") for layer in layers]
    image = _only_images(path, layers, feeds)
    feed = feeds[image[0]]
    first = feed.source.shapes[image[1]]

    def read(places: np.ndarray) -> np.ndarray:
        return feed.source.read(places, 0)[image[1]]

    label = _label(net, phase, feeds)
    if label is not None and label[0].size != feed.size:
        raise DataError(
            f"{feed.where}: gives {feed.size} images, and {label[0].where} {label[0].size} labels; "
            "expected one for each"
        )
    labels = None if label is None else functools.partial(_numbers, *label)
    items = Items(read, feed.size, first, np.float32)
    return Images(items, labels, path, feed.where)


def layer_shapes(net: Net, phase: str = "TEST") -> dict[str, tuple[int, ...]]:
    """Shapes of the blobs that the data layers of a phase give, as far as they have data."""
    layers = [layer for layer in net.phase(phase) if feeds_net(layer) and layer.type not in _FED]
    feeds = [open_feed(layer, "TEST") for layer in layers]
    return {top: shape for feed in feeds for top, shape in feed.shapes.items()}


def _only_images(path: str, layers: list[Layer], feeds: list[Batches]) -> tuple[int, int]:
    """Which layer, and which of its tops, gives images."""
    found = [
        (number, top)
        for number, feed in enumerate(feeds)
        for top, shape in enumerate(feed.shapes.values())
        if len(shape) == _IMAGE_AXES + 1
    ]
    if len(found) != 1:
        told = ", ".join(f"'{layers[number].tops[top]}'" for number, top in found) or "none"
        raise DataError(f"{path}: its data layers give the images {told}; expected one such blob")
    return found[0]


def _label(net: Net, phase: str, feeds: list[Batches]) -> tuple[Feed, int] | None:
    """The feed and the number of its top that has one number for each item."""
    tops = {
        name: (feed, top)
        for feed in feeds
        for top, (name, shape) in enumerate(feed.shapes.items())
        if len(shape) and np.prod(shape[1:], dtype=int) == 1
    }
    for layer in net.phase(phase):
        if layer.type in _JUDGES and len(layer.bottoms) > 1 and layer.bottoms[1] in tops:
            return tops[layer.bottoms[1]]
    return next(iter(tops.values()), None)


def _numbers(feed: Feed, top: int, places: np.ndarray) -> np.ndarray:
    """The labels of these items; DataError where they are no whole numbers."""
    if isinstance(feed.source, PictureSource):
        return feed.source.labels(places)
    pieces = [places[start : start + _PIECE] for start in range(0, len(places), _PIECE)]
    found = np.concatenate([feed.source.read(piece, 0)[top].reshape(-1) for piece in pieces])
    if (found != found.astype(np.int64)).any():
        raise DataError(f"{feed.where}: '{feed.tops[top]}' has labels that are no whole numbers")
    return found
