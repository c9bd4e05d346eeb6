"""Images and labels from NumPy files or a folder, brought to what a net takes.

In come arrays N x C x H x W (uint8 or float) as a file holds them, or image files; out come
float32 batches after what Caffe's DataTransformer does: channels swapped, mean subtracted, scaled,
cropped to the centre.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Union

import numpy as np

from ..errors import DataError
from ..files.digest import sha256
from .folder import listed_files, read_folder
from .npfile import is_numpy, open_numpy

Source = Union[str, os.PathLike, np.ndarray]

_AXES = 4


@dataclass(frozen=True)
class Images:
    """``images`` N x C x H x W; ``labels`` N integers or None; ``name`` is where they came from."""

    images: np.ndarray
    labels: np.ndarray | None
    name: str

    def first(self, count: int | None) -> Images:
        """Its first ``count`` images; all of them where it has no more, or with None."""
        labels = None if self.labels is None else self.labels[:count]
        return Images(self.images[:count], labels, self.name)


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


def load_images(
    source: Source, labels: Source | None = None, resize: tuple[int, int] | None = None
) -> Images:
    """Images from an array, a .npy, a .npz (key ``images``, else its first array), or a folder.

    Labels come from ``labels`` in the same forms (key ``labels``), or else from the images' .npz.
    A folder has image files, brought to ``resize`` (height, width); ``labels`` may then be a list
    with lines ``path class``, and without it folders inside are the classes.
    Raises DataError for a file or an array that cannot be that.
    """
    name = "the images" if isinstance(source, np.ndarray) else str(source)
    if not isinstance(source, np.ndarray) and os.path.isdir(source):
        return _from_folder(name, labels, resize)
    if resize:
        raise DataError(f"{name}: --resize is for folders of image files; resize the array")
    arrays = _arrays(source, "images")
    images = arrays["images"]
    if images.ndim != _AXES or not images.size or images.dtype.kind not in "uif":
        raise DataError(
            f"{name}: met {images.dtype} numbers of shape {show(images.shape)}; expected images "
            "N x C x H x W, as uint8 or float"
        )
    found = arrays.get("labels") if labels is None else _arrays(labels, "labels")["labels"]
    return Images(images, None if found is None else _check_labels(found, len(images)), name)


def digests(source: Source, labels: Source | None = None) -> tuple[tuple[str, str], ...]:
    """(Name, SHA-256) of what ``load_images`` reads, as far as it is in files.

    Of a folder it is the SHA-256 of the lines ``digest  path`` of its images, in their order.
    """
    found = []
    for given in (source, labels):
        if given is None or isinstance(given, np.ndarray):
            continue
        path = Path(given)
        if path.is_dir():
            listed = listed_files(path, None if _are_arrays(labels) else labels)
            lines = (f"{sha256(image)}  {os.path.relpath(image, path)}\n" for image, _ in listed)
            digest = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
        else:
            digest = sha256(path)
        found.append((path.name, digest))
    return tuple(found)


def _are_arrays(labels: Source | None) -> bool:
    return isinstance(labels, np.ndarray) or (labels is not None and is_numpy(labels))


def _from_folder(name: str, labels: Source | None, resize: tuple[int, int] | None) -> Images:
    arrays = _are_arrays(labels)
    listed = listed_files(name, None if arrays else labels)
    images, classes = read_folder(listed, resize)
    if arrays:
        classes = _check_labels(_arrays(labels, "labels")["labels"], len(images))
    return Images(images, classes, name)


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
