"""One layer to be decomposed, as a value that can be handed to whoever does the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import DecomposeError
from .calibrated import calibrated
from .geometry import Geometry
from .metric import Metric
from .outputs import OutputMetric
from .scheme import SCHEMES, Aim, Decomposition


@dataclass(frozen=True, eq=False)
class Task:
    """A kernel (T, S / group, D, E) and what is to be done with it.

    where: the layer, as messages tell of it
    scheme: its key in SCHEMES; ranks: totals over the groups
    aim: as far as the scheme has a use for it
    metric: what images say of the layer's inputs, or of its outputs where its chain sees whole
        patches; None to go by the weights alone
    wanted: the kernel whose outputs are wanted, under a metric of inputs; None where that is
        ``kernel``
    threads: what the large products under a metric may use
    """

    where: str
    scheme: str
    kernel: np.ndarray
    group: int
    ranks: tuple[int, ...]
    seed: int = 0
    aim: Aim = Aim()
    metric: Metric | OutputMetric | None = None
    wanted: np.ndarray | None = None
    threads: int = 1

    def run(self, progress: Callable[[int, int], None] | None = None) -> Decomposition:
        """The decomposition; DecomposeError that says where there is none."""
        scheme = SCHEMES[self.scheme]
        aim = scheme.suited(self.aim)

        def decompose(kernel: np.ndarray) -> Decomposition:
            return scheme.decompose(
                kernel,
                self.group,
                self.ranks,
                seed=self.seed,
                progress=progress,
                effort=aim.effort,
                max_norm=aim.max_norm,
            )

        try:
            if self.metric is None:
                return decompose(self.kernel)
            parts = scheme.parts(Geometry.of(self.kernel.shape, self.group), self.ranks)
            if isinstance(self.metric, OutputMetric):
                return self.metric.decomposed(self.kernel, parts)
            return calibrated(
                self.kernel, self.group, parts, self.metric, decompose, aim, self.wanted,
                self.threads, scheme.optimal,
            )  # fmt: skip
        except DecomposeError as error:
            raise DecomposeError(f"{self.where}: {error}") from error


def run_task(_, task: Task) -> Decomposition:
    """What a worker does with one task (``workers.run_all``)."""
    return task.run()
