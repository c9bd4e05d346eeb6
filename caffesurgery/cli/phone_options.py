"""Options of `export` for phones: preprocessing, smaller forms, labels; and what they mean.

``with_phone_options`` adds them to a command, which gets them as keywords; ``wishes`` turns those
into arguments of the public interface.
"""

from __future__ import annotations

import click

from ..errors import UsageError
from ..net.transform import CAMERAS, CHANNELS


class Size(click.ParamType):
    """``HxW``: height and width of a frame."""

    name = "HxW"

    def convert(self, value, param, ctx):
        """(Height, width) of the text."""
        if isinstance(value, tuple):
            return value
        sides = value.lower().split("x")
        if len(sides) != 2 or not all(side.isdigit() and int(side) for side in sides):
            self.fail(f"met {value!r}, expected height and width, for example 480x640", param, ctx)
        return int(sides[0]), int(sides[1])


_OPTIONS = (
    click.option("--preprocess", is_flag=True, help="Put the preprocessing of images inside."),
    click.option("--preprocess-from", "train_val", metavar="TRAIN_VAL",
                 help="The prototxt whose transform_param says what that is."),
    click.option("--mean", help="Subtract: numbers with commas, or a .binaryproto or .npy file."),
    click.option("--scale", type=float, help="Multiply, after --mean."),
    click.option("--channels", type=click.Choice(CHANNELS),
                 help="Order that the net takes; bgr by default, as Caffe reads images."),
    click.option("--camera", type=click.Choice(CAMERAS),
                 help="Order of a frame's bytes; rgb by default."),
    click.option("--resize", metavar="SIZE",
                 help="Bring frames to 256x256, or their shorter side to short=256."),
    click.option("--crop", is_flag=True, help="Cut out the centre that the net takes."),
    click.option("--frame", type=Size(), help="Fix the size of frames, which is open."),
    click.option("--labels", metavar="FILE", help="Class labels, one a line, as metadata."),
    click.option("--fp16", is_flag=True, help="Store and compute in float16."),
    click.option("--fp16-io", is_flag=True, help="Inputs and outputs in float16 too."),
    click.option("--int8", is_flag=True, help="Store and compute in 8 bits; needs --images."),
    click.option("--images", help="Images to calibrate --int8: as for evaluate."),
    click.option("--test-images",
                 help=".npz (keys images, labels) on which the forms are measured."),
    click.option("--ort", is_flag=True, help="Write ORT format too, and its operator list."),
    click.option("--check-mobile", "mobile", is_flag=True,
                 help="Say what NNAPI, CoreML and XNNPACK make of it."),
)  # fmt: skip
_DESCRIBING = ("train_val", "mean", "scale", "channels", "camera", "resize", "frame")


def with_phone_options(command):
    """``command`` with the options, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def wishes(model, given: dict) -> dict:
    """Keywords of ``api.export_for_phones`` for the options that were given.

    What describes the preprocessing goes into the file with --preprocess (or --preprocess-from);
    without, it prepares the images on which a smaller form is made or measured.
    """
    from .. import api

    inside = given["preprocess"] or given["train_val"] is not None
    described = [name for name in _DESCRIBING if given[name] is not None]
    described += ["crop"] if given["crop"] else []
    used = given["images"] or given["test_images"]
    if described and not inside and not used:
        option = f"--{described[0].replace('_', '-')}"
        raise UsageError(
            f"{option} says how frames are prepared; say --preprocess to put it inside"
        )
    if given["fp16_io"] and not given["fp16"]:
        raise UsageError("--fp16-io is for float16 files; add --fp16")
    preprocess = None
    if inside or described:
        preprocess = api.preprocessing(
            model,
            given["train_val"],
            mean=given["mean"],
            scale=given["scale"],
            channels=given["channels"] or "",
            camera=given["camera"] or "",
            resize=given["resize"],
            crop=given["crop"],
            frame=given["frame"],
        )
    return {
        "precisions": _precisions(given["fp16"], given["int8"]),
        "preprocess": preprocess,
        "inside": bool(inside),
        "halve_ends": given["fp16_io"],
        **{key: given[key] for key in ("labels", "ort", "mobile", "images", "test_images")},
    }


def _precisions(fp16: bool, int8: bool) -> tuple[str, ...]:
    """One precision for the file, or all three where both smaller ones are asked for."""
    if fp16 and int8:
        return ("float32", "float16", "int8")
    return ("float16",) if fp16 else ("int8",) if int8 else ("float32",)
