"""Data layers to feeds: what a layer's text names is opened, or other data are put in its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import DataError, suggest
from ..net.layers import lookup
from ..net.layers.data import Parameter
from ..net.layers.data import Source as SourceType
from ..net.net import Layer, Net
from .arrays import open_array_source
from .feed import Feed, Feeds, Source
from .hdf5 import HDF5Source
from .npfile import is_numpy
from .transform import read_transformer

Place = "str | os.PathLike"

_PLAIN = ("HDF5Data", "Input")
"""Layer types that hand numbers on as they are."""


def open_feed(
    layer: Layer, phase: str = "TRAIN", folder: Place | None = None, override: Place | None = None
) -> Feed:
    """What a data layer gives in a phase (TRAIN or TEST).

    Names in the layer are looked for from here, as Caffe does, and in ``folder`` (by default the
    prototxt's).  ``override`` is used instead of the layer's own data: a .npz with a key for each
    top (or ``images`` and ``labels``) or a .npy; its images go through the layer's transform_param.
    Raises DataError that names layer and line where data are missing or do not fit.
    """
    place = Path(folder) if folder is not None else Path(layer.doc.path or ".").parent
    source = _overriding(layer, phase, place, override) if override else _own(layer, place)
    return Feed(layer.tops, source, _batch(layer, source), layer.where())


def open_feeds(
    net: Net,
    phase: str = "TRAIN",
    folder: Place | None = None,
    overrides: Mapping[str, Place] | None = None,
) -> Feeds:
    """The feeds of all data layers that take part in a phase; ``overrides`` by layer name."""
    layers = [layer for layer in net.phase(phase) if feeds_net(layer)]
    given = dict(overrides or {})
    feeds = tuple(open_feed(layer, phase, folder, given.pop(layer.name, None)) for layer in layers)
    for name in given:
        raise DataError(
            f"data are given for '{name}', which is no data layer of the {phase} phase; "
            f"{suggest(name, [layer.name for layer in layers])}"
        )
    return Feeds(feeds)


def feeds_net(layer: Layer) -> bool:
    """Whether a layer is one that data come from."""
    entry = lookup(layer.type)
    return isinstance(entry, SourceType) and not isinstance(entry, Parameter)


def _own(layer: Layer, folder: Path) -> Source:
    """The source that the layer itself names."""
    if layer.type == "HDF5Data":
        return HDF5Source(layer, folder)
    raise DataError(
        f"{layer.where()}: {layer.type} has no data of its own that can be read here; give them as "
        f".npz with the keys {', '.join(layer.tops)}"
    )


def _overriding(layer: Layer, phase: str, folder: Path, path: Place) -> Source:
    """Other data in the layer's place."""
    if not is_numpy(path):
        raise DataError(
            f"{path}: cannot take the place of {layer.where()}; expected a .npz or .npy file"
        )
    plain = layer.type in _PLAIN
    source = open_array_source(
        path, layer.tops, None if plain else read_transformer(layer, phase, folder)
    )
    entry = lookup(layer.type)
    for top, said, met in zip(layer.tops, entry.tops(layer, []), source.shapes):
        if said is not None and said[1:] != met:
            raise DataError(
                f"{path}: items of {met} for '{top}', and {layer.where()} takes {said[1:]}"
            )
    return source


def _batch(layer: Layer, source: Source) -> int:
    """The batch size that the layer states."""
    entry = lookup(layer.type)
    batch = entry.batch(layer)
    if batch is None and layer.type == "Input":
        said = entry.tops(layer, [])[0]
        batch = said[0] if said else None
    if not batch:
        raise DataError(f"{layer.where()}: {layer.type} states no batch size; expected 1 or more")
    return batch
