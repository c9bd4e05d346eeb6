"""Before training begins: are the data there, do the weights belong to the net, is there space?"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import NetError, SurgeryError, TrainError, WeightsError
from ..files.caffemodel import Caffemodel
from ..net.layers import lookup
from ..net.match import match, stored_blobs
from ..net.net import Layer, Net
from ..net.shapes import NetShapes, infer

_SOURCES = (
    ("data_param", "source"),
    ("image_data_param", "source"),
    ("hdf5_data_param", "source"),
    ("window_data_param", "source"),
    ("transform_param", "mean_file"),
    ("infogain_loss_param", "source"),
)
_COPIES = 4
"""Caffemodels' worth of space that a training takes at least: weights and history, twice."""
_TRAINED = frozenset("Convolution Deconvolution InnerProduct Embed Scale PReLU LSTM RNN".split())


def missing_data(net: Net, phase: str, folder: Path) -> Iterator[str]:
    """What layers of a phase read and is not there, a sentence for each, from ``folder``."""
    for layer in net.phase(phase):
        for param, name in _SOURCES:
            given = layer.params(param).raw(name)
            if given and not (folder / given[-1].string()).exists():
                yield (
                    f"{layer.where()}: {name} '{given[-1].string()}' is not there, seen from "
                    f"{folder.absolute()}"
                )


def require_data(net: Net, phase: str, folder: Path) -> None:
    """TrainError that names every layer of the phase whose data are not there."""
    missing = list(missing_data(net, phase, folder))
    if missing:
        raise TrainError("\n  ".join(["data are missing:", *missing]))


def trained_shapes(net: Net, folder: Path) -> NetShapes | None:
    """Shapes of the TRAIN phase, from the text or from its data; None where neither tells."""
    from ..data.layers import open_feeds

    try:
        return infer(net, "TRAIN")
    except NetError:  # the shape of a database's images is only known to who opens it
        pass
    try:
        return infer(net, "TRAIN", open_feeds(net, "TRAIN", folder).shapes)
    except SurgeryError:  # LevelDB, a missing library, layers of a fork: Caffe itself will see
        return None


def require_weights(net: Net, weights: Caffemodel, shapes: NetShapes | None = None) -> list[str]:
    """Names of layers that begin untrained, as the weights have none for them.

    ``shapes`` are those of the TRAIN phase, where they are known.  WeightsError, with the layers,
    where the weights belong to another net: shapes differ, or no layer finds its own.
    """
    stored = stored_blobs(weights)
    wrong: list[str] = []
    if shapes is not None:
        found = match(shapes, stored)
        wrong = [sentence for _, sentence in found.wrong]
    learning = [layer for layer in net.phase("TRAIN") if _learns(layer)]
    without = [layer.name for layer in learning if layer.name not in stored]
    place = net.doc.path or "the net"
    if wrong:
        raise WeightsError("\n  ".join([f"{weights.path} does not fit {place}:", *wrong[:5]]))
    if learning and len(without) == len(learning):
        have = ", ".join(list(stored)[:5])
        raise WeightsError(
            f"{weights.path} holds weights of none of the layers of {place} "
            f"({', '.join(without[:5])}), but of {have}: the solver names another net"
        )
    return without


def require_space(folder: Path, weights: int) -> None:
    """TrainError where the disk has no room for snapshots of weights of so many bytes."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < _COPIES * weights:
        raise TrainError(
            f"{folder}: {free / 2**20:.2f} MiB are free, and snapshots of this net take "
            f"{_COPIES * weights / 2**20:.2f}: free some space or choose another folder with -o"
        )


def _learns(layer: Layer) -> bool:
    return layer.type in _TRAINED and lookup(layer.type) is not None
