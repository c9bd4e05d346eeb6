"""Nets run as Caffe runs them, without Caffe or ONNX: ``run`` for what they give, ``time_net`` for
how long they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..report.time import time_report
from .model import Model, Progress, stage_of


def run(
    model: Model, inputs: Mapping[str, np.ndarray], keep: Sequence[str] = (), *, threads: int = 1
) -> dict[str, np.ndarray]:
    """The output blobs of one forward pass in the TEST phase, as float32 arrays by name.

    inputs: an array for each blob that feeds the net, of the shape that ``inspect`` gives
    keep: blobs in between that shall come out too; threads: for BLAS and im2col
    Raises WeightsError for a model with parameters that was loaded without weights, NetError for a
    layer that cannot be computed, naming its type and line, and for inputs that are missing,
    unknown or of another shape.
    """
    from .. import forward

    blobs = forward.load(model.shapes, model.weights)
    return forward.Runner(model.shapes, blobs, keep=keep, threads=threads).run(inputs)


def time_net(
    model: Model,
    iterations: int = 10,
    *,
    threads: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict:
    """The documented report of how long each layer of a model takes on this machine.

    The net runs once and then ``iterations`` times on seeded noise; a model without weights gets
    seeded ones.  For figures that mean something nothing else should run meanwhile.
    """
    from .. import forward

    weights = model.weights
    blobs = forward.load(model.shapes, weights) if weights else forward.seeded(model.shapes, seed)
    runner = forward.Runner(model.shapes, blobs, threads=threads)
    report = stage_of(progress, "time")
    times = forward.measure(
        runner,
        iterations,
        seed=seed,
        progress=(lambda share: report(model.name, share)) if report else None,
    )
    notes = list(model.net.warnings)
    if not runner.told_blas:
        notes.append(
            f"NumPy's BLAS could not be told to use {threads} thread(s); say it in its own "
            "environment variable (OPENBLAS_NUM_THREADS, VECLIB_MAXIMUM_THREADS ...)"
        )
    return time_report(model, times, notes)
