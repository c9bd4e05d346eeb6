"""What ``caffe train`` is started with: a solver of the job's own, a command and a working folder.

Caffe runs in the folder in which the solver's relative names begin (usually the user's own, as if
typed there); everything that it writes goes to the job's folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import TrainError
from ...files import caffemodel, text
from ...files.atomic import write_bytes
from ...files.solverstate import read_state, write_state
from ..check import require_data, require_space, require_weights, trained_shapes
from ..job import Job
from ..snapshots import PREFIX
from ..solver import Solver, edit, read_solver

SOLVER, LOG, CLEAN = "caffe_solver.prototxt", "caffe.log", "without_gradients.caffemodel"
_STATE = "begun_from.solverstate"
_SNAPSHOTS = 10
"""Snapshots of a training whose solver asks for none; the last two of them are kept."""
_DISPLAYS = 200
"""Lines of progress of a training whose solver asks for none."""


@dataclass(frozen=True)
class Run:
    """A command to be run in ``folder``; ``fresh`` names layers that begin untrained."""

    command: tuple[str, ...]
    folder: Path
    solver: Solver
    begin: int
    prune: bool
    fresh: tuple[str, ...]


def prepare(binary: Path, job: Job) -> Run:
    """Check a job, write its solver, and say what to run.  Errors come before anything is run."""
    _refuse_foreign(job)
    solver = read_solver(job.solver, forks=True)
    net = solver.train.read()
    require_data(net, "TRAIN", solver.folder)
    for test in solver.tests:
        require_data(test.read(), "TEST", solver.folder)
    fresh, size, begin = [], 0, 0
    command = [str(binary), "train", "-solver", str((job.folder / SOLVER).absolute())]
    if job.state is not None:
        state, begin = _state(job)
        command += ["-snapshot", str(state.absolute())]
    elif job.weights is not None:
        weights = caffemodel.read(job.weights)
        fresh = require_weights(net, weights, trained_shapes(net, solver.folder))
        size = weights.size
        command += ["-weights", str(Path(job.weights).absolute())]
    if job.gpus:
        command += ["-gpu", ",".join(map(str, job.gpus))]
    require_space(job.folder, size)
    job.folder.mkdir(parents=True, exist_ok=True)
    _write_solver(job, solver)
    return Run(tuple(command), solver.folder, solver, begin, not solver.snapshot, tuple(fresh))


def _refuse_foreign(job: Job) -> None:
    """TrainError for what only another trainer can do."""
    for given, what, instead in (
        (job.processes > 1, "several processes", "name several GPUs with --gpu 0,1"),
        (job.mixed, "mixed precision", "leave it out"),
        (job.data, "data in the place of a layer's own", "change the source in the prototxt"),
    ):
        if given:
            raise TrainError(f"Caffe trains without {what}: {instead}, or take --trainer torch")


def _state(job: Job) -> tuple[Path, int]:
    """The state to go on from, in a copy that says where its caffemodel is now; its iteration."""
    if Path(job.state).name.endswith(".h5"):
        return Path(job.state), 0
    state = read_state(job.state)
    target = job.folder / _STATE
    weights = str(Path(state.weights).absolute()) if state.weights else ""
    write_state(target, state.iteration, weights, state.history, state.current_step, force=True)
    return target, state.iteration


def _write_solver(job: Job, solver: Solver) -> None:
    changes: dict = {
        "snapshot_prefix": str((job.folder / PREFIX).absolute()),
        "snapshot_format": None,
        "snapshot_diff": None,
        "snapshot_after_train": None,
    }
    if not solver.snapshot:
        changes["snapshot"] = max(1, -(-solver.max_iter // _SNAPSHOTS))
    if not solver.display:
        changes["display"] = max(1, solver.max_iter // _DISPLAYS)
    if job.seed is not None:
        changes["random_seed"] = job.seed
    doc = text.read(job.solver)
    write_bytes(job.folder / SOLVER, doc.encode(edit(doc, changes)), force=True)
