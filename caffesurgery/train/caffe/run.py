"""Runs ``caffe train`` on a job, follows its log, and says how it ended and what it left.

Ctrl-C is passed on to Caffe, which then writes a snapshot and stops; a third one kills it.  A loss
that is no number ends the run at once.  Caffe dies with this process, however that ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ...errors import TrainError
from ...files import caffemodel
from ...workers.threads import users_environment
from ..interrupts import interrupts
from ..job import Job, Outcome, Tick
from ..snapshots import Snapshot, finite, hand_on, has_gradients, snapshots
from .binary import find_caffe
from .endings import ending
from .log import Log
from .prepare import CLEAN, LOG, Run, prepare

_PR_SET_PDEATHSIG = 1


class CaffeTrainer:
    """The user's own Caffe; ``binary`` is its path, by default found as ``find_caffe`` says."""

    name = "caffe"

    def __init__(self, binary=None):
        self._binary = binary

    def available(self) -> str | None:
        """Why there is no Caffe to run; None where there is."""
        try:
            find_caffe(self._binary)
        except TrainError as error:
            return str(error)
        return None

    def train(self, job: Job, tick: Callable[[Tick], None] | None = None) -> Outcome:
        """Run Caffe until it ends, whichever way; TrainError where it cannot begin."""
        run = prepare(find_caffe(self._binary), job)
        log = Log(run.solver.max_iter)
        log.iteration = run.begin
        code = _follow(run, job.folder, log, tick)
        how, message = ending(code, log)
        if run.fresh and how == "done":
            message = f"began untrained, as the weights have none for them: {', '.join(run.fresh)}"
        return _outcome(job, run, log, how, message)


def _follow(run: Run, folder: Path, log: Log, tick: Callable[[Tick], None] | None) -> int:
    """Run the command and feed its lines to the log, which is kept in the folder; its status."""
    # glog also writes to files in the temporary folder unless it is told not to
    environment = {**users_environment(), "GLOG_logtostderr": "1", "GLOG_minloglevel": "0"}
    try:
        process = subprocess.Popen(
            run.command, cwd=run.folder, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_die_with_parent(),
        )  # fmt: skip
    except OSError as error:
        raise TrainError(f"{run.command[0]}: cannot be run ({error.strerror})") from None
    with process, (folder / LOG).open("ab", buffering=0) as copy, _passing_on(process):
        try:
            for line in process.stdout:
                with contextlib.suppress(OSError):  # a full disk is Caffe's to report
                    copy.write(line)
                told = log.feed(line.decode("utf-8", "replace"))
                if told is not None and tick is not None:
                    tick(told)
                if log.diverged:
                    _signal(process, signal.SIGKILL)  # a snapshot would hold what is no number
                if run.prune and len(log.snapshots) > 2:
                    _prune(log)
            return process.wait()
        finally:
            _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen, number: int) -> None:
    """Send a signal to Caffe, and to what a wrapper script around it started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _prune(log: Log) -> None:
    """Delete snapshots that nobody asked for, but for the last two."""
    old = Path(log.snapshots.pop(0))
    for path in (old, old.with_suffix(".solverstate")):
        with contextlib.suppress(OSError):
            path.unlink()


def _die_with_parent() -> Callable[[], None] | None:
    """What lets the kernel end Caffe when this process is killed; None where it cannot."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return lambda: library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _passing_on(process: subprocess.Popen) -> contextlib.AbstractContextManager[None]:
    """While the block runs, Ctrl-C goes to Caffe, which writes a snapshot and stops."""
    # the command line ends on these two as on Ctrl-C; others may want them for themselves
    polite = [signal.SIGTERM, signal.SIGHUP] if hasattr(signal, "SIGHUP") else [signal.SIGTERM]
    return interrupts(
        partial(_signal, process, signal.SIGINT),
        partial(_signal, process, signal.SIGKILL),
        [one for one in polite if signal.getsignal(one) is signal.default_int_handler],
    )


def _outcome(job: Job, run: Run, log: Log, how: str, message: str) -> Outcome:
    last = _last_good(job, log, run.begin)
    weights, iteration = last.weights if last else None, last.iteration if last else run.begin
    if how == "done":
        if last is None or last.iteration < run.solver.max_iter:
            how = "failed"
            message = "Caffe is done, but left no whole snapshot of the end: is the disk full?"
        elif not finite(caffemodel.read(last.weights)):
            how, message = "diverged", "the weights at the end hold numbers that are not finite"
            weights = None
        elif has_gradients(caffemodel.read(last.weights)):
            weights = hand_on(last.weights, job.folder / CLEAN, force=True)
    if how not in ("done", "interrupted") and last is not None:
        message += f"; the last good snapshot is of iteration {last.iteration}: {last.weights}"
    return Outcome(
        ending=how, iteration=iteration, weights=weights, state=last.state if last else None,
        loss=log.loss, metrics=dict(log.tests), message=message,
    )  # fmt: skip


def _last_good(job: Job, log: Log, begin: int) -> Snapshot | None:
    """The last whole snapshot of this run, or of the one that it goes on from."""
    announced = {Path(name).name for name in log.snapshots}
    for snapshot in reversed(snapshots(job.folder, log.finite if log.diverged else None)):
        before = job.state is not None and snapshot.iteration <= begin
        if not before and snapshot.weights.name not in announced:
            continue  # left by another run in this folder
        if not log.diverged or finite(caffemodel.read(snapshot.weights)):
            return snapshot
    return None
