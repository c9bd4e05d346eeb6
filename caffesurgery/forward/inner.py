"""InnerProduct and Embed: the layers with a matrix."""

from __future__ import annotations

import numpy as np

from ..net.layers.base import axis_of
from .joining import indices
from .kernel import Compute, Job, computes


@computes("InnerProduct")
def inner_product(job: Job) -> Compute:
    """One GEMM over the flattened bottom (a matrix times a vector for a single item)."""
    params = job.layer.params("inner_product_param")
    axis = axis_of(job.layer, job.bottom.shape, params["axis"])
    items = int(np.prod(job.bottom.shape[:axis], dtype=int))
    rows, top = job.bottom.reshape(items, -1), job.top.reshape(items, -1)
    matrix = job.blobs[0] if params["transpose"] else job.blobs[0].T
    bias = job.blobs[1] if len(job.blobs) > 1 else None

    def run():
        np.matmul(rows, matrix, top)
        if bias is not None:
            np.add(top, bias, top)

    return run


@computes("Embed")
def embed(job: Job) -> Compute:
    """One row of a table for each index."""
    table, top = job.blobs[0], job.top.reshape(-1, job.blobs[0].shape[1])
    bias = job.blobs[1] if len(job.blobs) > 1 else None

    def run():
        rows = indices(job, job.bottom.reshape(-1), len(table))
        np.take(table, rows, axis=0, out=top, mode="clip")
        if bias is not None:
            np.add(top, bias, top)

    return run
