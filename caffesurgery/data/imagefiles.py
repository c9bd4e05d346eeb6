"""Image files with labels, read as Caffe's ImageData layer and convert_imageset read them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..net.net import Layer
from .decode import decode
from .folder import Listed, listed_lines
from .places import find
from .resize import resize


@dataclass(frozen=True)
class ImageFiles:
    """Files as ``pictures.Pictures``: decoded, brought to ``size_to`` (height, width) if given."""

    files: Listed
    size_to: tuple[int, int] | None = None
    colour: bool = True

    @property
    def size(self) -> int:
        """How many files."""
        return len(self.files)

    def name(self, place: int) -> str:
        """The path of a file."""
        return str(self.files[place][0])

    @property
    def labelled(self) -> bool:
        """Whether all have labels."""
        return all(label is not None for _, label in self.files)

    def labels(self, places: np.ndarray) -> np.ndarray:
        """The labels of the files at these places."""
        return np.array([self.files[place][1] for place in places.tolist()], np.int64)

    def take(self, places: np.ndarray) -> Iterator[tuple[np.ndarray, int | None]]:
        """Images C x H x W, blue first, and labels."""
        for place in places.tolist():
            path, label = self.files[place]
            pixels = decode(path, self.colour, str(path))
            if self.size_to:
                pixels = resize(pixels, *self.size_to)
            yield pixels.transpose(2, 0, 1), label


def open_image_files(layer: Layer, folder: Path | None) -> ImageFiles:
    """What an ImageData layer lists; DataError where the list or its first image is not there."""
    params = layer.params("image_data_param")
    source = find(params["source"], folder, layer.where(), "source")
    lines = listed_lines(source)
    root = params["root_folder"]  # put before each name as it stands, as Caffe does
    base = _base(root + lines[0][0], [Path(), folder, source.parent], f"{source}:1", layer)
    files = [(os.path.join(base, root + name), label) for name, label in lines]
    sides = params["new_height"], params["new_width"]
    if bool(sides[0]) != bool(sides[1]):
        raise DataError(
            f"{layer.where()}: expected both of new_height and new_width, or none of them"
        )
    return ImageFiles(files, sides if all(sides) else None, params["is_color"])


def _base(name: str, folders: Sequence[Path | None], line: str, layer: Layer) -> Path:
    """The folder from which the first image is found, for all of them."""
    tried = [folder for folder in folders if folder is not None]
    for folder in tried:
        if (folder / name).is_file():
            return folder
    places = ", ".join(dict.fromkeys(os.path.abspath(folder / name) for folder in tried))
    raise DataError(
        f"{layer.where()}: the first image of its list ({line}) is not there (tried {places}); "
        "put the images there, or give root_folder"
    )
