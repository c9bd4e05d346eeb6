"""The options of calibrated surgery, which share with ``--images`` how images are prepared."""

from __future__ import annotations

import click

from ..errors import UsageError
from .options import NotEmpty

_PREPARING = ("mean", "scale", "bgr", "crop", "transform", "resize")
_FLAGS = ("bgr", "crop")

_OPTIONS = (
    click.option(
        "--calibrate",
        type=NotEmpty(),
        metavar="IMAGES",
        help="Fit the smaller net to these images (see `caffesurgery help calibration`): .npy, "
        ".npz, a folder, an LMDB, or a prototxt with a data layer; no labels.",
    ),
    click.option(
        "--calibration-images",
        "count",
        type=click.IntRange(min=1),
        help="How many of them at most, drawn by --seed; by default 1000.",
    ),
)


def calibrating(command):
    """The options that say which images a smaller net is fitted to."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def calibrator(given: dict, calibrate: str | None, count: int | None, seed: int, jobs: int | None):
    """The Calibrator that the options describe, or None.

    Takes out of ``given`` what it alone makes use of, where there are no other images.
    """
    from .. import api

    if calibrate is None:
        if count is not None:
            raise UsageError("--calibration-images says nothing without --calibrate")
        return None
    prepare = {name: given[name] for name in _PREPARING}
    if not given["images"]:
        given.update((name, False if name in _FLAGS else None) for name in _PREPARING)
    return api.Calibrator(calibrate, samples=count or 1000, seed=seed, jobs=jobs, **prepare)
