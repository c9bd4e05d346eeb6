"""A layer as a rank rule sees it: its scheme, its geometry, its costs, and its kernel on demand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..cost import Cost, Sizes, chain_cost, dense_cost
from ..decompose import Geometry, Scheme
from ..decompose.metric import Metric
from ..decompose.outputs import OutputMetric
from ..timing import Profile, dense_part, predicted_ms


@dataclass(frozen=True)
class Candidate:
    """A layer that a scheme can replace.

    ``kernel()`` reads its weights when they are needed: (T, S/group, D, E) float32, where a fully
    connected layer has D = E = 1 unless it is seen as the convolution over its spatial bottom.

    ``twins`` are the other layers that share its weights, with their sizes: they get what it gets,
    and their multiply-adds count beside its own.

    ``metric`` is what images say of its inputs, or of its outputs; None where there are none.
    """

    name: str
    scheme: Scheme
    geometry: Geometry
    sizes: Sizes
    bias: bool
    kernel: Callable[[], np.ndarray]
    twins: tuple[tuple[str, Sizes], ...] = ()
    metric: Metric | OutputMetric | None = None

    @property
    def worth(self) -> float:
        """What the net loses for each unit of the squared relative error, as far as is known."""
        return 1.0 if self.metric is None else self.metric.worth

    def seen(self) -> np.ndarray:
        """The kernel as the metric sees it, so that its spectra and errors are those of the layer's
        outputs; ``kernel()`` itself where there is none.  Of the same shape, or (T, T / g, 1, 1)
        under an ``OutputMetric``."""
        if self.metric is None:
            return self.kernel()
        if isinstance(self.metric, OutputMetric):
            return self.metric.root()
        parts = self.scheme.parts(self.geometry, self.scaled(0, 1))
        return self.metric.fresh().whiten(self.kernel(), parts)

    @functools.cached_property
    def before(self) -> Cost:
        """Cost of the layer as it is."""
        return self._shared(lambda sizes: dense_cost(self.geometry, sizes, self.bias))

    @functools.cached_property
    def max_ranks(self) -> tuple[int, ...]:
        """The largest ranks that make sense; with them the layer is reproduced exactly."""
        return self.scheme.max_ranks(self.geometry)

    def after(self, ranks: tuple[int, ...]) -> Cost:
        """Cost of the chain at ``ranks``."""
        parts = self.scheme.parts(self.geometry, ranks)
        return self._shared(lambda sizes: chain_cost(parts, sizes, self.bias))

    def cost(self, ranks: tuple[int, ...] | None) -> Cost:
        """Cost of the chain at ``ranks``, or of the layer as it is where they are None."""
        return self.before if ranks is None else self.after(ranks)

    def milliseconds(self, ranks: tuple[int, ...] | None, profile: Profile, images: int) -> float:
        """Predicted time of the chain at ``ranks``, of the layer as it is where they are None."""
        geometry = self.geometry
        parts = [dense_part(geometry)] if ranks is None else self.scheme.parts(geometry, ranks)
        every = (self.sizes, *(sizes for _, sizes in self.twins))
        return sum(
            predicted_ms(parts, sizes, profile, self.bias, geometry.kind, images) for sizes in every
        )

    def _shared(self, cost: Callable[[Sizes], Cost]) -> Cost:
        """Its own cost, and the multiply-adds of its twins."""
        own = cost(self.sizes)
        return Cost(own.params, own.macs + sum(cost(sizes).macs for _, sizes in self.twins))

    def scaled(self, step: int, steps: int) -> tuple[int, ...]:
        """Ranks at ``step`` of ``steps`` on the scheme's way from the least to the largest."""
        return self.scheme.growing(self.geometry, step, steps)

    def largest_within(self, macs: float) -> tuple[int, ...] | None:
        """The largest ranks whose chain needs at most ``macs`` multiply-adds; None if none does.

        Several ranks grow together, as the scheme lets them.
        """
        steps = max(self.max_ranks)
        if self.after(self.scaled(0, steps)).macs > macs:
            return None
        low, high = 0, steps
        while low < high:
            middle = (low + high + 1) // 2
            if self.after(self.scaled(middle, steps)).macs <= macs:
                low = middle
            else:
                high = middle - 1
        return self.scaled(low, steps)
