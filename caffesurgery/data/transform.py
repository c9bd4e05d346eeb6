"""What Caffe's DataTransformer does to images, in its order and arithmetic.

Cut out, turned round, the mean subtracted, multiplied, in float32: TRAIN cuts at random, TEST at
the centre, and ``mirror`` turns every second image round on average in both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..files.caffemodel import read_mean
from ..files.mean import load_mean
from ..net.net import Layer
from .order import draws
from .places import find

_MIRROR, _TOP, _LEFT = range(3)


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

    def shape(self, shape: tuple[int, ...], name: Callable[[], str]) -> tuple[int, ...]:
        """Shape of an image that comes in as ``shape`` (C, H, W); DataError where it cannot.

        ``name()`` says where the image came from, for the error.
        """
        if self.crop and min(shape[1:]) < self.crop:
            raise DataError(
                f"{name()}: is {_show(shape)}, and {self.where} cuts out "
                f"{self.crop} x {self.crop}; expected larger images, or a smaller crop_size"
            )
        mean = self.mean
        if mean is not None and mean.shape[1:] != (1, 1) and mean.shape != tuple(shape):
            raise DataError(
                f"{name()}: is {_show(shape)}, and the mean of {self.where} is "
                f"{_show(mean.shape)}; expected a mean_file as large as images that are not cropped"
            )
        if mean is not None and mean.shape[0] not in (1, shape[0]):
            raise DataError(
                f"{name()}: has {shape[0]} channels, and {self.where} {mean.shape[0]} mean values; "
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
        first = images[0].shape
        wanted = self.shape(first, lambda: name(0))
        for index, image in enumerate(images):
            if image.shape != first:
                self._check_like(image.shape, first, partial(name, index), name)
        out = np.empty((len(images), *wanted), np.float32)
        for target, image, *how in zip(out, images, *self._drawn(images, items, seed)):
            self._fill(target, image, *how)
        if self.scale != 1:
            out *= np.float32(self.scale)
        return out

    def _drawn(self, images: Sequence[np.ndarray], items: np.ndarray, seed: int):
        """For each image whether it is turned round, and where its cut begins: top and left."""
        random = draws(items, seed, 3)
        turned = random[:, _MIRROR] % 2 == 1 if self.mirror else np.zeros(len(images), bool)
        sides = np.array([image.shape[1:] for image in images], np.uint64)
        spare = sides - np.uint64(self.crop) if self.crop else np.zeros_like(sides)
        corners = random[:, _TOP:] % (spare + np.uint64(1)) if self.train else spare // 2
        return turned.tolist(), *corners.T.tolist()

    def _check_like(self, shape, first, name: Callable[[], str], names) -> None:
        """Refuse an image that does not come out like the first one of its batch."""
        if self.shape(shape, name) != self.shape(first, partial(names, 0)):
            advice = "give a crop_size or new_height and new_width, or a batch_size of 1"
            if shape[0] != first[0]:
                advice = "say force_color: true (or force_gray) in transform_param"
            raise DataError(
                f"{name()}: is {_show(shape)}, and the first of its batch, {names(0)}, is "
                f"{_show(first)}; expected images alike: {advice}"
            )

    def _fill(self, target, image: np.ndarray, turned: bool, top: int, left: int) -> None:
        """The part of ``image`` that is cut out, less the mean there, into ``target``."""
        window = slice(None), slice(top, top + target.shape[1]), slice(left, left + target.shape[2])
        across = np.s_[:, :, ::-1] if turned else np.s_[:]
        target[...] = image[window][across]
        if self.mean is not None:
            whole = self.mean.shape[1:] != (1, 1)
            np.subtract(target, self.mean[window][across] if whole else self.mean, out=target)


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
