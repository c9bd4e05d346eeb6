"""What every trainer takes and gives: a job, ticks while it works, and how it ended.

A trainer is a package in this folder with a function ``trainer(**options)`` that gives a
``Trainer``; it is found by itself, and imports what it needs only when it trains.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol

from ..errors import TrainError, UsageError, suggest

ENDINGS = ("done", "interrupted", "diverged", "failed", "killed")


@dataclass(frozen=True)
class Job:
    """What is to be trained, from what, and where everything that is written goes.

    Training starts from ``weights`` (a caffemodel; None for the fillers' numbers), or goes on from
    ``state`` (a .solverstate).  ``data`` replaces what a data layer reads, by the layer's name;
    ``seed`` stands above the solver's random_seed; ``mixed`` asks for half precision on a GPU.
    """

    solver: Path
    folder: Path
    weights: Path | None = None
    state: Path | None = None
    gpus: tuple[int, ...] = ()
    processes: int = 1
    seed: int | None = None
    mixed: bool = False
    data: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Tick:
    """How far training is: ``iteration`` updates of ``max_iterations`` are done.

    ``loss`` and ``lr`` are those last known; ``metrics`` are outputs of the nets by name, those of
    a test as ``test/NAME`` (of a second test net as ``test1/NAME``), the trained net's as NAME.
    ``tested`` is the iteration of that test.
    """

    iteration: int
    max_iterations: int
    loss: float | None = None
    lr: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds_left: float | None = None
    tested: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How training ended, one of ``ENDINGS``, and what it left.

    ``weights`` is a caffemodel without gradients, ``state`` what to go on from; both are the last
    good ones where training did not end well, and None where there are none.  ``metrics`` are the
    outputs of the last test, named as in ``Tick``; ``message`` says what happened and, if need be,
    what to do.
    """

    ending: str
    iteration: int
    weights: Path | None = None
    state: Path | None = None
    loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    message: str = ""


class Trainer(Protocol):
    """Something that trains: a Caffe binary, or torch."""

    name: str

    def available(self) -> str | None:
        """Why it cannot train here, as a sentence; None where it can."""

    def train(self, job: Job, tick: Callable[[Tick], None] | None = None) -> Outcome:
        """Train until the end, whichever it is; TrainError where training cannot even begin.

        Ctrl-C ends with a snapshot and the ending 'interrupted', not with KeyboardInterrupt.
        """


def trainers() -> tuple[str, ...]:
    """The names of all trainers, in the order in which they are tried."""
    folder = str(Path(__file__).parent)
    return tuple(sorted(found.name for found in pkgutil.iter_modules([folder]) if found.ispkg))


def choose(name: str | None = None, **options) -> Trainer:
    """The trainer of this name, or the first that can train here.

    ``options`` go to the trainers that are asked.  UsageError for an unknown name; TrainError,
    with the reasons and what else there is, where none can train.
    """
    known = trainers()
    if name is not None and name not in known:
        raise UsageError(f"unknown trainer '{name}'; {suggest(name, known)}")
    reasons = {}
    for candidate in (name,) if name else known:
        trainer = import_module(f"{__package__}.{candidate}").trainer(**options)
        reason = trainer.available()
        if reason is None:
            return trainer
        reasons[candidate] = reason
    told = "; ".join(f"trainer {key}: {reason}" for key, reason in reasons.items())
    others = [other for other in known if other not in reasons]
    hint = f"; or take --trainer {' or '.join(others)}" if others else ""
    raise TrainError(f"{told or 'there are no trainers'}{hint}")
