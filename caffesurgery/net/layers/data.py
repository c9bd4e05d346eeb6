"""Layers without bottoms: inputs, data sources and free parameters.

What such a layer's text does not say (a database's image size) is None here; the caller of shape
inference gives it.  ``guess`` says what is likely where nobody does.
"""

from __future__ import annotations

from .base import LayerType, MaybeShape, Shape, refuse, register


class Source(LayerType):
    """A layer that feeds the net.

    ``param`` names its parameters, if they have a batch size; ``labels`` says that top 1 has one
    label for each item of top 0.
    """

    takes = (0, 0)
    param = ""
    labels = False

    def batch(self, layer) -> int | None:
        """The batch size that the layer's parameters give."""
        return (layer.params(self.param)["batch_size"] or None) if self.param else None

    def guess(self, layer) -> tuple[Shape | None, str]:
        """A likely shape of top 0 and why, where ``tops`` leaves it open."""
        return None, ""


def _spread(layer, name: str, values: tuple) -> list:
    """One value for each top, from one for all or one for each."""
    if len(values) not in (1, len(layer.tops)):
        raise refuse(
            layer,
            f"{name} is given {len(values)} times for {len(layer.tops)} tops; expected once, or "
            "once for each",
        )
    return list(values * len(layer.tops) if len(values) == 1 else values)


@register
class Input(Source):
    """The net's own inputs, one shape for all tops or one for each."""

    types = ("Input",)
    gives = (1, None)

    def tops(self, layer, bottoms):
        shapes = layer.params("input_param")["shape"]
        if not shapes:
            return [None] * len(layer.tops)
        return _spread(layer, "shape", tuple(shape["dim"] for shape in shapes))


@register
class DummyData(Source):
    """Blobs made by fillers; shapes as ``shape``, or in the old way as num, channels, ..."""

    types = ("DummyData",)
    gives = (1, None)

    def tops(self, layer, bottoms):
        params = layer.params("dummy_data_param")
        if len(params["data_filler"]) not in (0, 1, len(layer.tops)):
            raise refuse(layer, "expected no data_filler, one, or one for each top")
        old = ("num", "channels", "height", "width")
        if not any(params[name] for name in old):
            return _spread(layer, "shape", tuple(shape["dim"] for shape in params["shape"]))
        if params["shape"]:
            raise refuse(layer, "has both shape and num, channels, ...; expected one of them")
        return list(zip(*(_spread(layer, name, params[name]) for name in old)))


@register
class MemoryData(Source):
    """Images and labels that a program hands over."""

    types = ("MemoryData",)
    gives = (2, 2)
    param = "memory_data_param"
    labels = True

    def tops(self, layer, bottoms):
        params = layer.params(self.param)
        shape = tuple(params[name] for name in ("batch_size", "channels", "height", "width"))
        if 0 in shape:
            raise refuse(layer, "batch_size, channels, height and width must all be above 0")
        return [shape, shape[:1]]


class _Images(Source):
    """Images with labels from somewhere outside: what is known is batch size and crop."""

    labels = True

    def tops(self, layer, bottoms) -> list[MaybeShape]:
        batch = self.batch(layer)
        return [None, (batch,) if batch else None]

    def guess(self, layer):
        crop = layer.params("transform_param")["crop_size"]
        batch = self.batch(layer)
        if not crop or not batch:
            return None, ""
        channels, why = self._channels(layer)
        return (batch, channels, crop, crop), f"crop_size {crop} and {why}"

    def _channels(self, layer) -> tuple[int, str]:
        """Channels of the images and how they are known."""
        transform = layer.params("transform_param")
        means = len(transform["mean_value"])
        if means > 1:
            return means, f"{means} mean values"
        if transform["force_gray"]:
            return 1, "force_gray"
        return 3, "3 channels assumed"


@register
class Data(_Images):
    """Images (and labels) of an LMDB or LevelDB."""

    types = ("Data",)
    gives = (1, 2)
    param = "data_param"


@register
class WindowData(_Images):
    """Windows of images for detection."""

    types = ("WindowData",)
    gives = (2, 2)
    param = "window_data_param"


@register
class ImageData(_Images):
    """Images from files; known when they are cropped, or brought to one size."""

    types = ("ImageData",)
    gives = (2, 2)
    param = "image_data_param"

    def tops(self, layer, bottoms):
        params, batch = layer.params(self.param), self.batch(layer)
        crop = layer.params("transform_param")["crop_size"]
        height, width = params["new_height"], params["new_width"]
        if bool(height) != bool(width):
            raise refuse(layer, "expected both of new_height and new_width, or none of them")
        size = (crop, crop) if crop else (height, width)
        if not batch:
            return [None, None]
        channels = 3 if params["is_color"] else 1
        return [(batch, channels, *size) if all(size) else None, (batch,)]


@register
class HDF5Data(Source):
    """Data sets of HDF5 files, one for each top, of any shape."""

    types = ("HDF5Data",)
    gives = (1, None)
    param = "hdf5_data_param"

    def tops(self, layer, bottoms):
        if layer.has("transform_param"):
            raise refuse(layer, "does not transform data; drop transform_param")
        return [None] * len(layer.tops)


@register
class HDF5Output(LayerType):
    """Writes data and labels to a file."""

    types = ("HDF5Output",)
    takes = (2, 2)
    gives = (0, 0)

    def tops(self, layer, bottoms):
        return []


@register
class Parameter(Source):
    """A learned blob as a top."""

    types = ("Parameter",)
    any_size = True

    def tops(self, layer, bottoms):
        return [layer.params("parameter_param")["shape"]["dim"]]

    def blobs(self, layer, bottoms):
        return self.tops(layer, bottoms)

    def onnx(self, layer, g):
        g.output(0, g.const(g.weight(0), "value"))


@register
class Python(LayerType):
    """Runs code of the user's, which alone knows its shapes."""

    types = ("Python",)
    not_exported = "it runs code of the user's"
    takes = (0, None)
    gives = (0, None)

    def tops(self, layer, bottoms):
        return [None] * len(layer.tops)
