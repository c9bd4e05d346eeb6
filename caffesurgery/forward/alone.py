"""One layer computed by itself: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..net.shapes import LayerShapes
from . import depthwise
from .kernel import Job, kernel_of
from .runner import fed


def run_layer(
    entry: LayerShapes,
    blobs: Sequence[np.ndarray],
    bottoms: Sequence[np.ndarray],
    inputs: Mapping[str, np.ndarray] | None = None,
    reuse: bool = False,
) -> list[np.ndarray]:
    """The tops of a layer (float32, C-contiguous) for its bottoms, with BLAS as it is set.

    ``inputs`` are the arrays of data layers by blob.  With ``reuse`` the first top may be written
    over the first bottom, where the layer can work in place.
    """
    kernel = kernel_of(entry.layer)
    tops = [np.empty(shape, np.float32) for shape in entry.tops]
    if kernel.shares(entry.layer):
        for top in tops:
            np.copyto(top.reshape(-1), bottoms[0].reshape(-1))
        return tops
    if reuse and kernel.in_place and bottoms[0].shape == entry.tops[0]:
        tops[0] = bottoms[0]
    parameters = tuple(np.require(blob, np.float32, "CA") for blob in blobs)
    if depthwise.fits(entry):
        depthwise.make(entry, parameters, *bottoms, *tops)
        return tops
    job = Job(entry.layer, tuple(bottoms), tuple(tops), parameters, _scratch)
    for name, top in fed(entry.layer, tops):
        np.copyto(top, inputs[name], "same_kind")
    with np.errstate(all="ignore"):
        kernel.prepare(job)()
    return tops


def _scratch(shape: tuple[int, ...]) -> np.ndarray:
    return np.empty(shape, np.float32)
