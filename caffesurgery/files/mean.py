"""Means as users give them: numbers with commas, a mean.binaryproto of Caffe's, or a .npy file.

Out comes a float32 array that broadcasts over C x H x W.
"""

from __future__ import annotations

import os

import numpy as np

from ..errors import FileError
from .caffemodel import read_mean

_IMAGE_AXES, _BATCH_AXES = 3, 4


def load_mean(spec) -> np.ndarray | None:
    """A mean as an array () or C x 1 x 1 or C x H x W; None for None.

    ``spec`` is None, an array, a number or several, text such as ``104,117,123``, or the path of a
    .npy or .binaryproto file.  Raises FileError for anything else.
    """
    if spec is None:
        return None
    if isinstance(spec, (str, os.PathLike)):
        spec = _from_text(str(spec))
    mean = np.asarray(spec, np.float32)
    if mean.ndim == _BATCH_AXES and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim == 1:
        mean = mean.reshape(-1, 1, 1)
    if mean.ndim not in (0, _IMAGE_AXES):
        raise FileError(
            f"the mean has shape {' x '.join(map(str, mean.shape))}; expected one number, one for "
            "each channel, or an image C x H x W"
        )
    return mean


def _from_text(text: str):
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        pass
    if text.endswith(".npy"):
        return _from_npy(text)
    if text.endswith((".binaryproto", ".proto")):
        return read_mean(text)
    raise FileError(
        f"mean '{text}': expected numbers with commas (104,117,123), or a .npy or .binaryproto file"
    )


def _from_npy(path: str) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise FileError(f"{path}: no such file; expected a mean as .npy") from None
    except (OSError, ValueError, EOFError) as error:
        raise FileError(
            f"{path}: cannot be read as a mean ({error}); expected a .npy file, as numpy.save "
            "writes it"
        ) from None
