"""Encoded images to what OpenCV gives Caffe: uint8, H x W x C, blue first.

Pillow decodes them; only this module imports it.  JPEG and colours come out as from OpenCV, bit for
bit (both use libjpeg); grey made of a colour PNG differs by at most 1, as OpenCV's versions do.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable

import numpy as np

from ..errors import DataError, UsageError

_GREY, _GREY_BITS = np.array([1868, 9617, 4899], np.uint32), 14  # of blue, green and red
_ORIENTATION = 0x0112
_ACROSS = (5, 6, 7, 8)
_GREY_MODES = ("1", "L", "I", "I;16")
_DEEP = ("I", "I;16", "I;16B", "I;16L", "F")


def decode(data: bytes | str | os.PathLike, colour: bool | None, name: str) -> np.ndarray:
    """The image in ``data`` (the bytes of a file, or its path) as H x W x C.

    colour: True gives three channels and False one, turned as EXIF says (imread); None leaves the
    image's own one, three or four channels (alpha last) and does not turn it (IMREAD_UNCHANGED).
    Raises DataError that begins with ``name`` for what is no image, UsageError without Pillow.
    """
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    return _opened(stream, name, lambda image: _pixels(image, colour, name))


def look(path: str | os.PathLike) -> tuple[tuple[int, int], bool]:
    """((height, width), whether it is grey) of an image file, as ``decode`` with colours gives it.

    Only the file's head is read.  Raises DataError for what is no image.
    """

    def sides(image):
        width, height = image.size
        return (width, height) if _orientation(image) in _ACROSS else (height, width)

    return _opened(path, str(path), lambda image: (sides(image), image.mode in _GREY_MODES))


def _opened(data, name: str, use: Callable):
    Image = pillow()
    try:
        with Image.open(data) as image:
            return use(image)
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged, or of no known kind"
        raise DataError(f"{name}: cannot be read as an image ({reason})") from None


def _pixels(image, colour: bool | None, name: str) -> np.ndarray:
    if colour is None:
        if image.mode in _DEEP:
            raise DataError(
                f"{name}: has more than 8 bits in a pixel, which Caffe refuses; write it with 8"
            )
        return _native(image)
    turned = _orientation(image)
    if colour:
        pixels = _deep(image) if image.mode in _DEEP else np.asarray(image.convert("RGB"))
        pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2:] == (1,) else pixels[:, :, ::-1]
    else:
        pixels = _grey(image)
    return _turn(pixels, turned)


def _orientation(image) -> int:
    return image.getexif().get(_ORIENTATION, 1) if "exif" in image.info else 1


def _native(image) -> np.ndarray:
    """One, three or four channels, as the file has them."""
    transparent = "transparency" in image.info
    if image.mode in ("1", "L") and not transparent:
        return np.asarray(image.convert("L"))[:, :, None]
    if image.mode in ("RGBA", "LA", "PA") or transparent:
        return np.asarray(image.convert("RGBA"))[:, :, [2, 1, 0, 3]]
    return np.asarray(image.convert("RGB"))[:, :, ::-1]


def _grey(image) -> np.ndarray:
    if image.mode in _DEEP:
        return _deep(image)
    if image.format == "JPEG":
        image.draft("L", image.size)  # libjpeg gives its luminance
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))[:, :, None]
    pixels = np.asarray(image.convert("RGB"))[:, :, ::-1]
    total = pixels.astype(np.uint32) @ _GREY
    return ((total + (1 << _GREY_BITS - 1)) >> _GREY_BITS).astype(np.uint8)[:, :, None]


def _deep(image) -> np.ndarray:
    """The high byte of 16 bits."""
    return (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)[:, :, None]


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The image as EXIF's ``orientation`` (1 to 8) says that it is to be seen."""
    if orientation in _ACROSS:
        pixels = pixels.transpose(1, 0, 2)
    across = orientation in (2, 3, 6, 7)
    down = orientation in (3, 4, 7, 8)
    return pixels[:: -1 if down else 1, :: -1 if across else 1]


def pillow():
    """Pillow's Image; UsageError where it is not installed."""
    try:
        from PIL import Image
    except ImportError:
        raise UsageError(
            "image files need Pillow, which is not installed; `pip install "
            "'caffesurgery[images]'`, or give the images as .npy or .npz"
        ) from None
    return Image
