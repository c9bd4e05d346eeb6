"""Reads a folder of image files, with their classes from a list or from the folders they lie in.

Out come arrays N x C x H x W (uint8, RGB or grey).  Pillow decodes them; it comes with the extra
``caffesurgery[images]`` and is imported only here, when a folder is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import DataError, FileError, UsageError

KINDS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif")

Listed = list[tuple[Path, "int | None"]]


def listed_files(folder: str | os.PathLike, labels: str | os.PathLike | None) -> Listed:
    """Paths of images with their classes (None where there are none), in a fixed order.

    labels: a text with a line ``path class`` for each image, as Caffe's ImageData reads it, the
    paths from ``folder``; without it, the folders inside ``folder`` are classes 0, 1, ... in the
    order of their names, and images right in ``folder`` have no class.
    """
    folder = Path(folder)
    if labels is not None:
        return [(folder / name, label) for name, label in listed_lines(Path(labels))]
    direct = _images(folder.iterdir())
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    if direct:
        return [(path, None) for path in direct]
    found: Listed = [
        (path, number) for number, inner in enumerate(classes) for path in _images(inner.rglob("*"))
    ]
    if not found:
        raise DataError(
            f"{folder}: no images in this folder ({', '.join(KINDS[:4])} ...); "
            "expected them in it, or in one folder for each class"
        )
    return found


def _images(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in KINDS and path.is_file())


def listed_lines(labels: Path) -> list[tuple[str, int]]:
    """Names and classes of a text with lines ``path class``; the last blank parts them."""
    try:
        lines = labels.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise FileError(
            f"{labels}: cannot be read as a list of images ({reason}); expected lines 'path class'"
        ) from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal():
            raise DataError(
                f"{labels}:{number}: met '{line.strip()}', expected a path and a class, for "
                "example cat.jpg 281"
            )
        found.append((name.strip(), int(label)))
    if not found:
        raise DataError(f"{labels}: lists no image; expected lines 'path class'")
    return found


def read_folder(
    listed: Listed, resize: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Images (N x C x H x W, uint8; C is 1 where all are grey, else 3) and their classes.

    ``resize`` is (height, width) to which every image is brought, as Caffe's convert_imageset does;
    without it all must have one size.  Raises DataError for images of different sizes and for
    files that cannot be decoded, UsageError where Pillow is not installed.
    """
    Image = _pillow()
    arrays: list[np.ndarray] = []
    for path, _ in listed:
        try:
            with Image.open(path) as image:
                image = image.convert("L" if image.mode in ("1", "L", "I", "I;16") else "RGB")
                if resize:
                    image = image.resize(resize[::-1], Image.Resampling.BILINEAR)
                array = np.asarray(image)
        except (OSError, ValueError, SyntaxError) as error:
            reason = getattr(error, "strerror", None) or "it is damaged, or of no known kind"
            raise DataError(f"{path}: cannot be read as an image ({reason})") from None
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        if arrays and array.shape[1:] != arrays[0].shape[1:]:
            raise DataError(
                f"{path}: is {_size(array)} and {listed[0][0]} is {_size(arrays[0])}; bring all to "
                "one size with --resize"
            )
        arrays.append(array)
    channels = max(array.shape[0] for array in arrays)
    images = np.stack([np.broadcast_to(array, (channels, *array.shape[1:])) for array in arrays])
    classes = [label for _, label in listed]
    return images, None if None in classes else np.array(classes, np.int64)


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]} x {array.shape[2]}"


def _pillow():
    try:
        from PIL import Image
    except ImportError:
        raise UsageError(
            "image files need Pillow, which is not installed; `pip install "
            "'caffesurgery[images]'`, or give the images as .npy or .npz"
        ) from None
    return Image
