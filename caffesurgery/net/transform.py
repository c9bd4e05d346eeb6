"""What a net's text says is done to images on their way in: ``transform_param`` of a data layer.

A net goes in; a ``Transform`` comes out with what Caffe's DataTransformer does in the TEST phase:
the centre is cut out, a mean subtracted, the rest multiplied.  The size to which images are brought
before is only known for ImageData and for SSD's ``resize_param``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import NetError
from .net import Layer, Net
from .params import Params

CAMERAS = ("rgb", "bgr", "rgba", "bgra", "gray")
"""Orders of the bytes of one pixel in a frame."""
CHANNELS = ("bgr", "rgb", "gray")
"""Orders of the channels that a net may have been trained with."""

_SAYING = ("transform_param", "image_data_param")


@dataclass(frozen=True)
class Transform:
    """``(cut(image) - mean) * scale``, as a data layer says.

    ``mean_values`` has none, one, or one for each channel; ``mean_file`` is a binaryproto as the
    text names it ("" for none).  ``crop`` is the side of the square that is cut out (0: nothing is
    cut), ``resize`` the (height, width) to which images are brought first, ``where`` the place.
    """

    mean_values: tuple[float, ...] = ()
    mean_file: str = ""
    scale: float = 1.0
    crop: int = 0
    resize: tuple[int, int] | None = None
    where: str = ""
    folder: str = "."

    def mean_path(self) -> str | None:
        """Where the mean file lies: as named from here, or beside the prototxt; None without one.

        Caffe takes the name from the folder that it is run in, which is often the prototxt's.
        """
        if not self.mean_file:
            return None
        named, beside = Path(self.mean_file), Path(self.folder)
        for path in (beside / named, named, beside / named.name):
            if path.is_file():
                return str(path)
        raise NetError(
            f'{self.where}: mean_file "{self.mean_file}" is not there, nor {named.name} beside '
            "the prototxt; put it there, or give the mean yourself"
        )


def read_transform(net: Net, blobs: Iterable[str] = ()) -> Transform | None:
    """The transform of the layer that feeds one of ``blobs`` (any, when empty), or None.

    The TEST phase is asked first, then TRAIN.  Raises NetError where the text contradicts itself.
    """
    wanted = set(blobs)
    for phase in ("TEST", "TRAIN"):
        for layer in net.phase(phase):
            feeds = not layer.bottoms and (not wanted or wanted & set(layer.tops))
            if feeds and any(layer.has(name) for name in _SAYING):
                return _transform(layer, net)
    return None


def _transform(layer: Layer, net: Net) -> Transform:
    params = layer.params("transform_param")
    if params["mean_file"] and params["mean_value"]:
        raise NetError(f"{layer.where()}: has both mean_file and mean_value; expected one of them")
    return Transform(
        mean_values=params["mean_value"],
        mean_file=params["mean_file"],
        scale=params["scale"],
        crop=params["crop_size"],
        resize=_resize(layer, params),
        where=layer.where(),
        folder=str(Path(net.doc.path or ".").parent),
    )


def _resize(layer: Layer, transform: Params) -> tuple[int, int] | None:
    """(Height, width) of ImageData's images, or of SSD's ``resize_param``."""
    params = layer.params("image_data_param")
    if params["new_height"] and params["new_width"]:
        return params["new_height"], params["new_width"]
    for message in transform.raw("resize_param"):
        sides = [getattr(message, "last", lambda side: None)(side) for side in ("height", "width")]
        if all(getattr(side, "kind", "") == "number" for side in sides):
            return int(sides[0].number()), int(sides[1].number())
    return None
