"""The training loop: Caffe's Solver::Solve and Step, with tests, snapshots, and every ending."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import torch

from ...errors import SurgeryError
from ..interrupts import interrupts
from ..job import Outcome, Tick
from ..solver import learning_rate
from .session import Inputs, Session

_TICK_SECONDS = 0.5
_SNAPSHOTS = 10
"""Snapshots of a training whose solver asks for none; the last two of them are kept."""
_MOST_NUMBERS = 1000
"""Elements of an output blob beyond which it is no metric."""


class Loop:
    """Trains a session to its end; ``tick`` is called as it goes on.

    ``metrics`` are the net's outputs when they were last asked for, ``good`` is the last snapshot.
    """

    def __init__(self, session: Session, tick: Callable[[Tick], None] | None = None):
        self.session, self.solver = session, session.solver
        self.tick = tick or (lambda _: None)
        self.stop = False
        self._interval = self.solver.snapshot or max(1, -(-self.solver.max_iter // _SNAPSHOTS))
        self._saved: deque[tuple[Path, Path]] = deque()
        self.good: tuple[Path | None, Path | None] = session.began_from
        self._losses: deque[float] = deque(maxlen=self.solver.average_loss)
        self._unread: list[torch.Tensor] = []
        self.metrics: dict[str, float] = {}
        self._tested: dict[str, float] = {}
        self._tested_at: int | None = None
        self._first, self._began, self._ticked = session.iteration, time.monotonic(), 0.0

    def run(self) -> Outcome:
        """Train until max_iter, Ctrl-C, a loss that is no number, or an error on the way.

        Errors before the first update come out as they are.
        """
        try:
            with interrupts(self._stop), closing(self.session.batches()) as batches:
                ending, message = self._solve(batches)
        except SurgeryError as error:
            if self.session.iteration == self._first:
                raise
            ending, message = "failed", str(error)
        weights, state = self.good
        return Outcome(
            ending, self.session.iteration, weights, state, self._loss(), self._tested, message
        )

    def _stop(self) -> None:
        """Stop after this iteration, as Ctrl-C or a job system asks."""
        self.stop = True

    def _solve(self, batches: Iterator[Inputs]) -> tuple[str, str]:
        """Caffe's Solver::Solve; (ending, message)."""
        session, solver = self.session, self.solver
        saved = -1
        while session.iteration < solver.max_iter and not self.stop:
            if self._test_is_due() and (session.iteration or solver.test_initialization):
                self._test()
                if self.stop:
                    break
            display = bool(solver.display) and session.iteration % solver.display == 0
            due = time.monotonic() > self._ticked + _TICK_SECONDS
            if not self.step(batches, display, session.at_once or display or due):
                return "diverged", self._diverged()
            if session.iteration % self._interval == 0:
                if not self._is_good():
                    return "diverged", self._diverged()
                saved = self._snapshot()
            if display or due:
                self._tick(session.iteration - 1)
        if not self._is_good():
            return "diverged", self._diverged()
        if saved != session.iteration:
            self._snapshot()
        if self.stop:
            return "interrupted", f"stopped after {session.iteration} iterations"
        if self._test_is_due():
            self._test()
        self._tick(session.iteration - 1)
        fresh = f"; began untrained, as no weights were given: {', '.join(session.fresh)}"
        return "done", f"{session.iteration} iterations" + (fresh if session.fresh else "")

    def step(self, batches: Iterator[Inputs], outputs: bool = False, read: bool = True) -> bool:
        """One iteration; False, and no update, where a loss that is ``read`` is no number."""
        session = self.session
        self._unread.append(self._forward_backward(batches, outputs))
        if read and not self._read():
            return False
        if session.precision.unscaled(session.updater.gradients):
            session.updater.step(session.iteration, learning_rate(self.solver, session.iteration))
        session.iteration += 1
        return True

    def _forward_backward(self, batches: Iterator[Inputs], outputs: bool) -> torch.Tensor:
        """The loss of one iteration, with the gradients of all its batches added up."""
        session, count = self.session, self.solver.iter_size
        session.updater.zero()
        total = None
        for part in range(count):
            number = session.iteration * count + part
            loss, given = session.forward_backward(next(batches), number, outputs, part + 1 < count)
            total = loss if total is None else total + loss
        if outputs:
            self.metrics = _numbers(given)
        return total / count if count > 1 else total

    def _read(self) -> bool:
        """Ask the device for the losses that are not known yet; whether all are numbers."""
        if not self._unread:
            return True
        values, self.stop = self.session.agreed(torch.stack(self._unread), self.stop)
        self._unread.clear()
        self._losses.extend(values)
        return all(math.isfinite(value) for value in values)

    def _is_good(self) -> bool:
        """Whether what would be saved is worth it."""
        return self._read() and self.session.updater.is_finite()

    def _loss(self) -> float | None:
        return sum(self._losses) / len(self._losses) if self._losses else None

    def _test_is_due(self) -> bool:
        interval = self.solver.test_interval
        return bool(self.session.tests) and self.session.iteration % interval == 0

    @torch.no_grad()
    def _test(self) -> None:
        """Every test net on its test_iter batches; metrics are means over them."""
        solver, session = self.solver, self.session
        done = -(-session.iteration // solver.test_interval)
        done -= bool(session.iteration) and not solver.test_initialization
        for number, (net, _, iterations) in enumerate(session.tests):
            sums: dict[str, torch.Tensor] = {}
            with closing(session.test_batches(number, done)) as batches:
                for _ in range(iterations):
                    if self.stop:
                        return
                    with session.precision.block():
                        _, given = net(next(batches))
                    for name, value in given.items():
                        sums[name] = sums[name] + value if name in sums else value.clone()
            place = f"test{number or ''}/"
            means = _numbers({name: value / iterations for name, value in sums.items()})
            self._tested.update((place + name, value) for name, value in means.items())
        self._tested_at = session.iteration
        self._tick(session.iteration)

    def _snapshot(self) -> int:
        """Save weights and state; the iteration that they are of."""
        self.good = self.session.snapshot()
        self._saved.append(self.good)
        if not self.solver.snapshot and len(self._saved) > 2 and self.session.rank == 0:
            for path in self._saved.popleft():
                path.unlink(missing_ok=True)
        return self.session.iteration

    def _tick(self, iteration: int) -> None:
        """Tell how far it is, with the learning rate of an iteration."""
        now = time.monotonic()
        done = self.session.iteration - self._first
        left = self.solver.max_iter - self.session.iteration
        self._ticked = now
        self.tick(
            Tick(
                self.session.iteration,
                self.solver.max_iter,
                self._loss(),
                learning_rate(self.solver, iteration),
                {**self.metrics, **self._tested},
                (now - self._began) / done * left if done else None,
                self._tested_at,
            )
        )

    def _diverged(self) -> str:
        rate = learning_rate(self.solver, self.session.iteration)
        weights = self.good[0]
        kept = f"the last good weights are {weights}" if weights else "no snapshot was made before"
        return (
            f"the loss is no number after {self.session.iteration} iterations at a learning rate "
            f"of {rate:g}; {kept}; try a base_lr 10 times smaller, clip_gradients, or weights to "
            "start from, and look for infinite numbers and labels that are none in the data"
        )


def _numbers(outputs: dict[str, torch.Tensor]) -> dict[str, float]:
    """Output blobs as numbers by name, those of a blob of several elements as ``name[i]``."""
    found = {}
    for name, value in outputs.items():
        if value.numel() == 1:
            found[name] = value.item()
        elif value.numel() <= _MOST_NUMBERS:
            found.update((f"{name}[{i}]", v) for i, v in enumerate(value.flatten().tolist()))
    return found
