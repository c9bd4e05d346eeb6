"""The table of layer types that can be trained, and what each is given to be built from.

A maker takes a ``Build`` (a layer with its shapes and phase) and returns a ``Forward``: a function
from the bottoms and the parameter blobs, both as tensors, to the top (or a tuple of tops).  What
can be worked out beforehand is worked out once; gradients are autograd's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ....errors import TrainError, suggest
from ....net.net import Layer
from ....net.shapes import LayerShapes

Tensors = Sequence[torch.Tensor]
Forward = Callable[[Tensors, Tensors], object]


@dataclass
class Context:
    """What the layers of one net share while it runs.

    ``rank`` of ``of`` processes has the items rank, rank + of, ... of every batch; ``generator``
    draws the random numbers of one forward pass, the same on every process.
    """

    rank: int = 0
    of: int = 1
    generator: torch.Generator = field(default_factory=torch.Generator)

    def total(self, count: torch.Tensor) -> torch.Tensor:
        """The sum of a count (no gradient) over all processes."""
        if self.of > 1:
            torch.distributed.all_reduce(count)
        return count


@dataclass(frozen=True)
class Build:
    """One layer to be built: its shapes, the phase that it works in, and the net's context.

    ``alone`` says that its bottom 0 may be overwritten: nothing else reads it, and who made it does
    not need it for its gradient.
    """

    entry: LayerShapes
    phase: str
    context: Context
    alone: bool = False

    @property
    def layer(self) -> Layer:
        """The layer itself."""
        return self.entry.layer

    @property
    def bottom(self) -> tuple[int, ...]:
        """Shape of the first bottom."""
        return self.entry.bottoms[0]

    @property
    def top(self) -> tuple[int, ...]:
        """Shape of the first top."""
        return self.entry.tops[0]

    def params(self, name: str):
        """The layer's message ``name``."""
        return self.layer.params(name)

    def refuse(self, text: str) -> TrainError:
        """The error for something that cannot be trained: ``raise build.refuse(...)``."""
        return TrainError(f"{self.layer.where()}: {self.layer.type}: {text}")


_MAKERS: dict[str, Callable[[Build], Forward]] = {}


def trains(*types: str):
    """Decorator: registers a maker for layer types."""

    def register(maker: Callable[[Build], Forward]):
        for name in types:
            if name in _MAKERS:
                raise AssertionError(f"layer type {name!r} has two makers")
            _MAKERS[name] = maker
        return maker

    return register


def maker_of(layer: Layer) -> Callable[[Build], Forward]:
    """The maker of a layer; TrainError naming layer, type and line where there is none."""
    if layer.type not in _MAKERS:
        raise TrainError(
            f"{layer.where()}: layer type '{layer.type}' cannot be trained without Caffe; use "
            f"--trainer caffe with a Caffe that has it; {suggest(layer.type, _MAKERS)}"
        )
    return _MAKERS[layer.type]


def trainable() -> tuple[str, ...]:
    """All layer types that have a maker, sorted."""
    return tuple(sorted(_MAKERS))


def elementwise(function: Callable[[torch.Tensor], torch.Tensor]) -> Forward:
    """The Forward of a function of bottom 0 alone."""

    def forward(bottoms, blobs):
        return function(bottoms[0])

    return forward
