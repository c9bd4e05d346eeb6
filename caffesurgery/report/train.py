"""Reports of solvers that were made, and of trainings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..train.job import Job, Outcome
    from ..train.recipes import Counts, Recipe, Setting
    from ..train.solver import Solver


def solver_report(
    net: str, chosen: Recipe, numbers: Counts, rows: Sequence[Setting], notes: Sequence[str]
) -> dict:
    """Report of a solver made by a recipe: its settings with their sources, and the counts."""
    return {
        "net": net,
        "recipe": chosen.name,
        "images": numbers.images,
        "batch": numbers.batch * numbers.iter_size,
        "test_images": numbers.test_images,
        "iterations_per_epoch": numbers.iterations,
        "settings": [{"name": row.name, "value": row.value, "source": row.source} for row in rows],
        "notes": list(notes),
    }


def training_report(
    job: Job,
    solver: Solver,
    trainer: str,
    outcome: Outcome,
    weights: Path | None,
    tests: Sequence[Mapping],
    seconds: float,
) -> dict:
    """Report of a training: how it ended, what it reached, and where its weights are."""
    return {
        "solver": str(job.solver),
        "net": str(solver.train.path or job.solver),
        "trainer": trainer,
        "ending": outcome.ending,
        "message": outcome.message,
        "iteration": outcome.iteration,
        "max_iter": solver.max_iter,
        "seconds": round(seconds, 3),
        "loss": number(outcome.loss),
        "metrics": {name: number(value) for name, value in outcome.metrics.items()},
        "tests": [
            {"iteration": test["iteration"],
             "metrics": {name: number(value) for name, value in test["metrics"].items()}}
            for test in tests
        ],
        "weights": str(weights) if weights else None,
        "state": str(outcome.state) if outcome.state else None,
    }  # fmt: skip


def number(value: float | None) -> float | None:
    """A number for JSON, which has no NaN and no infinity."""
    return value if value is not None and math.isfinite(value) else None
