"""Profiles of machines: measured here, or made from Caffe's own logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..timing import Profile
from .model import Progress, stage_of


def calibrate(
    name: str,
    *,
    logs: Sequence = (),
    machine: str = "",
    threads: int = 1,
    quick: bool = False,
    runtime: str = "caffesurgery",
    progress: Progress | None = None,
) -> Profile:
    """A profile of this machine, measured on small nets, or of the one that wrote ``logs``.

    logs: paths of what ``caffe time`` printed; without any this machine is measured, in a quarter
        of a minute, or in a few seconds with ``quick``
    runtime: 'caffesurgery' for this program's own forward pass, or 'onnxruntime'
    machine: what to call it, by default as the processor calls itself; threads: of its BLAS
    Returns a Profile, whose ``dumps()`` is the text of its file; FileError for what is no log.
    """
    if logs:
        from ..timing.caffe_log import profile_from_logs

        return profile_from_logs(logs, name, machine, threads)
    if runtime == "onnxruntime":
        from ..verify.calibrate import measure_onnxruntime as measure
    else:
        from ..timing.calibrate import measure_profile as measure
    made = measure(name, threads, quick, stage_of(progress, "measure"))
    return replace(made, machine=machine or made.machine)
