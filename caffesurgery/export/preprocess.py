"""Preprocessing inside an ONNX model: a frame as a camera gives it in front, the net behind.

A ``Preprocess`` says what is done to a frame, from the net's own transform_param and from what the
user says; ``attach`` puts it in front of a model, whose input becomes ``image``: uint8,
N x H x W x channels.  The order is that of Caffe's tools: resize, cut the centre, minus the mean,
times the scale.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ExportError
from ..files.mean import load_mean
from ..net.transform import CAMERAS, CHANNELS, Transform
from .graph import Node
from .model import Model, Value
from .pipeline import Pipeline

INPUT = "image"
"""The name of the frame in the model, unless a blob has it."""


@dataclass(frozen=True)
class Resize:
    """Frames are brought to ``size`` (height, width), or their shorter side to ``short``."""

    size: tuple[int, int] | None = None
    short: int | None = None

    def __str__(self) -> str:
        return f"short={self.short}" if self.short else "{}x{}".format(*self.size)


@dataclass(frozen=True)
class Preprocess:
    """What is done to a frame.

    ``mean`` (one number, one for each channel, or an image, in the net's channel order) and
    ``scale`` are as Caffe's; ``crop`` says whether the net's size may be cut out of something
    larger; ``channels`` is the order that the net takes ("": BGR, as Caffe reads images, or grey
    for one channel) and ``camera`` that of the frame ("": RGB, or grey); ``frame`` fixes the
    height and width of frames, which are open where they can be.
    """

    mean: np.ndarray | None = None
    scale: float = 1.0
    resize: Resize | None = None
    crop: bool = False
    channels: str = ""
    camera: str = ""
    frame: tuple[int, int] | None = None


def resolve(
    transform: Transform | None,
    *,
    mean=None,
    scale: float | None = None,
    resize: str | Resize | None = None,
    crop: bool = False,
    channels: str = "",
    camera: str = "",
    frame: tuple[int, int] | None = None,
) -> Preprocess:
    """What is given, and for the rest what ``transform`` says.

    ``mean`` is as ``files.mean.load_mean`` takes it, ``resize`` "256x256" or "short=256".
    """
    said = transform or Transform()
    if mean is None:
        mean = said.mean_path() or (list(said.mean_values) or None)
    for word, known, what in ((channels, CHANNELS, "channels"), (camera, CAMERAS, "camera")):
        if word and word not in known:
            raise ExportError(f"{what} '{word}': expected one of {', '.join(known)}")
    if resize is None and said.resize:
        resize = Resize(size=said.resize)
    return Preprocess(
        mean=load_mean(mean),
        scale=said.scale if scale is None else scale,
        resize=parse_resize(resize) if isinstance(resize, str) else resize,
        crop=crop or said.crop > 0,
        channels=channels,
        camera=camera,
        frame=frame,
    )


def parse_resize(text: str) -> Resize:
    """``256x320`` (height, width) or ``short=256``; ExportError for anything else."""
    word, _, number = text.rpartition("=")
    sides = number.split("x")
    if all(side.isdigit() and int(side) for side in sides):
        numbers = [int(side) for side in sides]
        if word == "short" and len(numbers) == 1:
            return Resize(short=numbers[0])
        if not word and len(numbers) == 2:
            return Resize(size=(numbers[0], numbers[1]))
    raise ExportError(
        f"resize '{text}': expected height and width (256x256), which Caffe's tools make of every "
        "image, or the shorter side (short=256)"
    )


def attach(model: Model, wanted: Preprocess) -> Model:
    """``model`` with frames for its input; its metadata describes them.

    Raises ExportError where the model has not one input N x C x H x W of known size, where the
    mean fits neither the net nor the frame, and where sizes contradict each other.
    """
    blob, (height, width), channels = _image_input(model)
    wanted = _defaults(wanted, channels)
    _check_mean_channels(wanted, channels)
    frame = _frame_size(wanted, (height, width))
    mean = _cut_mean(wanted, frame, (height, width))
    taken = {name for node in model.nodes for name in (node.name, *node.inputs, *node.outputs)}
    name = INPUT if INPUT not in taken else "frame"
    depth = 1 if wanted.camera == "gray" else len(wanted.camera)
    steps = Pipeline(model.opset, name, frame, depth, taken | {name})
    _write(steps, wanted, (height, width), mean)
    steps.finish(blob.name)
    dims = (blob.dims[0], *(frame or ("height", "width")), depth)
    about = {
        "type": "uint8", "layout": "NHWC", "channels": wanted.camera,
        "height": frame[0] if frame else None, "width": frame[1] if frame else None,
    }  # fmt: skip
    return replace(
        model,
        inputs=(Value(name, dims, "uint8"),),
        values=(blob, *model.values),
        nodes=(*steps.nodes, *model.nodes),
        initializers={**steps.constants, **model.initializers},
        metadata={
            **model.metadata,
            "inputs": json.dumps({name: about}),
            "preprocessing": describe(wanted, (height, width)),
        },
    )


def alone(model: Model, wanted: Preprocess) -> Model:
    """Only the preprocessing of ``model``: frames in, and out what the model's input takes."""
    blob = _image_input(model)[0]
    step = Node("Identity", "prepared", (blob.name,), ("prepared",), {})
    bare = Model(
        "preprocessing", model.opset, (blob,), (Value("prepared", blob.dims),), (), (step,), {}
    )
    return attach(bare, wanted)


def describe(wanted: Preprocess, size: tuple[int, int]) -> str:
    """One line for people: what is done to a frame of a net that takes ``size``."""
    steps = [f"{wanted.camera} to {wanted.channels}"] if wanted.camera != wanted.channels else []
    if wanted.resize:
        steps.append(f"resize {wanted.resize}")
    if wanted.crop:
        steps.append("centre {}x{}".format(*size))
    if wanted.mean is not None:
        image = wanted.mean.ndim == 3 and wanted.mean.shape[1:] != (1, 1)
        values = ", ".join(f"{value:g}" for value in wanted.mean.ravel()[:4])
        steps.append("minus the mean image" if image else f"minus {values}")
    if wanted.scale != 1:
        steps.append(f"times {wanted.scale:g}")
    return "; ".join(steps) or "none"


def _image_input(model: Model) -> tuple[Value, tuple[int, int], int]:
    """The input that takes images, its height and width, and its channels."""
    if len(model.inputs) == 1 and len(model.inputs[0].dims) == 4:
        _, channels, height, width = model.inputs[0].dims
        if all(isinstance(axis, int) for axis in (channels, height, width)):
            return model.inputs[0], (height, width), channels
    met = ", ".join(f"{value.name} {_show(value.dims)}" for value in model.inputs)
    raise ExportError(
        f"{model.name}: preprocessing is for a net with one input N x C x H x W of known size; "
        f"this one takes {met or 'nothing'}: export it without --preprocess"
    )


def _defaults(wanted: Preprocess, channels: int) -> Preprocess:
    """The channel orders made explicit; refused where they do not fit the net."""
    order = wanted.channels or {1: "gray", 3: "bgr"}.get(channels, "")
    if {"gray": 1, "rgb": 3, "bgr": 3}.get(order) != channels:
        raise ExportError(
            f"the net takes {channels} channels, and frames have 1 (gray) or 3 (rgb, bgr)"
            + (f"; --channels {order} does not fit" if wanted.channels else "")
        )
    camera = wanted.camera or ("gray" if order == "gray" else "rgb")
    if camera == "gray" and order != "gray":
        raise ExportError("--camera gray is for a net of one channel; this one takes 3")
    return replace(wanted, channels=order, camera=camera)


def _check_mean_channels(wanted: Preprocess, channels: int) -> None:
    mean = wanted.mean
    if mean is not None and mean.ndim and mean.shape[0] not in (1, channels):
        raise ExportError(
            f"the mean has {mean.shape[0]} channels, and the net takes {channels}; give one value, "
            "or one for each channel"
        )


def _frame_size(wanted: Preprocess, size: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width of frames (None: open), after checking that ``size`` comes out of them."""
    resize, frame = wanted.resize, wanted.frame
    if resize:
        least = resize.size or (resize.short, resize.short)
        if any(have < want for have, want in zip(least, size)):
            raise ExportError(
                f"resize {resize} is smaller than what the net takes ({_show(size)}); give a larger"
            )
        if not wanted.crop and resize.size != size:
            raise ExportError(
                f"resize {resize} is not what the net takes ({_show(size)}); say --crop to cut "
                "out the centre"
            )
        return frame
    mean = _mean_size(wanted)
    if mean is not None and any(have < want for have, want in zip(mean, size)):
        raise ExportError(
            f"the mean image is {_show(mean)}, smaller than what the net takes ({_show(size)}); "
            "give the mean that belongs to this net, or one value for each channel"
        )
    if wanted.crop and mean is not None and mean != size:
        if frame not in (None, mean):
            raise ExportError(
                f"the mean image is {_show(mean)}, and frames are {_show(frame)}; add --resize "
                f"{mean[0]}x{mean[1]}"
            )
        frame = mean
    elif not wanted.crop and frame is None:
        frame = size
    if frame is None:
        return None
    if (any(a < b for a, b in zip(frame, size))) or (not wanted.crop and frame != size):
        raise ExportError(
            f"frames of {_show(frame)} do not give what the net takes ({_show(size)}); "
            "add --resize, or --crop to cut out the centre of larger ones"
        )
    return frame


def _mean_size(wanted: Preprocess) -> tuple[int, int] | None:
    """Height and width of a mean image; None for mean values."""
    mean = wanted.mean
    image = mean is not None and mean.ndim == 3 and mean.shape[1:] != (1, 1)
    return mean.shape[1:] if image else None


def _cut_mean(wanted: Preprocess, frame, size: tuple[int, int]) -> np.ndarray | None:
    """The mean as it is subtracted from what was cut out, as Caffe indexes it."""
    whole = _mean_size(wanted)
    if whole is None or whole == size:
        return wanted.mean
    before = wanted.resize.size if wanted.resize else frame
    if whole != before:
        had = f"frames of {_show(before)}" if before else "frames of any size"
        raise ExportError(
            f"the mean image is {_show(whole)}, which is neither the size of the net's input "
            f"({_show(size)}) nor that of {had}; --resize {whole[0]}x{whole[1]} --crop brings them "
            "to it"
        )
    top, left = ((have - want) // 2 for have, want in zip(whole, size))
    return np.ascontiguousarray(wanted.mean[:, top : top + size[0], left : left + size[1]])


def _write(steps: Pipeline, wanted: Preprocess, size: tuple[int, int], mean) -> None:
    """The steps; a frame that is not resized is cut first, while it is small bytes."""
    if not wanted.resize:
        steps.cut(size)
    if wanted.channels == "gray":
        if wanted.camera == "gray":
            steps.to_float()
        else:
            steps.to_grey([wanted.camera.index(colour) for colour in "rgb"])
        steps.to_channels_first()
    else:
        steps.pick([wanted.camera.index(colour) for colour in wanted.channels])
        steps.to_channels_first()
        steps.to_float()
    if wanted.resize:
        if wanted.resize.short:
            steps.resize_short(wanted.resize.short)
        else:
            steps.resize(wanted.resize.size)
        steps.cut(size)
    if mean is not None:
        steps.subtract(mean)
    if wanted.scale != 1:
        steps.multiply(wanted.scale)


def _show(dims: Sequence) -> str:
    return " x ".join("?" if axis is None else str(axis) for axis in dims)
