"""Layers of forks that enlarge or shrink planes: Interp and Upsample."""

from __future__ import annotations

from functools import partial

import numpy as np

from .joining import indices
from .kernel import Compute, Job, computes


@computes("Interp")
def interp(job: Job) -> Compute:
    """Bilinear interpolation with aligned corners, of what negative pads leave."""
    params = job.layer.params("interp_param")
    start, end = -params["pad_beg"], params["pad_end"] or None
    x = job.bottom[:, :, start:end, start:end]
    (rows, below, down), (columns, beside, across) = (
        _taps(size, new) for size, new in zip(x.shape[2:], job.top.shape[2:])
    )
    down = down[:, None]

    def run():
        lines = x[:, :, rows] * (1 - down) + x[:, :, below] * down
        np.copyto(job.top, lines[..., columns] * (1 - across) + lines[..., beside] * across)

    return run


def _taps(size: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Lower neighbour, upper neighbour, weight of the upper one) of each new place."""
    place = np.arange(new) * ((size - 1) / (new - 1) if new > 1 else 0.0)
    lower = np.minimum(place.astype(int), size - 1)
    return lower, np.minimum(lower + 1, size - 1), (place - lower).astype(np.float32)


@computes("Upsample")
def upsample(job: Job) -> Compute:
    """Each element several times; with a pooling mask, each where it came from, 0 elsewhere."""
    if len(job.bottoms) > 1:
        return _unpool(job)
    items, channels, height, width = job.bottom.shape
    high, wide = (new // old for new, old in zip(job.top.shape[2:], (height, width)))
    cells = job.top.reshape(items, channels, height, high, width, wide)
    return partial(np.copyto, cells, job.bottom[:, :, :, None, :, None])


def _unpool(job: Job) -> Compute:
    planes = job.bottom.shape[0] * job.bottom.shape[1]
    values, mask = (bottom.reshape(planes, -1) for bottom in job.bottoms)
    top = job.top.reshape(planes, -1)

    def run():
        top.fill(0)
        np.put_along_axis(top, indices(job, mask, top.shape[1]), values, 1)

    return run
