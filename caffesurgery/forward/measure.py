"""How long a net takes, layer by layer, as ``caffe time`` tells it.

A runner goes in, its inputs are filled with seeded noise, and after one run that is not counted it
runs again and again; out come the fastest and the median time of each layer and of the whole.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import UsageError
from .runner import Runner


@dataclass(frozen=True)
class LayerTime:
    """One layer: milliseconds of the fastest and of the median run, and MACs of the batch."""

    name: str
    type: str
    line: int
    macs: int
    minimum: float
    median: float

    @property
    def gflops(self) -> float | None:
        """10^9 floating-point operations a second at the median; None without any."""
        return gflops(self.macs, self.median)


@dataclass(frozen=True)
class NetTime:
    """All layers of a net in their order; ``minimum`` and ``median`` are of whole runs, in ms."""

    layers: tuple[LayerTime, ...]
    minimum: float
    median: float
    iterations: int
    threads: int
    memory: int

    @property
    def macs(self) -> int:
        """Multiply-adds of one run over the batch."""
        return sum(layer.macs for layer in self.layers)

    @property
    def gflops(self) -> float | None:
        """10^9 floating-point operations a second at the median; None without any."""
        return gflops(self.macs, self.median)


def gflops(macs: int, ms: float) -> float | None:
    """10^9 operations a second for multiply-adds (two operations each) in ``ms`` milliseconds."""
    return 2 * macs / ms / 1e6 if macs and ms else None


def noise(runner: Runner, seed: int = 0) -> dict[str, np.ndarray]:
    """Numbers from 0 to 1 for every input: pixels, and truncated also labels and indices."""
    rng = np.random.default_rng(seed)
    return {name: rng.random(shape, np.float32) for name, shape in runner.inputs.items()}


def measure(
    runner: Runner,
    iterations: int = 10,
    *,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> NetTime:
    """Run the net ``iterations`` times after a first run that does not count.

    ``progress`` is called with the share that is done.  Times are those of the layers' work alone:
    inputs are copied in before, outputs are copied out after.
    """
    if iterations < 1:
        raise UsageError(f"iterations {iterations}: expected 1 or more")
    inputs = noise(runner, seed)
    runs: list[list[float]] = []
    for run in range(iterations + 1):
        seconds: list[float] = []
        runner.run(inputs, lambda _, took, seconds=seconds: seconds.append(took))
        if run:
            runs.append(seconds)
        if progress:
            progress((run + 1) / (iterations + 1))
    totals = [1e3 * sum(seconds) for seconds in runs]
    layers = tuple(
        LayerTime(
            entry.layer.name,
            entry.layer.type,
            entry.layer.line,
            entry.macs or 0,
            1e3 * min(times),
            1e3 * statistics.median(times),
        )
        for entry, times in zip(runner.shapes.layers, zip(*runs))
    )
    return NetTime(
        layers, min(totals), statistics.median(totals), iterations, runner.threads, runner.memory
    )
