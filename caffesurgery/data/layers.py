"""Data layers to feeds: what a layer's text names is opened, or other data are put in its place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Union

from ..errors import DataError, suggest
from ..net.layers import lookup
from ..net.layers.data import Parameter
from ..net.layers.data import Source as SourceType
from ..net.net import Layer, Net
from .arrays import open_array_source
from .database import is_leveldb, is_lmdb, open_database
from .dummy import open_dummy
from .feed import Batches, Feed, Feeds, Source
from .folder import listed_files
from .hdf5 import HDF5Source
from .imagefiles import ImageFiles, open_image_files
from .npfile import is_numpy
from .pictures import Pictures, PictureSource
from .places import find
from .transform import read_transformer

Place = Union[str, os.PathLike]

_PLAIN = ("HDF5Data", "Input")
"""Layer types that hand numbers on as they are."""


def open_feed(
    layer: Layer, phase: str = "TRAIN", folder: Place | None = None, override: Place | None = None
) -> Batches:
    """What a data layer gives in a phase (TRAIN or TEST).

    Names in the layer are looked for from here, as Caffe does, and in ``folder`` (by default the
    prototxt's).  ``override`` is used instead of the layer's own data: a .npz with a key for each
    top (or ``images`` and ``labels``), a .npy, an LMDB, or a folder of image files with one folder
    for each class; its images go through the layer's transform_param.
    Raises DataError that names layer and line where data are missing or do not fit.
    """
    if layer.type == "DummyData" and override is None:
        return open_dummy(layer)
    place = Path(folder) if folder is not None else Path(layer.doc.path or ".").parent
    if override is None:
        source = _own(layer, phase, place)
    else:
        source = _overriding(layer, phase, place, Path(override))
    return Feed(layer.tops, source, _batch(layer), layer.where())


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


def _own(layer: Layer, phase: str, folder: Path) -> Source:
    """The source that the layer itself names."""
    if layer.type == "HDF5Data":
        return HDF5Source(layer, folder)
    if layer.type == "Data":
        return _prepared(layer, phase, folder, _database(layer, folder))
    if layer.type == "ImageData":
        params = layer.params("image_data_param")
        files = open_image_files(layer, folder)
        if params["rand_skip"] > files.size:
            raise DataError(
                f"{layer.where()}: rand_skip {params['rand_skip']} with {files.size} images; "
                "expected at most as many"
            )
        how = {"shuffle": params["shuffle"], "skip": params["rand_skip"]}
        return _prepared(layer, phase, folder, files, **how)
    why = "has no data of its own" if layer.type != "WindowData" else "is not read here"
    raise DataError(
        f"{layer.where()}: {layer.type} {why}; give data for '{layer.name}' as .npz with the keys "
        f"{', '.join(layer.tops)}"
    )


def _prepared(layer: Layer, phase: str, folder: Path, pictures: Pictures, **how) -> PictureSource:
    transformer = read_transformer(layer, phase, folder)
    source = PictureSource(pictures, transformer, len(layer.tops) > 1, **how)
    _check_fit(layer, source, pictures.name(0))
    return source


def _database(layer: Layer, folder: Path) -> Pictures:
    """The LMDB of a Data layer; LevelDB is refused, as are the colours that contradict."""
    params = layer.params("data_param")
    path = find(params["source"], folder, layer.where(), "source")
    if is_leveldb(path):
        raise DataError(
            f"{layer.where()}: source {path} is a LevelDB, which is not read here; write it as "
            "LMDB (convert_imageset --backend=lmdb) and say backend: LMDB, or give other data"
        )
    if params["backend"] != "LMDB":
        met = "backend: LEVELDB" if params.has("backend") else "no backend, which means LEVELDB"
        hint = f"{path} is an LMDB: say" if is_lmdb(path) else "write the data as LMDB and say"
        raise DataError(f"{layer.where()}: met {met}, which is not read here; {hint} backend: LMDB")
    return open_database(path, _colour(layer))


def _colour(layer: Layer) -> bool | None:
    """How encoded records are decoded: as they are, or as force_color and force_gray say."""
    transform = layer.params("transform_param")
    if transform["force_color"] and transform["force_gray"]:
        raise DataError(
            f"{layer.where()}: has both force_color and force_gray; expected one of them"
        )
    return True if transform["force_color"] else False if transform["force_gray"] else None


def _overriding(layer: Layer, phase: str, folder: Path, path: Path) -> Source:
    """Other data in the layer's place."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected data for {layer.where()}")
    if is_numpy(path):
        plain = layer.type in _PLAIN
        transformer = None if plain else read_transformer(layer, phase, folder)
        source = open_array_source(path, layer.tops, transformer)
        _check_fit(layer, source, str(path))
        return source
    if is_lmdb(path):
        return _prepared(layer, phase, folder, open_database(path, _colour(layer)))
    if path.is_dir():
        return _prepared(layer, phase, folder, _folder(layer, path))
    raise DataError(
        f"{path}: cannot take the place of {layer.where()}; expected a .npz or .npy file, an LMDB, "
        "or a folder of images"
    )


def _folder(layer: Layer, path: Path) -> ImageFiles:
    """A folder's images as the layer would read them."""
    listed = listed_files(path, None)
    if len(layer.tops) > 1 and any(label is None for _, label in listed):
        raise DataError(
            f"{path}: its images have no classes for '{layer.tops[1]}'; expected one folder for "
            "each class"
        )
    params = layer.params("image_data_param")
    sides = params["new_height"], params["new_width"]
    grey = not params["is_color"] or layer.params("transform_param")["force_gray"]
    return ImageFiles(listed, sides if all(sides) else None, not grey)


def _check_fit(layer: Layer, source: Source, name: str) -> None:
    """Refuse items that are not of the shape that the layer itself gives."""
    if len(source.shapes) != len(layer.tops):
        raise DataError(
            f"{name}: gives {len(source.shapes)} blobs, and {layer.where()} has the tops "
            f"{', '.join(layer.tops)}"
        )
    for top, said, met in zip(layer.tops, lookup(layer.type).tops(layer, []), source.shapes):
        if said is not None and said[1:] != met:
            raise DataError(
                f"{name}: items of {met} for '{top}', and {layer.where()} takes {said[1:]}"
            )


def _batch(layer: Layer) -> int:
    """The batch size that the layer states."""
    entry = lookup(layer.type)
    batch = entry.batch(layer)
    if batch is None and layer.type in ("Input", "DummyData"):
        said = entry.tops(layer, [])[0]
        batch = said[0] if said else None
    if not batch:
        raise DataError(f"{layer.where()}: {layer.type} states no batch size; expected 1 or more")
    return batch
