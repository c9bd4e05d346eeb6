"""Dense kernels that decomposed layers amount to, kept while cases of ranks have layers in common.

What is kept are the factors, which are small.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from ..decompose import SCHEMES, Aim, compose
from ..decompose.task import Task
from ..net.shapes import NetShapes
from ..surgery.methods import fit
from ..surgery.target import Target, target
from .weights import Weights


class Cut(NamedTuple):
    """How one layer of a case is decomposed; effort and bound as ``decompose.Aim`` has them."""

    layer: str
    scheme: str
    ranks: tuple[int, ...]
    effort: str = "normal"
    max_norm: float | None = None


Case = tuple[Cut, ...]
"""Every layer that is decomposed, in the order of the net."""

_KEPT = 1 << 28
"""Bytes of factors to keep, the latest ones."""


class Decomposed:
    """The layers of one net with its weights, decomposed as cases ask for."""

    def __init__(self, shapes: NetShapes, weights: Weights, seed: int):
        self._shapes = {entry.layer.name: entry for entry in shapes.layers}
        self._weights = weights
        self._seed = seed
        self._factors: OrderedDict[Cut, tuple[np.ndarray, ...]] = OrderedDict()

    def kernels(self, case: Case) -> dict[str, np.ndarray]:
        """The weight blob that each layer of a case amounts to, in the layout of its own.

        Raises DecomposeError for weights or ranks that cannot be decomposed.
        """
        return {cut.layer: self._blob(cut) for cut in case}

    def _blob(self, cut: Cut) -> np.ndarray:
        scheme, found = SCHEMES[cut.scheme], target(self._shapes[cut.layer])
        assert isinstance(found, Target)  # it was a candidate
        geometry = fit(scheme, found.flat, found.spatial)
        if cut not in self._factors:
            kernel = found.kernel(self._weights.blobs(cut.layer)[0].array(), geometry)
            aim = Aim(cut.effort, cut.max_norm)
            where = f"layer '{cut.layer}' ({self._weights.path})"
            task = Task(where, cut.scheme, kernel, geometry.group, cut.ranks, self._seed, aim)
            self._keep(cut, task.run().factors)
        self._factors.move_to_end(cut)
        parts = scheme.parts(geometry, cut.ranks)
        dense = compose(self._factors[cut], parts, geometry.group)
        return dense.reshape(geometry.T, -1).T if found.transpose else dense

    def _keep(self, cut: Cut, factors: tuple[np.ndarray, ...]) -> None:
        self._factors[cut] = factors
        kept = sum(array.nbytes for each in self._factors.values() for array in each)
        while kept > _KEPT and len(self._factors) > 1:
            kept -= sum(array.nbytes for array in self._factors.popitem(last=False)[1])
