"""What is lost when layers are decomposed at given ranks, found for many layers at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..decompose import SCHEMES, Decomposition
from ..decompose.task import Task, run_task
from ..errors import DecomposeError
from ..workers import run_all
from .candidate import Candidate
from .context import Ranks, RuleContext

WORTH_WORKERS = 2_000_000
"""Weights of all layers together from which a search takes longer than starting the workers."""


def fits(context: RuleContext, pairs: Sequence[tuple[Candidate, Ranks]]) -> list[Decomposition]:
    """The decomposition of each layer at its ranks, by the context's workers, if it has any.

    Raises DecomposeError that names the layer whose weights cannot be decomposed.
    """
    tasks = _Lazy(_decomposition, context, pairs)
    if context.workers is None:
        return [task.run() for task in tasks]
    return run_all(context.workers, run_task, None, tasks, progress=context.progress)


def _decomposition(context: RuleContext, candidate: Candidate, ranks: Ranks) -> Task:
    where, scheme = f"layer '{candidate.name}'", candidate.scheme.name
    kernel, group = candidate.kernel(), candidate.geometry.group
    options = (context.seed, context.aim, candidate.metric)
    return Task(where, scheme, kernel, group, ranks, *options)


class _Lazy(Sequence):
    """What ``make`` gives for each pair, made when it is its turn, so that kernels stay on disk."""

    def __init__(self, make: Callable, context: RuleContext, pairs: Sequence[tuple]):
        self._make = make
        self._context = context
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index):
        return self._make(self._context, *self._pairs[index])


def smallest_ranks(
    context: RuleContext,
    candidates: Sequence[Candidate],
    search: str,
    value: float,
    limits: Sequence[int | None],
) -> list[Ranks]:
    """What a scheme's ``search`` ('ranks_for_energy', 'ranks_for_error') finds for each layer.

    CP layers, whose ranks take decompositions to find, are shared out to the context's workers
    where that is worth starting them.
    """
    pairs = [(each, (search, value, limit)) for each, limit in zip(candidates, limits)]
    long = [pair for pair in pairs if pair[0].scheme.takes_max_norm]
    numbers = sum(int(np.prod(each.geometry.weight_shape)) for each, _ in long)
    found: dict[str, Ranks] = {}
    if context.workers is not None and numbers >= WORTH_WORKERS:
        names = [each.name for each, _ in long]
        tasks = _Lazy(_task, context, long)
        ranks = run_all(context.workers, _search, None, tasks, progress=context.progress)
        found.update(zip(names, ranks))
    for index, (candidate, wanted) in enumerate(pairs):
        if candidate.name not in found:
            context.tell(candidate.name, index / len(pairs))
            found[candidate.name] = _search(None, _task(context, candidate, wanted))
    return [found[each.name] for each in candidates]


def _search(_, task: tuple) -> Ranks:
    """What a worker does."""
    name, scheme, kernel, group, (search, value, limit), options = task
    try:
        return getattr(SCHEMES[scheme], search)(kernel, group, value, limit, **options)
    except DecomposeError as error:
        raise DecomposeError(f"layer '{name}': {error}") from error


def _task(context: RuleContext, candidate: Candidate, wanted: tuple) -> tuple:
    aim = candidate.scheme.suited(context.aim)
    options = {"seed": context.seed, "effort": aim.effort, "max_norm": aim.max_norm}
    geometry = candidate.geometry
    return (
        candidate.name,
        candidate.scheme.name,
        candidate.seen(),
        geometry.group,
        wanted,
        options,
    )
