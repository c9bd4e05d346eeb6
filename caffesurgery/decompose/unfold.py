"""Unfoldings of a kernel (T, S, D, E): the matrices whose spectra and ranks tell of its modes."""

from __future__ import annotations

import numpy as np


def by_output(block: np.ndarray) -> np.ndarray:
    """Mode-4 unfolding T x (S D E) of a kernel (T, S, D, E); a view where possible."""
    return block.reshape(len(block), -1)


def by_input(block: np.ndarray) -> np.ndarray:
    """Mode-3 unfolding S x (T D E) of a kernel (T, S, D, E); a copy for kernels above 1 x 1."""
    return block.transpose(1, 0, 2, 3).reshape(block.shape[1], -1)


def by_tap(block: np.ndarray) -> np.ndarray:
    """Unfolding (D E) x (T S) of a kernel (T, S, D, E); a view where possible."""
    T, S, D, E = block.shape
    return block.reshape(T * S, D * E).T


def all_unfoldings(block: np.ndarray) -> dict[str, np.ndarray]:
    """The three unfoldings of a kernel as a 3-way tensor, by the mode that they separate."""
    return {"T": by_output(block), "S": by_input(block), "D": by_tap(block)}
