"""The course that a flow takes: from its steps and the records of those done, what comes next.

Rolling back, trying again at higher ranks, leaving a group dense and stopping early are decided
here from values alone, so that a flow that goes on after a crash takes the course it would have
taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .flow import Flow
from .steps import Step

START = "start"
"""Name of the folder of the net that a flow starts from."""
ON, AGAIN, DENSE, END, ENOUGH = "go on", "try again", "leave dense", "end", "enough"
"""Decisions, as they stand in the journal and the report."""


@dataclass(frozen=True)
class Record:
    """What became of one step.

    index, attempt: which step, and how often its group had been rolled back before
    start, model: folders (under ``steps/``) of the net before the group, and after the step
    decision: what is to happen next, and ``why``
    params, macs: cost of the net after the step, for one image
    layers: of a cut, what was done to each layer, as ``apply`` reports it
    metrics: of an evaluation; training: of a training (iterations, loss, seconds ...)
    """

    index: int
    attempt: int
    start: str
    model: str
    decision: str = ON
    why: str = ""
    params: int = 0
    macs: int = 0
    seconds: float = 0.0
    layers: tuple[Mapping, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    training: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class Next:
    """The step to do: its place, the attempt, and the nets (folders) that it goes out from."""

    index: int
    attempt: int
    start: str
    model: str

    def record(self, **what) -> Record:
        """The record of it; by default the net stays as it was."""
        what.setdefault("model", self.model)
        return Record(self.index, self.attempt, self.start, **what)


def following(steps: Sequence[Step], records: Sequence[Record]) -> Next | None:
    """What to do after ``records``; None when the flow is over."""
    if not records:
        return Next(0, 0, START, START)
    last = records[-1]
    group = steps[last.index].group
    if last.decision == END:
        return None
    if last.decision == AGAIN:
        first = next(k for k, step in enumerate(steps) if step.group == group)
        return Next(first, last.attempt + 1, last.start, last.start)
    if last.decision == DENSE:
        return _at(steps, _first(steps, lambda step: step.group > group), last.start)
    if last.decision == ENOUGH:
        return _at(steps, _first(steps, lambda step: step.moment == "finish"), last.model)
    index = last.index + 1
    if index == len(steps) or steps[index].group != group:
        return _at(steps, index, last.model)
    return Next(index, last.attempt, last.start, last.model)


def _first(steps: Sequence[Step], wanted) -> int:
    return next((k for k, step in enumerate(steps) if wanted(step)), len(steps))


def _at(steps: Sequence[Step], index: int, model: str) -> Next | None:
    """The step at ``index``, where a group begins, unless there is none."""
    return Next(index, 0, model, model) if index < len(steps) else None


def outcome(records: Sequence[Record]) -> str:
    """The folder of the net that the records lead to."""
    if not records:
        return START
    last = records[-1]
    return last.start if last.decision in (AGAIN, DENSE, END) else last.model


def attempt_of(steps: Sequence[Step], records: Sequence[Record], now: Next) -> list[Record]:
    """The records of the same group and attempt as ``now``."""
    group = steps[now.index].group
    return [
        record
        for record in records
        if steps[record.index].group == group and record.attempt == now.attempt
    ]


def counted(steps: Sequence[Step], records: Sequence[Record]) -> list[Record]:
    """The records that led to the net that there is now: without tries that were rolled back."""
    undone = {
        (steps[record.index].group, record.attempt)
        for record in records
        if record.decision in (AGAIN, DENSE, END)
    }
    return [one for one in records if (steps[one.index].group, one.attempt) not in undone]


def judge(
    flow: Flow, attempt: int, metric: float | None, before: float | None, within: bool
) -> tuple[str, str]:
    """The decision after a group, and why.

    metric, before: of the net now and at the beginning; None where nothing is evaluated
    within: whether the net is within the flow's budget
    """
    least = flow.stop.least(before)
    if least is not None and metric is not None and not metric >= least:
        return _too_low(flow, attempt, f"{metric:.4f} is under {least:.4f}")
    if within:
        return ENOUGH, "the net is within its budget"
    return ON, ""


def diverged(flow: Flow, attempt: int, message: str) -> tuple[str, str] | None:
    """The decision after a training that diverged; None where the flow does not say what to do."""
    if flow.stop.floor is None and flow.stop.max_drop is None:
        return None
    decision, why = _too_low(flow, attempt, message)
    return None if decision == ON else (decision, why)


def _too_low(flow: Flow, attempt: int, what: str) -> tuple[str, str]:
    if attempt < flow.stop.tries:
        return AGAIN, f"{what}: ranks times {flow.stop.factor ** (attempt + 1):.3g}"
    tries = f"{what} at {attempt + 1} tries" if attempt else what
    if flow.stop.otherwise == "accept":
        return ON, f"{tries}: accepted"
    if flow.stop.otherwise == "end":
        return END, f"{tries}: the net before this group is kept"
    return DENSE, f"{tries}: the group stays dense"
