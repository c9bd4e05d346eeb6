"""The geometry of a dense layer and of the small layers that replace it: sizes alone, no numbers.

Shapes are those of Caffe's weight blobs, (outputs, inputs / group, height, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import DecomposeError


@dataclass(frozen=True)
class Geometry:
    """The dense layer: T output channels, S input channels (over all groups), a D x E kernel.

    A fully connected layer over a spatial bottom (C, H, W) is S = C, D = H, E = W; over a flat
    one D = E = 1.  ``kind`` is 'conv' or 'fc'.
    """

    T: int
    S: int
    D: int
    E: int
    group: int = 1
    kind: str = "conv"

    def __post_init__(self):
        if min(self.T, self.S, self.D, self.E, self.group) < 1:
            raise DecomposeError(f"met {self}: every size must be at least 1")
        if self.T % self.group or self.S % self.group:
            raise DecomposeError(
                f"{self.T} output and {self.S} input channels do not divide into "
                f"{self.group} groups"
            )

    @classmethod
    def of(cls, shape: Sequence[int], group: int = 1, kind: str = "conv") -> Geometry:
        """The geometry of a Caffe weight blob (T, S / group, D, E), or of a matrix (T, S)."""
        if len(shape) not in (2, 4):
            raise DecomposeError(f"met a kernel of shape {tuple(shape)}: expected (T, S, D, E)")
        T, S, D, E = (*shape, 1, 1)[:4]
        return cls(T, S * group, D, E, group, kind)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of the dense weight blob: (T, S / group, D, E)."""
        return (self.T, self.S // self.group, self.D, self.E)


@dataclass(frozen=True)
class Part:
    """One small layer of a chain; ``axes`` names whose stride, pad and dilation it takes.

    'hw' takes the dense layer's both, 'h' the vertical and 'w' the horizontal ones; everything
    else is stride 1, pad 0, dilation 1.  Only the last part of a chain has a bias, so that zero
    padding inside the chain is exact.
    """

    suffix: str
    out: int
    inp: int
    kh: int = 1
    kw: int = 1
    group: int = 1
    axes: str = ""

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weight blob in Caffe: (out, inp / group, kh, kw)."""
        return (self.out, self.inp // self.group, self.kh, self.kw)
