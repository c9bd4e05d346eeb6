"""Lists the image files of a folder, with their classes from a list or from the folders inside."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Union

from ..errors import DataError, FileError

KINDS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif")

Listed = list[tuple[Union[str, Path], "int | None"]]


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
