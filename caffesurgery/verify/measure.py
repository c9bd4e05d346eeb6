"""Measures cases of ranks on labelled images: from the cache, and all that is new at once.

In: a subject and cases; out: their metrics.  Each piece of work is one case of a whole net, or a
few of one layer, which share what comes before it; what is measured is kept as soon as it is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace

import numpy as np

from ..workers import Progress, run_all
from .cache import MetricsCache
from .decomposed import Case
from .evaluate import Outcome, evaluate
from .scores import Metrics
from .subject import Subject

_TOGETHER = 4
"""Cases of one layer that a worker evaluates side by side, each with a session in memory."""


class Measurer:
    """Metrics of a subject's cases, with agreement counted against the net as it is."""

    def __init__(self, subject: Subject, workers: Executor, cache: MetricsCache):
        self.subject = subject
        self._workers = workers
        self._cache = cache
        self._known: dict[Case, Outcome] = {}

    def measure(self, cases: Sequence[Case], progress: Progress | None = None) -> list[Metrics]:
        """Metrics of each case; () is the net as it is."""
        if () not in self._known:
            self._run([()], None, progress)
        reference = self._known[()].predicted
        new = [case for case in dict.fromkeys(cases) if case not in self._known]
        self._run(new, reference, progress)
        return [self._known[case].metrics for case in cases]

    def _run(self, cases: list[Case], reference: np.ndarray | None, progress) -> None:
        digest = self.subject.digest
        for case in cases:
            found = self._cache.get(digest, case)
            if found:
                self._known[case] = found
        groups = _groups([case for case in cases if case not in self._known])

        def keep(index: int, outcomes: list[Outcome]) -> None:
            for case, outcome in zip(groups[index], outcomes):
                self._known[case] = outcome
                self._cache.put(digest, case, outcome)

        shared = (self.subject, reference)
        run_all(self._workers, _evaluate_group, shared, groups, keep, progress)


def _groups(cases: list[Case]) -> list[tuple[Case, ...]]:
    """Cases to be evaluated together: a few of one layer, or one of several layers."""
    alone: dict[str, list[Case]] = {}
    groups = []
    for case in cases:
        if len(case) == 1:
            alone.setdefault(case[0].layer, []).append(case)
        else:
            groups.append((case,))
    for same in alone.values():
        groups += [
            tuple(same[start : start + _TOGETHER]) for start in range(0, len(same), _TOGETHER)
        ]
    return groups


def _evaluate_group(shared, group: tuple[Case, ...]) -> list[Outcome]:
    """What a worker does, on one thread, so that as many as there are processors can work."""
    subject, reference = shared
    found = evaluate(subject, group, reference, threads=1)
    if reference is not None:
        return found
    return [_against_itself(outcome) for outcome in found]


def _against_itself(outcome: Outcome) -> Outcome:
    """The outcome of the net as it is, which agrees with itself wherever its scores are numbers."""
    same = 1.0 - outcome.metrics.not_finite / outcome.metrics.images
    return Outcome(replace(outcome.metrics, agreement=same), outcome.predicted)
