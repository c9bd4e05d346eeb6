"""Measures this machine: the probe nets run through the executor, and linear terms fitted on them.

What is fitted is what `caffesurgery time` measures: whole layers, called from this program, with
NumPy's BLAS on as many threads as asked for.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from .. import __version__, forward
from .fit import Sample, fit_linear, fit_quality
from .lower import works_of
from .probes import BEFORE, probe_nets
from .profile import Profile
from .quiet import undisturbed

RUNS, QUICK_RUNS = 60, 10
"""Runs of every probe net, of which the fastest time of each layer counts."""

ROUNDS = 5
"""Turns in which the runs are done, so that what disturbs one turn of a net misses the others."""

Progress = Callable[[str, float], None]


def machine_name() -> str:
    """The processor of this machine, as it calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def measured_samples(
    threads: int = 1, quick: bool = False, progress: Progress | None = None
) -> list[Sample]:
    """The layers of the probe nets with their work and their fastest milliseconds here."""
    nets = list(probe_nets(quick))
    runs = (QUICK_RUNS if quick else RUNS) // ROUNDS
    fastest: dict[tuple[int, int], float] = {}
    for done in range(ROUNDS * len(nets)):
        number = done % len(nets)
        runner = forward.Runner(nets[number], forward.seeded(nets[number]), threads=threads)

        def tell(share: float, done: int = done) -> None:
            if progress:
                progress("layers", (done + share) / (ROUNDS * len(nets)))

        times = undisturbed(partial(forward.measure, runner, runs, progress=tell))
        for index, time in enumerate(times.layers):
            fastest[number, index] = min(time.minimum, fastest.get((number, index), time.minimum))
    found: list[Sample] = []
    for number, shapes in enumerate(nets):
        for index, entry in enumerate(shapes.layers):
            if entry.layer.name.startswith(BEFORE):
                continue
            works = works_of(entry, "caffesurgery")
            if len(works) > 1 or not index:  # of those that do nothing one tells enough
                found.append(Sample(works, fastest[number, index], f"{number}:{entry.layer.name}"))
    return found


def measure_profile(
    name: str, threads: int = 1, quick: bool = False, progress: Progress | None = None
) -> Profile:
    """A profile of this machine for the runtime ``caffesurgery``, with its fit."""
    measured = measured_samples(threads, quick, progress)
    made = (
        f"calibrate{' --quick' if quick else ''} of caffesurgery {__version__}, NumPy "
        f"{np.__version__}: {len(measured)} layers, fastest of "
        f"{QUICK_RUNS if quick else RUNS} runs"
    )
    profile = Profile(name, "caffesurgery", machine_name(), threads, fit_linear(measured), made)
    return replace(profile, fit=fit_quality(profile, measured))
