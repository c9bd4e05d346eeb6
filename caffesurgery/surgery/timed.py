"""Predicted milliseconds of a net's layers, as they are and as a scheme would replace them.

What the rank rules ask (``ranks.context.Timing``): shapes of one image and a machine's profile in,
milliseconds out.
"""

from __future__ import annotations

import functools
import math

from ..decompose import Geometry, scheme
from ..errors import PlanError
from ..net.shapes import NetShapes
from ..timing import Profile, dense_part, predict, predicted_ms
from .methods import fit
from .target import TYPES, Target, target


class NetTiming:
    """Milliseconds of one forward pass over what ``shapes`` describe, by a ``profile``.

    ``total`` is that of the net as it is, without the layers that cannot be predicted.
    """

    def __init__(self, shapes: NetShapes, profile: Profile):
        self.profile = profile
        self.images = shapes.images
        self._entries = {entry.layer.name: entry for entry in shapes.layers}
        times = predict(shapes, profile)
        self._ms = {e.layer.name: one.ms for e, one in zip(shapes.layers, times)}
        self.total = sum(ms for ms in self._ms.values() if ms is not None)

    def layer(
        self, name: str, scheme: str | None = None, ranks: tuple[int, ...] | None = None
    ) -> float:
        """Of a layer as it is, or of the chain of ``scheme`` at ``ranks`` in its place.

        PlanError for a layer that no scheme replaces, or that the profile cannot predict.
        """
        if scheme is None:
            found = self._ms.get(name)
        else:
            found = self._chain(name, scheme, tuple(ranks or ()))
        if found is None or math.isnan(found):
            raise PlanError(
                f"layer '{name}': profile {self.profile.name} lacks what it takes to predict it; "
                "make one with `caffesurgery calibrate`"
            )
        return found

    def _chain(self, name: str, method: str, ranks: tuple[int, ...]) -> float:
        seen, geometry = self._seen(name, method)
        return predicted_ms(
            scheme(method).parts(geometry, ranks),
            seen.sizes_of(geometry),
            self.profile,
            seen.bias,
            geometry.kind,
            self.images,
        )

    def dense(self, name: str) -> float:
        """The layer as it is by its geometry alone: what a chain of it is to be compared with."""
        seen = self._target(name)
        return predicted_ms(
            (dense_part(seen.flat),),
            seen.sizes_of(seen.flat),
            self.profile,
            seen.bias,
            seen.flat.kind,
            self.images,
        )

    @functools.cache  # noqa: B019  one net, which ends with its timing
    def _seen(self, name: str, method: str) -> tuple[Target, Geometry]:
        seen = self._target(name)
        geometry = fit(scheme(method), seen.flat, seen.spatial)
        if isinstance(geometry, str):
            raise PlanError(f"layer '{name}': {geometry}")
        return seen, geometry

    def _target(self, name: str) -> Target:
        entry = self._entries.get(name)
        seen = target(entry) if entry and entry.layer.type in TYPES else "no layer of that kind"
        if isinstance(seen, str):
            raise PlanError(f"layer '{name}': {seen}")
        return seen
