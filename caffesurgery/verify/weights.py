"""Parameter blobs outside their file: they can travel, and be replaced.

For who only reads blobs they look like a Caffemodel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import WeightsError, suggest


@dataclass(frozen=True)
class Stored:
    """A parameter blob outside its file, with what a Blob says of itself."""

    values: np.ndarray
    legacy_dims: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """As the file has it."""
        return self.values.shape

    def array(self) -> np.ndarray:
        """The numbers."""
        return self.values


class Weights:
    """Parameter blobs by layer name; looks like a Caffemodel to who only reads blobs."""

    def __init__(self, path: str, stored: Mapping[str, Sequence[Stored]]):
        self.path = path
        self.stored = stored

    def names(self) -> list[str]:
        return list(self.stored)

    def __contains__(self, name: str) -> bool:
        return name in self.stored

    def blobs(self, name: str) -> list[Stored]:
        """The blobs of a layer; WeightsError where there is none of that name."""
        if name not in self.stored:
            raise WeightsError(f"{self.path}: no layer '{name}'; {suggest(name, self.stored)}")
        return list(self.stored[name])

    def replaced(self, kernels: Mapping[str, np.ndarray]) -> Weights:
        """The same with other numbers in the first blob of some layers."""
        changed = {
            name: (Stored(kernel.reshape(self.stored[name][0].shape)), *self.stored[name][1:])
            for name, kernel in kernels.items()
        }
        return Weights(self.path, {**self.stored, **changed})


def stored_weights(weights) -> Weights:
    """The blobs of a Caffemodel, still views on its file."""
    return Weights(
        str(weights.path),
        {
            name: tuple(Stored(blob.array(), blob.legacy_dims) for blob in weights.blobs(name))
            for name in weights.names()
            if all(blob.readable for blob in weights.blobs(name))
        },
    )
