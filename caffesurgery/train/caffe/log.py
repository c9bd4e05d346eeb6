"""Follows the log of ``caffe train`` line by line: how far it is, what it says, what it wrote.

Lines of Caffe 1.0 and of older and forked versions are understood, with glog's mark in front or
without.  Anything else is kept as the last words, for endings that no line announces.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Callable

from ...files import glog
from ..job import Tick

_LOSS = re.compile(r"^Iteration (\d+)\b.*?, loss = ([^\s,]+)")
_RATE = re.compile(r"^Iteration (\d+), lr = ([^\s,]+)")
_TESTING = re.compile(r"^Iteration (\d+), Testing net \(#(\d+)\)")
_OUTPUT = re.compile(r"^\s*(Train|Test) net output #\d+: (\S.*?) = ([-+\w.]+)")
_TEST_LOSS = re.compile(r"^Test loss: (\S+)")
_SNAPSHOT = re.compile(r"^Snapshotting to (?:.*? file )?(.+?)\s*$")
_STOPPED = "Optimization stopped early"
_DONE = "Optimization Done"
_STACK = "*** Check failure stack trace"
_WORDS = 30
"""Last lines that are kept: enough for a traceback of a Python layer."""


class Log:
    """What the lines so far amount to; ``feed`` takes the next one.

    ``iteration`` counts updates that are done.  ``finite`` is the last iteration whose loss was a
    finite number, ``snapshots`` the caffemodels that were announced, in order.
    """

    def __init__(self, max_iterations: int, clock: Callable[[], float] = time.monotonic):
        self.max_iterations = max_iterations
        self.iteration = 0
        self.finite = -1
        self.loss: float | None = None
        self.lr: float | None = None
        self.train: dict[str, float] = {}
        self.tests: dict[str, float] = {}
        self.snapshots: list[str] = []
        self.done = self.stopped = False
        self.fatal: list[str] = []
        self.words: deque[str] = deque(maxlen=_WORDS)
        self._prefix = ""
        self._in_fatal = False
        self._tested: int | None = None
        self._clock = clock
        self._begun: tuple[int, float] | None = None

    @property
    def diverged(self) -> bool:
        """Whether the last loss is no finite number."""
        return self.loss is not None and not math.isfinite(self.loss)

    def feed(self, line: str) -> Tick | None:
        """Take the next line; a tick where it tells how training goes."""
        severity, said = glog.split(line.rstrip("\r\n"))
        if said.strip():
            self.words.append(said.strip())
        if severity == "F" or (self._in_fatal and not severity):
            self._fatal(severity, said)
            return None
        self._in_fatal = False
        if found := _LOSS.match(said):
            self._at(int(found[1]))
            loss = _number(found[2])
            # behind the last update Caffe makes one forward pass more, of which it only prints
            if self.iteration < self.max_iterations or not math.isfinite(loss):
                self._lost(loss)
            self.train = {}
        elif found := _RATE.match(said):
            self._at(int(found[1]))
            self.lr = _number(found[2])
            return self.tick()
        elif found := _OUTPUT.match(said):
            return self._output(*found.groups())
        elif found := _TESTING.match(said):
            self._at(int(found[1]))
            self._tested = self.iteration
            number = int(found[2])
            self._prefix = f"test{number or ''}/"
            self.tests = {k: v for k, v in self.tests.items() if not k.startswith(self._prefix)}
        elif found := _TEST_LOSS.match(said):
            self.tests[f"{self._prefix}loss over the net"] = _number(found[1])
        elif found := _SNAPSHOT.match(said):
            self.snapshots.append(found[1])
        elif said.startswith(_STOPPED):
            self.stopped = True
        elif said.startswith(_DONE):
            self.done = True
        return None

    def tick(self) -> Tick:
        """How far training is now."""
        return Tick(
            iteration=min(self.iteration, self.max_iterations),
            max_iterations=self.max_iterations,
            loss=self.loss,
            lr=self.lr,
            metrics={**self.train, **self.tests},
            seconds_left=self._seconds_left(),
            tested=self._tested,
        )

    def _at(self, iteration: int) -> None:
        self.iteration = iteration
        if self._begun is None:
            self._begun = iteration, self._clock()

    def _lost(self, loss: float) -> None:
        self.loss = loss
        if math.isfinite(loss):
            self.finite = self.iteration

    def _output(self, phase: str, name: str, value: str) -> Tick | None:
        """An output of a net; an output of several numbers counts them: top, top[1], top[2]."""
        test = phase == "Test"
        into, key = (self.tests, self._prefix + name) if test else (self.train, name)
        number = sum(known == key or known.startswith(f"{key}[") for known in into)
        into[f"{key}[{number}]" if number else key] = _number(value)
        return self.tick() if test else None

    def _fatal(self, severity: str, said: str) -> None:
        """The text of a fatal error, up to its stack trace; only the first one counts."""
        if severity and self.fatal:
            self._in_fatal = False
        elif said.startswith(_STACK) or said.lstrip().startswith("@ "):
            self._in_fatal = False
        else:
            self._in_fatal = True
            self.fatal.append(said.strip())

    def _seconds_left(self) -> float | None:
        if self._begun is None or self.iteration <= self._begun[0]:
            return None
        each = (self._clock() - self._begun[1]) / (self.iteration - self._begun[0])
        return max(0.0, each * (self.max_iterations - self.iteration))


def _number(text: str) -> float:
    """A number as C++ prints it; what is none (1.#QNAN) is not a number."""
    try:
        return float(text)
    except ValueError:
        return math.nan
