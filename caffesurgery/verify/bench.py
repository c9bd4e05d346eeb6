"""Load time, forward time and memory of ONNX models, each in processes of its own, interleaved.

Paths of .onnx or .ort files go in; for each come out the figures that paper 000 has in Table 4.
Models take turns, so that a processor that gets warm slows all of them alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import VerifyError
from . import benchworker

_WARM_UP = 2
_TURN = 5
"""Forward passes that a model makes before it is the next one's turn."""

Progress = Callable[[str, float], None]
"""Called with the file at work and the share that is done, 0 to 1."""


@dataclass(frozen=True)
class Figures:
    """What one model takes.

    Times in milliseconds: medians, and the 90th percentile.  Memory in bytes, over what the
    process had before the model: ``startup_bytes`` after loading, ``load_peak_bytes`` at the most
    while loading, ``running_bytes`` at the most in the forward passes.  ``times`` are all passes.
    """

    path: str
    bytes: int
    load_ms: float
    load_p90_ms: float
    forward_ms: float
    forward_p90_ms: float
    startup_bytes: int
    load_peak_bytes: int
    running_bytes: int
    inputs: Mapping[str, Sequence[int]]
    times: tuple[float, ...]


def bench(
    paths: Sequence[str | os.PathLike],
    *,
    threads: int = 1,
    runs: int = 30,
    loads: int = 5,
    inputs: Mapping[str, Sequence[int]] | None = None,
    progress: Progress | None = None,
) -> tuple[Figures, ...]:
    """Measure the models at ``paths`` with ``threads`` threads and ``runs`` forward passes each.

    Each model is loaded in ``loads`` processes, of which the last one stays for the passes.
    ``inputs`` gives shapes for open axes (a batch of 1, and 256 for other axes, by default).
    Raises VerifyError for a file that ONNX Runtime does not load or run.
    """
    names = [os.fspath(path) for path in paths]
    if not names:
        raise VerifyError("nothing to measure; give one or more .onnx or .ort files")
    if min(threads, runs, loads) < 1:
        raise VerifyError(f"threads {threads}, runs {runs}, loads {loads}: expected 1 or more")
    for name in names:
        if not Path(name).is_file():
            raise VerifyError(f"{name}: no such file; expected an ONNX model (.onnx or .ort)")
    report = progress or (lambda name, share: None)
    with contextlib.ExitStack() as running:
        loaded: list[list[dict]] = [[] for _ in names]
        for turn in range(loads):
            workers = []
            for index, name in enumerate(names):
                worker = _Worker(name, threads, inputs)
                if turn + 1 < loads:
                    with worker:
                        loaded[index].append(worker.answer())
                else:
                    running.enter_context(worker)
                    loaded[index].append(worker.answer())
                    workers.append(worker)
                report(name, 0.3 * (turn + (index + 1) / len(names)) / loads)
        times = _forward(workers, runs, report)
        return tuple(
            _figures(worker, answers, taken)
            for worker, answers, taken in zip(workers, loaded, times)
        )


def _forward(workers: Sequence[_Worker], runs: int, report: Progress) -> list[list[float]]:
    """Milliseconds of ``runs`` passes of each, in turns, after a few that do not count."""
    for worker in workers:
        worker.run(_WARM_UP)
    times: list[list[float]] = [[] for _ in workers]
    while len(times[-1]) < runs:
        for worker, taken in zip(workers, times):
            taken += worker.run(min(_TURN, runs - len(taken)))
            report(worker.path, 0.3 + 0.7 * len(taken) / runs)
    return times


class _Worker:
    """A process that holds one model; a context that ends it."""

    def __init__(self, path: str, threads: int, inputs: Mapping | None):
        self.path = path
        self.running_bytes = 0
        shapes = json.dumps({name: list(shape) for name, shape in (inputs or {}).items()})
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, benchworker.__file__, path, str(threads), shapes],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment,
        )  # fmt: skip

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *error) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if error[0] is not None:
            self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def run(self, count: int) -> list[float]:
        """Milliseconds of ``count`` forward passes."""
        with contextlib.suppress(OSError):
            self._process.stdin.write(f"{count}\n")
            self._process.stdin.flush()
        answer = self.answer()
        self.running_bytes = answer["running_bytes"]
        return answer["forward_ms"]

    def answer(self) -> dict:
        """The next answer; VerifyError where it is a complaint, or the process has died."""
        line = self._process.stdout.readline()
        if not line:
            raise VerifyError(
                f"{self.path}: the process that ran the model died with status "
                f"{self._process.wait()}; is there memory enough for it?"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise VerifyError(f"{self.path}: ONNX Runtime cannot run it: {answer['error']}")
        return answer


def _figures(worker: _Worker, loaded: Sequence[dict], times: Sequence[float]) -> Figures:
    loads = [answer["load_ms"] for answer in loaded]
    return Figures(
        path=worker.path,
        bytes=os.path.getsize(worker.path),
        load_ms=statistics.median(loads),
        load_p90_ms=percentile(loads, 0.9),
        forward_ms=statistics.median(times),
        forward_p90_ms=percentile(times, 0.9),
        startup_bytes=int(statistics.median(answer["startup_bytes"] for answer in loaded)),
        load_peak_bytes=int(statistics.median(answer["load_peak_bytes"] for answer in loaded)),
        running_bytes=worker.running_bytes,
        inputs=loaded[-1]["inputs"],
        times=tuple(times),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]
