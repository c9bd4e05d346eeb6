"""Training with the trainer that the user has: ``make_solver`` and ``train_net``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import FileError, TrainError
from ..files.atomic import refuse_existing, refuse_folder, write_bytes
from ..net.net import read_net
from ..report import encode_json, solver_report, training_report
from ..train import recipes
from ..train.job import Job, Tick, choose
from ..train.snapshots import hand_on, snapshots
from ..train.solver import read_solver
from .model import Progress

TRAINED, REPORT = "trained.caffemodel", "report.json"


def make_solver(
    net,
    path,
    recipe: str = "etri",
    *,
    epochs: float | None = None,
    images: int | None = None,
    batch: int | None = None,
    test_images: int | None = None,
    base_lr: float | None = None,
    mode: str = "gpu",
    force: bool = False,
) -> dict:
    """Write a solver for a net (a train_val.prototxt) by the recipe of a paper; its report.

    recipe: 'etri' (paper 000), 'samsung' (001) or 'two-pass' (002), see ``help training``
    epochs, base_lr: instead of the recipe's; images, test_images: by default those of its data
    batch: images of one update, a multiple of the net's own batch, which is the default
    mode: 'gpu' or 'cpu', what Caffe trains on; force: overwrite ``path``
    Raises UsageError, TrainError or FileError, each saying what to do.
    """
    refuse_existing([path], force)
    chosen = recipes.recipe(recipe)
    read = read_net(net)
    numbers = recipes.counts(read, images, batch, test_images)
    prefix = str(Path(path).with_suffix(""))
    rows = recipes.settings(chosen, numbers, str(net), prefix, epochs, base_lr, mode)
    notes = [*read.warnings]
    if numbers.test_iter is None:
        notes.append(
            "no tests: the TEST data are not here or have no batch_size; say --test-images"
        )
    write_bytes(path, recipes.solver_text(chosen, rows).encode("utf-8", "surrogateescape"), force)
    return solver_report(str(net), chosen, numbers, rows, notes)


def train_net(
    solver,
    folder,
    weights=None,
    *,
    trainer: str | None = None,
    caffe=None,
    gpus: Sequence[int] = (),
    processes: int = 1,
    resume=None,
    seed: int | None = None,
    mixed: bool = False,
    data: Mapping[str, object] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> dict:
    """Train what a solver says, with the user's Caffe or with torch; the documented report.

    solver, weights: a solver.prototxt, and the caffemodel to begin with
    folder: where everything is written: snapshots, ``trained.caffemodel``, ``report.json``
    trainer: 'caffe', 'torch', or None for the first that can train; caffe: the binary's path
    resume: a .solverstate to go on from, or a folder with snapshots, of which the last is taken
    data: other data (.npz, .npy, a folder) for data layers, by name; seed: instead of the solver's
    Whatever the ending, the report says it, also where no report can be written; TrainError where
    training cannot begin, FileError where it was done and its weights cannot be written.
    """
    folder = Path(folder)
    job = Job(
        solver=Path(solver),
        folder=folder,
        weights=None if weights is None else Path(weights),
        state=None if resume is None else _state(Path(resume)),
        gpus=tuple(gpus),
        processes=processes,
        seed=seed,
        mixed=mixed,
        data={name: Path(str(path)) for name, path in (data or {}).items()},
    )
    if job.weights is not None and job.state is not None:
        raise TrainError("weights and a state to go on from: the state has its own; give one")
    _refuse_used(folder, force or resume is not None)
    found = read_solver(job.solver, forks=True)
    tool = choose(trainer, caffe=caffe)
    follower = _Follower(progress)
    begun = time.monotonic()
    outcome = tool.train(job, follower)
    seconds = time.monotonic() - begun
    result = outcome.weights
    if outcome.ending == "done" and result is not None:
        result = hand_on(result, folder / TRAINED, force=True)
    report = training_report(job, found, tool.name, outcome, result, follower.tests, seconds)
    try:
        write_bytes(folder / REPORT, encode_json(report), force=True)
    except FileError as error:
        if outcome.ending == "done":
            raise
        # a disk that is full has often ended the training too, and how it ended is what counts
        report["message"] += f"; no report is there: {error}"
    return report


def _state(given: Path) -> Path:
    """The state itself, or the last whole one of a folder."""
    if not given.is_dir():
        return given
    found = snapshots(given)
    if not found:
        raise FileError(f"{given}: no whole snapshot (*.caffemodel with its *.solverstate) in it")
    return found[-1].state


def _refuse_used(folder: Path, force: bool) -> None:
    """FileError where a folder holds another training, which would be mixed with this one."""
    refuse_folder(folder, (TRAINED, REPORT), force)
    if not force and folder.is_dir() and any(folder.glob("*.solverstate")):
        raise FileError(
            f"{folder}: holds snapshots of another training; go on with --resume {folder}, choose "
            "another folder, or say --force"
        )


class _Follower:
    """Ticks as progress, and the tests that they tell of."""

    def __init__(self, progress: Progress | None):
        self.progress = progress
        self.tests: list[dict] = []

    def __call__(self, tick: Tick) -> None:
        tested = {k: v for k, v in tick.metrics.items() if k.startswith("test")}
        if tested and tick.tested is not None:
            if self.tests and self.tests[-1]["iteration"] == tick.tested:
                self.tests.pop()  # outputs of one test come one after the other
            self.tests.append({"iteration": tick.tested, "metrics": tested})
        if self.progress is not None:
            share = tick.iteration / max(tick.max_iterations, 1)
            self.progress("train", tick_text(tick), min(share, 1.0))


def tick_text(tick: Tick) -> str:
    """How training goes, in one short line: loss, rate, test outputs, time that is left."""
    parts = [f"{tick.iteration} of {tick.max_iterations}"]
    if tick.loss is not None:
        parts.append(f"loss {tick.loss:.4g}")
    if tick.lr is not None:
        parts.append(f"lr {tick.lr:.3g}")
    tested = {k: v for k, v in tick.metrics.items() if k.startswith("test")}
    scores = {k: v for k, v in tested.items() if "loss" not in k} or tested
    parts += [f"{name} {value:.4g}" for name, value in list(scores.items())[:2]]
    if tick.seconds_left is not None:
        parts.append(f"{_duration(tick.seconds_left)} left")
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
