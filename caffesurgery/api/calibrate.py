"""Profiles of machines, made from Caffe's own logs: ``calibrate``."""

from __future__ import annotations

from collections.abc import Sequence

from ..timing import Profile


def calibrate(name: str, logs: Sequence, *, machine: str = "", threads: int = 1) -> Profile:
    """A profile of the machine on which ``caffe time`` wrote these ``logs`` (paths).

    machine: what to call it; threads: what its BLAS used, for people
    Returns a Profile, whose ``dumps()`` is the text of its file; FileError for what is no log.
    """
    from ..timing.caffe_log import profile_from_logs

    return profile_from_logs(logs, name, machine, threads)
