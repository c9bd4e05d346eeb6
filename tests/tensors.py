"""Kernels for the tests of decompositions: spectra that decay as those of trained layers."""

from __future__ import annotations

import numpy as np


def trained_like(T, S, D, seed=0, power=0.6):
    """A kernel whose unfoldings have decaying spectra, as those of trained layers."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((T, S, D * D))
    for axis, size in enumerate(weight.shape):
        turn = np.linalg.qr(rng.standard_normal((size, size)))[0]
        turn = turn * (1 + np.arange(size) / (0.05 * size + 1)) ** -power
        weight = np.moveaxis(np.tensordot(turn, weight, (1, axis)), 0, axis)
    return weight.reshape(T, S, D, D).astype(np.float32)
