"""The table of layer types that can be computed, and what each is given to do so.

A kernel is a function that takes a ``Job`` (a layer with the arrays that it reads and writes, which
stay the same for every run) and returns what one run has to do, as a function without arguments:
whatever can be worked out before the first run is worked out once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import NetError, suggest
from ..net.layers.base import refuse
from ..net.net import Layer

Compute = Callable[[], None]
"""One forward pass of one layer, on the arrays it was prepared for."""


@dataclass(frozen=True)
class Job:
    """One layer, its arrays (float32, C-contiguous) and its parameter blobs.

    ``scratch(shape)`` gives a float32 array whose contents last for one run of this layer only;
    ``threads`` is how many im2col may use.  A top may be the same array as its bottom only where
    the kernel was registered with ``in_place``.
    """

    layer: Layer
    bottoms: tuple[np.ndarray, ...]
    tops: tuple[np.ndarray, ...]
    blobs: tuple[np.ndarray, ...]
    scratch: Callable[[tuple[int, ...]], np.ndarray]
    threads: int = 1

    @property
    def bottom(self) -> np.ndarray:
        """The first bottom."""
        return self.bottoms[0]

    @property
    def top(self) -> np.ndarray:
        """The first top."""
        return self.tops[0]

    def refuse(self, text: str) -> NetError:
        """The error for something that cannot be computed: ``raise job.refuse(...)``."""
        return refuse(self.layer, text)


@dataclass(frozen=True)
class Kernel:
    """How one layer type is computed.

    ``in_place``: top 0 may be written over bottom 0; ``shares(layer)``: the tops are views of
    bottom 0, as where Caffe shares the data of two blobs, so that nothing is left to be done.
    """

    prepare: Callable[[Job], Compute]
    in_place: bool
    shares: Callable[[Layer], bool]


_KERNELS: dict[str, Kernel] = {}


def computes(
    *types: str, in_place: bool = False, shares: Callable[[Layer], bool] = lambda layer: False
):
    """Decorator: registers a function from a Job to a Compute for layer types; see ``Kernel``."""

    def register(prepare: Callable[[Job], Compute]):
        for name in types:
            if name in _KERNELS:
                raise AssertionError(f"layer type {name!r} has two kernels")
            _KERNELS[name] = Kernel(prepare, in_place, shares)
        return prepare

    return register


def kernel_of(layer: Layer) -> Kernel:
    """The kernel of a layer; NetError naming its type and line where there is none."""
    if layer.type not in _KERNELS:
        raise NetError(
            f"{layer.where()}: layer type '{layer.type}' cannot be computed; take the layer out of "
            f"the net; {suggest(layer.type, _KERNELS)}"
        )
    return _KERNELS[layer.type]


def computable() -> tuple[str, ...]:
    """All layer types that have a kernel, sorted."""
    return tuple(sorted(_KERNELS))


def nothing() -> None:
    """The Compute of a layer that has nothing to do."""
