"""Images and labels from NumPy files, folders, databases or a net's own data layer, for any net.

In come images N x C x H x W (uint8 or float); out come float32 batches after what Caffe's
DataTransformer does: channels swapped, mean subtracted, scaled, cropped to the centre.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Union

import numpy as np

from ..errors import DataError
from ..files.digest import sha256
from ..net.net import read_net
from .database import DATA_FILE, is_lmdb, open_database
from .decode import look
from .folder import listed_files
from .imagefiles import ImageFiles
from .items import Items, held
from .npfile import is_numpy, open_numpy
from .pictures import Pictures
from .resize import resize as resized

Source = Union[str, os.PathLike, np.ndarray]

_AXES = 4
_NETS = (".prototxt", ".pbtxt")


@dataclass(frozen=True)
class Images:
    """``images`` N x C x H x W with ``labels`` (N integers, or None), and where they came from.

    ``given`` are the labels, or what reads those of the places that it is asked for.
    ``prepared`` is the place of the data layer that has prepared them already, "" for none;
    ``blue_first`` says that they are from a database, as Caffe writes them.
    """

    images: np.ndarray | Items
    given: np.ndarray | Callable[[np.ndarray], np.ndarray] | None
    name: str
    prepared: str = ""
    blue_first: bool = False

    def first(self, count: int | None) -> Images:
        """Its first ``count`` images; all of them where it has no more, or with None."""
        if count is None:
            return self
        given = self.given[:count] if isinstance(self.given, np.ndarray) else self.given
        lazy = isinstance(self.images, Items)
        images = self.images.first(count) if lazy else self.images[:count]
        return replace(self, images=images, given=given)

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """The labels, which are read now where that was not done; None where there are none."""
        if not callable(self.given):
            return self.given
        return _check_labels(self.given(np.arange(len(self.images))), len(self.images))

    def __reduce__(self):
        return Images, (self.images, self.labels, self.name, self.prepared, self.blue_first)


@dataclass(frozen=True)
class Preprocessing:
    """What is done to images before a net sees them, in this order.

    ``bgr`` turns the channels round; ``mean`` (one number, one for each channel, or an image, in
    the net's channel order) is subtracted; ``scale`` multiplies; ``crop`` takes the centre.  A mean
    image is as large as the images, or as what is cut from them.
    """

    mean: np.ndarray | None = None
    scale: float = 1.0
    bgr: bool = False
    crop: bool = False

    def __call__(self, images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """``images`` (n x C x H x W) as float32 for a net input of ``shape`` (C, H, W)."""
        out = np.asarray(images, np.float32)
        if self.bgr:
            out = out[:, ::-1]
        late = self.mean is not None and self.mean.ndim == 3 and self.mean.shape[1:] != (1, 1)
        late = late and self.mean.shape[1:] != out.shape[2:]
        if self.mean is not None and not late:
            out = out - self.mean
        if self.crop:
            top, left = ((have - want) // 2 for have, want in zip(out.shape[2:], shape[1:]))
            out = out[:, :, top : top + shape[1], left : left + shape[2]]
        if late:
            out = out - self.mean
        return np.ascontiguousarray(out * np.float32(self.scale), np.float32)

    def check(self, images: Images, shape: tuple[int, ...]) -> None:
        """Refuse images that do not come out as ``shape`` (C, H, W), and a mean that does not fit.

        Raises DataError that says what was met and what the net takes.
        """
        have = images.images.shape[1:]
        if have[0] != shape[0]:
            hint = "; they seem to be N x H x W x C: transpose them" if have[2] == shape[0] else ""
            raise _misfit(images, shape, f"their channels differ from its {shape[0]}{hint}")
        if not self.crop and have[1:] != tuple(shape[1:]):
            larger = all(a >= b for a, b in zip(have[1:], shape[1:]))
            hint = "cut them to the centre with --crop, or resize them" if larger else "resize them"
            raise _misfit(images, shape, hint)
        if any(a < b for a, b in zip(have[1:], shape[1:])):
            raise _misfit(images, shape, "they are too small to be cropped; resize them")
        if self.mean is not None and self.mean.ndim == 3:
            fits = [(1, 1), have[1:], tuple(shape[1:])]
            if self.mean.shape[0] not in (1, shape[0]) or self.mean.shape[1:] not in fits:
                raise DataError(
                    f"the mean has shape {show(self.mean.shape)}, and fits neither the images "
                    f"({show(have)}) nor the net's input ({show(shape)})"
                )


def open_images(
    source: Source,
    labels: Source | None = None,
    resize: tuple[int, int] | None = None,
    phase: str = "TEST",
) -> Images:
    """Images from an array, a .npy, a .npz, a folder, an LMDB, or the data layer of a prototxt.

    Of a .npz it is the key ``images``, else its first array. A folder has image files (RGB or
    grey); ``labels`` may then be a list with lines ``path class``, and without it folders inside
    are the classes.  An LMDB has images as Caffe reads them (blue first), with labels.  All are
    brought to ``resize`` (height, width).  A prototxt means the data layer of its ``phase``, whose
    images are cut and prepared as in the TEST phase (see ``Images.prepared``).

    Labels come from ``labels`` in the same forms (key ``labels``), or else from the source itself.
    Large sets are decoded as they are read.  Raises DataError for what cannot be that.
    """
    from .layer_images import layer_images  # which gives Images

    if isinstance(source, np.ndarray):
        return _from_arrays(source, labels, resize)
    if is_lmdb(source):
        found = _from_pictures(open_database(source), str(source), resize)
        found = replace(found, blue_first=True)
    elif os.path.isdir(source):
        found = _from_folder(source, labels, resize)
        labels = labels if _are_arrays(labels) else None
    elif str(source).endswith(_NETS) and os.path.isfile(source):
        if resize:
            raise DataError(f"{source}: says itself how its images are resized; leave out --resize")
        found = layer_images(read_net(source), phase)
    elif is_numpy(source) or os.path.exists(source):
        return _from_arrays(source, labels, resize)
    else:
        raise DataError(
            f"{source}: no such file or folder; expected images: a folder of them, a .npy or .npz, "
            "an LMDB, or a prototxt with a data layer"
        )
    if labels is not None:
        given = _arrays(labels, "labels")["labels"]
        found = replace(found, given=_check_labels(given, len(found.images)))
    return found


def _from_arrays(source: Source, labels: Source | None, resize) -> Images:
    name = "the images" if isinstance(source, np.ndarray) else str(source)
    arrays = _arrays(source, "images")
    images = arrays["images"]
    if images.ndim != _AXES or not images.size or images.dtype.kind not in "uif":
        raise DataError(
            f"{name}: met {images.dtype} numbers of shape {show(images.shape)}; expected images "
            "N x C x H x W, as uint8 or float"
        )
    if resize and images.shape[2:] != tuple(resize):
        images = np.stack([_brought(image, resize, name) for image in images])
    found = arrays.get("labels") if labels is None else _arrays(labels, "labels")["labels"]
    return Images(images, None if found is None else _check_labels(found, len(images)), name)


def _from_folder(source, labels: Source | None, resize: tuple[int, int] | None) -> Images:
    listed = listed_files(source, None if _are_arrays(labels) else labels)
    looks = [look(path) for path, _ in listed]
    for (path, _), (size, _) in zip(listed, looks):
        if size != looks[0][0] and not resize:
            raise DataError(
                f"{path}: is {show(size)} and {listed[0][0]} is {show(looks[0][0])}; bring all to "
                "one size with --resize"
            )
    files = ImageFiles(listed, resize, not all(grey for _, grey in looks))
    return _from_pictures(files, str(source), red_first=True)


def _from_pictures(
    pictures: Pictures, name: str, resize: tuple[int, int] | None = None, red_first: bool = False
) -> Images:
    """All of ``pictures``; ``red_first`` turns the channels round."""

    def read(places: np.ndarray) -> np.ndarray:
        made = [_brought(image, resize, name) for image, _ in pictures.take(places)]
        for image, place in zip(made, places.tolist()):
            if image.shape != made[0].shape:
                raise DataError(
                    f"{pictures.name(place)}: is {show(image.shape)} and "
                    f"{pictures.name(int(places[0]))} is {show(made[0].shape)}; bring all to one "
                    "size with --resize"
                )
        return np.stack(made)[:, :: -1 if red_first else 1]

    first = read(np.zeros(1, np.int64))[0]
    items = Items(read, pictures.size, first.shape, first.dtype)
    labels = pictures.labels if pictures.labelled else None
    return Images(held(items), labels, name)


def _brought(image: np.ndarray, size: tuple[int, int] | None, name: str) -> np.ndarray:
    """An image C x H x W in another size."""
    if size is None:
        return image
    if image.dtype != np.uint8:
        raise DataError(f"{name}: holds {image.dtype} numbers, and --resize is for uint8 images")
    return resized(image.transpose(1, 2, 0), *size).transpose(2, 0, 1)


def digests(source: Source, labels: Source | None = None) -> tuple[tuple[str, str], ...]:
    """(Name, SHA-256) of what ``open_images`` reads, as far as it is in files.

    Of a folder it is the SHA-256 of the lines ``digest  path`` of its images, in their order; of a
    prototxt its own; of an LMDB that of its first MiB: what is changed in one changes its first two
    pages, and reading all of ImageNet's would take longer than most plans.
    """
    found = []
    for given in (source, labels):
        if given is None or isinstance(given, np.ndarray):
            continue
        path = Path(given)
        if is_lmdb(path):
            digest = sha256(path / DATA_FILE, 1 << 20)
        elif path.is_dir():
            listed = listed_files(path, None if _are_arrays(labels) else labels)
            lines = (f"{sha256(image)}  {os.path.relpath(image, path)}\n" for image, _ in listed)
            digest = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
        else:
            digest = sha256(path)
        found.append((path.name, digest))
    return tuple(found)


def _are_arrays(labels: Source | None) -> bool:
    return isinstance(labels, np.ndarray) or (labels is not None and is_numpy(labels))


def _arrays(source: Source, key: str) -> dict[str, np.ndarray]:
    """The arrays of a source by name; the one wanted is under ``key``, and no other by chance."""
    if isinstance(source, np.ndarray):
        return {key: source}
    loaded = open_numpy(source, key)
    if isinstance(loaded, np.ndarray):
        return {key: loaded}
    with loaded:
        if not loaded.files:
            raise DataError(f"{source}: holds no array; expected one named {key}")
        names = {key: key if key in loaded.files else loaded.files[0]}
        if "labels" in loaded.files:
            names["labels"] = "labels"
        return {wanted: loaded[name] for wanted, name in names.items()}


def _check_labels(labels: np.ndarray, count: int) -> np.ndarray:
    flat = np.asarray(labels).reshape(-1)
    if len(flat) != count:
        raise DataError(f"{len(flat)} labels for {count} images; expected one for each")
    if flat.dtype.kind not in "uif" or (flat != flat.astype(np.int64)).any():
        raise DataError(f"labels are {flat.dtype} numbers; expected whole numbers, one an image")
    return flat.astype(np.int64)


def _misfit(images: Images, shape: tuple[int, ...], advice: str) -> DataError:
    return DataError(
        f"{images.name}: images of {show(images.images.shape[1:])} for a net that takes "
        f"{show(shape)}: {advice}"
    )


def show(shape) -> str:
    """A shape for people: 3 x 32 x 32."""
    return " x ".join(map(str, shape)) or "()"
