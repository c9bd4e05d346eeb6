"""Images as an exported model takes them: frames of a camera, or what its preprocessing makes.

Images come as files have them, N x C x H x W in RGB (or grey); batches come out for a model with
its preprocessing inside, for one whose preprocessing is a model of its own, and for one without.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..data.images import Images, open_images
from ..errors import VerifyError
from ..export.model import Model
from ..export.preprocess import Preprocess, alone
from .session import Session

_BATCH_ELEMENTS = 1 << 21
_LARGEST_BATCH = 16
_RGB = "rgb"


@dataclass(frozen=True)
class Feed:
    """Batches of ``given`` for models with the inputs of ``session``.

    ``before`` is the preprocessing as a model of its own, or None where it is inside or done.
    """

    given: Images
    session: Session
    before: Session | None = None

    def __post_init__(self):
        if len(self.session.inputs) != 1:
            raise VerifyError(
                f"{self.given.name}: images are for a net with one input; this one takes "
                f"{', '.join(self.session.inputs)}"
            )
        self._check((self.before or self.session).inputs)

    def __len__(self) -> int:
        return len(self.given.images)

    @property
    def size(self) -> int:
        """Items in a batch: the model's own where it is fixed."""
        ((_, dims),) = self.session.inputs.items()
        if isinstance(dims[0], int):
            return dims[0]
        item = math.prod(self.given.images.shape[1:])
        return max(1, min(_LARGEST_BATCH, _BATCH_ELEMENTS // item, len(self)))

    def batches(self) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
        """(First item, items, input name -> array); the last item fills up its batch."""
        ((name, _),) = self.session.inputs.items()
        kind = self.session.kinds[name]
        for start in range(0, len(self), self.size):
            images = np.asarray(self.given.images[start : start + self.size])
            count = len(images)
            filling = np.repeat(images[-1:], self.size - count, axis=0)
            images = np.concatenate([images, filling]) if len(filling) else images
            yield start, count, {name: self._prepared(images).astype(kind, copy=False)}

    def labels(self, start: int, count: int) -> np.ndarray | None:
        """The labels of a batch, where there are any."""
        found = self.given.labels
        return None if found is None else found[start : start + count]

    def _prepared(self, images: np.ndarray) -> np.ndarray:
        if self.before is not None:
            ((name, _),) = self.before.inputs.items()
            frames = self._frames(images, _channels(self.before))
            (made,) = self.before.run({name: frames}).values()
            return made
        order = _channels(self.session)
        return self._frames(images, order) if order else np.ascontiguousarray(images)

    def _frames(self, images: np.ndarray, order: str) -> np.ndarray:
        return as_frames(images[:, ::-1] if self.given.blue_first else images, order)

    def _check(self, inputs) -> None:
        """Refuse images whose height, width or channels the input does not take."""
        ((name, dims),) = inputs.items()
        order = _channels(self.before or self.session)
        images = self.given.images
        have = images.shape[2:] if order else images.shape[1:]
        want = dims[1:3] if order else dims[1:]
        if order and images.dtype != np.uint8:
            raise VerifyError(
                f"{self.given.name}: met {images.dtype} numbers; a camera's frames are uint8, "
                "0 to 255"
            )
        if len(have) != len(want) or any(
            isinstance(axis, int) and axis != side for axis, side in zip(want, have)
        ):
            raise VerifyError(
                f"{self.given.name}: images of {_show(images.shape[1:])} for the input {name}, "
                f"which takes {_show(want)}; give images of that size, or --resize or --crop them"
            )


def feed_of(path, images, *, bare: Model, before: Preprocess | None) -> Feed:
    """``images`` (array, .npy or .npz) for the model at ``path``.

    ``before`` prepares them for ``bare``, the model without preprocessing; None where the file does
    that itself, or they are prepared.
    """
    given = open_images(images)
    if before is None:
        return Feed(given, Session(path))
    stream = io.BytesIO()
    alone(bare, before).write(stream)
    return Feed(given, Session(path), Session(stream.getvalue()))


def as_frames(images: np.ndarray, order: str) -> np.ndarray:
    """Images N x C x H x W (RGB or grey, uint8) as frames N x H x W x channels in ``order``."""
    grey = images.shape[1] == 1
    if order == "gray":
        if not grey:
            raise VerifyError(f"met images of {images.shape[1]} channels; this net takes grey ones")
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    planes = {colour: images[:, 0 if grey else _RGB.index(colour)] for colour in _RGB}
    planes["a"] = np.full_like(planes["r"], 255)
    return np.stack([planes[colour] for colour in order], axis=-1)


def _channels(session: Session) -> str:
    """The order of a frame's channels, as the model's metadata has it; "" for no frames."""
    try:
        (about,) = json.loads(session.metadata["inputs"]).values()
        return about["channels"] if about["layout"] == "NHWC" else ""
    except (KeyError, ValueError, TypeError):
        return ""


def _show(dims) -> str:
    return " x ".join("?" if not isinstance(axis, int) else str(axis) for axis in dims)
