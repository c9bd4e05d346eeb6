"""Factors of a chain scaled so that neighbours are alike in size, with the dense kernel as it was.

Whatever one layer of a chain multiplies a channel with, the next may divide it by.  A gradient is
proportional to the other factors, so where one of them is a hundred times larger than the rest, no
learning rate suits all: training diverges, or stands still.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .geometry import Part

_SWEEPS = 20
"""Passes over the chain, at most; each of them halves at least what neighbours differ by."""
_ALIKE = 1e-12


def evened(factors: Sequence[np.ndarray], parts: Sequence[Part]) -> tuple[np.ndarray, ...]:
    """The factors (float32, of their parts' ``weight_shape``), with channels between them rescaled.

    Of each channel, what makes it then has the norm of what reads it.
    """
    found = [np.array(factor, np.float64) for factor in factors]
    for _ in range(_SWEEPS):
        most = 0.0
        for k, reader in enumerate(parts[1:]):
            maker, groups = found[k], reader.group
            rows = found[k + 1].reshape(groups, reader.out // groups, reader.inp // groups, -1)
            makes = np.sqrt(np.square(maker).sum((1, 2, 3)))
            reads = np.sqrt(np.square(rows).sum((1, 3))).reshape(-1)
            used = (makes > 0) & (reads > 0)
            scale = np.sqrt(np.where(used, reads, 1) / np.where(used, makes, 1))
            found[k] = maker * scale[:, None, None, None]
            rows = rows / scale.reshape(groups, 1, -1, 1)
            found[k + 1] = rows.reshape(reader.weight_shape)
            most = max(most, float(np.abs(scale - 1).max()))
        if most < _ALIKE:
            break
    return tuple(each.astype(np.float32) for each in found)
