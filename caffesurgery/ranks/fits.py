"""What is lost when layers are decomposed at given ranks, found for many layers at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..decompose import SCHEMES
from ..errors import DecomposeError
from ..workers import run_all
from .candidate import Candidate
from .context import Ranks, RuleContext

Curve = np.ndarray
"""Relative errors with the first 1, 2, ... components of each group; empty where not known."""


def fits(
    context: RuleContext, pairs: Sequence[tuple[Candidate, Ranks]]
) -> list[tuple[float, Curve]]:
    """Relative error ||W - What|| / ||W|| of each layer at its ranks, and what is known below them.

    The layers are shared out to the context's workers, where there are some.  Raises DecomposeError
    that names the layer whose weights cannot be decomposed.
    """
    if context.workers is None:
        found = []
        for index, pair in enumerate(pairs):
            context.tell(pair[0].name, index / len(pairs))
            found.append(_fit(None, _task(context, *pair)))
        return found
    tasks = _Tasks(context, pairs)
    return run_all(context.workers, _fit, None, tasks, progress=context.progress)


class _Tasks(Sequence):
    """The tasks of ``pairs``, each made when it is its turn, so that kernels stay on disk."""

    def __init__(self, context: RuleContext, pairs: Sequence[tuple[Candidate, Ranks]]):
        self._context = context
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index):
        return _task(self._context, *self._pairs[index])


def _task(context: RuleContext, candidate: Candidate, ranks: Ranks) -> tuple:
    aim = candidate.scheme.suited(context.aim)
    options = {"seed": context.seed, "effort": aim.effort, "max_norm": aim.max_norm}
    geometry = candidate.geometry
    return candidate.name, candidate.scheme.name, candidate.kernel(), geometry.group, ranks, options


def _fit(_, task: tuple) -> tuple[float, Curve]:
    """What a worker does."""
    name, scheme, kernel, group, ranks, options = task
    try:
        found = SCHEMES[scheme].decompose(kernel, group, ranks, **options)
    except DecomposeError as error:
        raise DecomposeError(f"layer '{name}': {error}") from error
    return float(found.error), np.empty(0) if found.curve is None else found.curve
