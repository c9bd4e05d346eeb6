"""What Caffe's DataTransformer does to images, in its order and arithmetic.

Cut out, turned round, the mean subtracted, multiplied, in float32: TRAIN cuts at random, TEST at
the centre, and ``mirror`` turns every second image round on average in both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..files.caffemodel import read_mean
from ..files.mean import load_mean
from ..net.net import Layer
from .order import draws
from .places import find

_MIRROR, _TOP, _LEFT = range(3)
_EXACT = (np.uint8, np.float32)


@dataclass(frozen=True)
class Transformer:
    """``transform_param`` of a layer in a phase.

    ``mean`` is None, channels (C or 1) x 1 x 1, or an image as large as those that come in.
    """

    train: bool = False
    crop: int = 0
    mirror: bool = False
    mean: np.ndarray | None = None
    scale: float = 1.0
    where: str = ""

    def shape(self, shape: tuple[int, ...], name: str) -> tuple[int, ...]:
        """Shape of an image that comes in as ``shape`` (C, H, W); DataError where it cannot."""
        if self.crop and min(shape[1:]) < self.crop:
            raise DataError(
                f"{name}: is {_show(shape)}, and {self.where} cuts out {self.crop} x {self.crop}; "
                "expected larger images, or a smaller crop_size"
            )
        mean = self.mean
        if mean is not None and mean.shape[1:] != (1, 1) and mean.shape != tuple(shape):
            raise DataError(
                f"{name}: is {_show(shape)}, and the mean of {self.where} is {_show(mean.shape)}; "
                "expected a mean_file of the size that the images have before they are cropped"
            )
        if mean is not None and mean.shape[0] not in (1, shape[0]):
            raise DataError(
                f"{name}: has {shape[0]} channels, and {self.where} {mean.shape[0]} mean values; "
                "expected one, or one for each channel"
            )
        return (shape[0], self.crop, self.crop) if self.crop else tuple(shape)

    def __call__(
        self,
        images: Sequence[np.ndarray],
        items: np.ndarray,
        seed: int,
        name: Callable[[int], str],
    ) -> np.ndarray:
        """Images (each C x H x W) as one float32 array; ``items`` are the numbers they go by.

        ``name(i)`` says where image i came from, for DataError about its size.
        """
        wanted = self.shape(images[0].shape, name(0))
        out = np.empty((len(images), *wanted), np.float32)
        random = draws(items, seed, 3)
        turned = random[:, _MIRROR] % 2 == 1 if self.mirror else np.zeros(len(images), bool)
        for index, image in enumerate(images):
            if self.shape(image.shape, name(index)) != wanted:
                raise DataError(
                    f"{name(index)}: is {_show(image.shape)}, and the first of its batch, "
                    f"{name(0)}, is {_show(images[0].shape)}; expected one size: give a crop_size "
                    "or new_height and new_width, or a batch_size of 1"
                )
            target = out[index, :, :, ::-1] if turned[index] else out[index]
            self._fill(target, image, random[index])
        if self.scale != 1:
            out *= np.float32(self.scale)
        return out

    def _fill(self, target: np.ndarray, image: np.ndarray, random: np.ndarray) -> None:
        """The part of ``image`` that is cut out, less the mean there, into ``target``."""
        if image.dtype not in _EXACT:
            image = image.astype(np.float32)
        mean, crop = self.mean, self.crop
        if crop:
            spare = image.shape[1] - crop, image.shape[2] - crop
            if self.train:
                top = int(random[_TOP] % np.uint64(spare[0] + 1))
                left = int(random[_LEFT] % np.uint64(spare[1] + 1))
            else:
                top, left = spare[0] // 2, spare[1] // 2
            image = image[:, top : top + crop, left : left + crop]
            if mean is not None and mean.shape[1:] != (1, 1):
                mean = mean[:, top : top + crop, left : left + crop]
        if mean is None:
            target[...] = image
        else:
            np.subtract(image, mean, out=target)


def read_transformer(layer: Layer, phase: str, folder: Path | None) -> Transformer:
    """The transformer of a layer in TRAIN or TEST; DataError where its mean cannot be read."""
    params = layer.params("transform_param")
    mean = None
    if params["mean_value"]:
        if params["mean_file"]:
            raise DataError(
                f"{layer.where()}: has both mean_file and mean_value; expected one of them"
            )
        mean = np.array(params["mean_value"], np.float32).reshape(-1, 1, 1)
    elif params["mean_file"]:
        path = find(params["mean_file"], folder, layer.where(), "mean_file")
        mean = load_mean(np.array(read_mean(path), np.float32))
    return Transformer(
        train=(layer.phase or phase) == "TRAIN",
        crop=params["crop_size"],
        mirror=params["mirror"],
        mean=mean,
        scale=params["scale"],
        where=layer.where(),
    )


def _show(shape) -> str:
    return " x ".join(map(str, shape))
