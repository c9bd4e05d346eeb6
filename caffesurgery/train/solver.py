"""A Caffe solver as its prototxt says it: the nets it names, its learning rate, when it tests.

A file goes in, a ``Solver`` of plain values comes out, checked as Caffe checks it before the first
iteration; ``edited`` changes single fields of a solver's text and keeps every other byte.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import NetError, SolverError, suggest
from ..files import text
from ..files.text import Document
from ..net.params import Params
from .nets import NetFinder, NetUse

TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")
_OLD_TYPES = dict(zip(map(str.upper, TYPES), TYPES))


@dataclass(frozen=True)
class Solver:
    """What Caffe's ``caffe train`` reads from a solver; the names are those of SolverParameter.

    ``folder`` is where relative paths in the solver and in its nets begin: the working folder if
    the net was found from there, else the folder at or above the solver from which it was.
    ``unknown`` holds fields that BVLC Caffe does not have, in a solver of a fork.
    """

    path: str
    folder: Path
    train: NetUse
    tests: tuple[NetUse, ...]
    type: str
    base_lr: float
    lr_policy: str
    gamma: float
    power: float
    stepsize: int
    stepvalue: tuple[int, ...]
    momentum: float
    momentum2: float
    rms_decay: float
    delta: float
    weight_decay: float
    regularization_type: str
    clip_gradients: float
    iter_size: int
    max_iter: int
    display: int
    average_loss: int
    test_interval: int
    test_initialization: bool
    test_compute_loss: bool
    snapshot: int
    snapshot_prefix: str
    snapshot_format: str
    snapshot_diff: bool
    snapshot_after_train: bool
    solver_mode: str
    device_id: int
    random_seed: int
    debug_info: bool
    layer_wise_reduce: bool
    weights: tuple[str, ...]
    unknown: tuple[str, ...] = ()


_PLAIN = frozenset(field.name for field in fields(Solver)) - {
    *("path", "folder", "train", "tests", "type", "unknown")
}


def read_solver(path, forks: bool = False) -> Solver:
    """The solver in a prototxt file.

    ``forks`` lets fields and policies of Caffe's forks through, for a binary that knows them.
    FileError or ParseError where the file is no prototxt; SolverError, with file and line, for a
    value or field that Caffe would refuse and for a net that is not there.
    """
    doc = text.read(path)
    view = Params(doc.root, "SolverParameter", lambda offset: f"{path}:{doc.position(offset)[0]}")
    try:
        if not forks:
            view.check_fields()
        kind = _type_of(view)
        values = {name: view[name] for name in _PLAIN}
        nets = NetFinder(doc, view, Path(path))
        train, tests = nets.train(), tuple(nets.tests())
    except NetError as error:
        raise SolverError(str(error)) from None
    solver = Solver(
        path=str(path), folder=nets.folder, train=train, tests=tests, type=kind,
        unknown=view.unknown(), **values,
    )  # fmt: skip
    _check(solver, view, forks)
    return solver


def learning_rate(solver: Solver, iteration: int) -> float:
    """The rate of the update that follows iteration ``iteration`` (from 0), in Caffe's precision.

    The formulas are those of SGDSolver::GetLearningRate: in float32, but for powers by whole
    numbers, which C++ takes in float64.
    """
    import numpy as np

    single = np.float32
    base, gamma, power = map(single, (solver.base_lr, solver.gamma, solver.power))
    policy = solver.lr_policy
    with np.errstate(over="ignore", under="ignore"):
        if policy == "fixed":
            rate = base
        elif policy == "exp":
            rate = base * np.float64(gamma) ** iteration
        elif policy in ("step", "multistep"):
            rate = base * np.float64(gamma) ** current_step(solver, iteration)
        elif policy == "inv":
            rate = base * (1 + gamma * single(iteration)) ** -power
        elif policy == "poly":
            rate = base * (1 - single(iteration) / single(solver.max_iter)) ** power
        elif policy == "sigmoid":
            past = single(iteration) - single(solver.stepsize)
            rate = base * (1 / (1 + np.exp(-gamma * past)))
        else:
            raise SolverError(
                f"{solver.path}: lr_policy '{policy}' is none of BVLC Caffe's; "
                f"{suggest(policy, POLICIES)}"
            )
        return float(single(rate))


def current_step(solver: Solver, iteration: int) -> int:
    """How often the rate was multiplied by gamma; what a .solverstate keeps as current_step.

    With multistep Caffe takes at most one step at each iteration, in the order of ``stepvalue``.
    """
    if solver.lr_policy == "step":
        return iteration // solver.stepsize
    taken, last = 0, -1
    if solver.lr_policy == "multistep":
        for value in solver.stepvalue:
            last = max(value, last + 1)
            taken += last <= iteration
    return taken


def edited(path, **changes) -> str:
    """The text of a solver with some fields changed, every other byte as it was.

    Values are what Python has for them: numbers, strings, booleans, names of enum values, lists for
    repeated fields; None takes a field out.  What was not there is added at the end.
    SolverError for a field that SolverParameter does not have.
    """
    return edit(text.read(path), changes)


def edit(doc: Document, changes: dict) -> str:
    """As ``edited``, of a solver that is read already."""
    from ..files.schema import load_schema

    known = load_schema().messages["SolverParameter"]
    edits, added = [], []
    for name, value in changes.items():
        if name not in known:
            raise SolverError(f"a solver has no field '{name}'; {suggest(name, known)}")
        there = doc.root.fields_named(name)
        wanted = _statements(known[name], value)
        if there and wanted:
            edits.append((there[0], " ".join(wanted)))
            edits += [(_whole_line(doc, field), "") for field in there[1:]]
        else:
            edits += [(_whole_line(doc, field), "") for field in there]
            added += wanted
    new = doc.replace(edits)
    line = doc.newline
    if added and new and not new.endswith("\n"):
        new += line
    return new + "".join(f"{statement}{line}" for statement in added)


def _statements(field, value) -> list[str]:
    """What says ``field`` to be ``value``, one statement for each value of a repeated field."""
    if value is None:
        return []
    values = value if isinstance(value, (list, tuple)) else (value,)
    return [f"{field.name}: {_written(field, item)}" for item in values]


def _written(field, value) -> str:
    if field.type == "string":
        return text.quote(str(value))
    if isinstance(value, bool):
        return str(value).lower()
    if field.type in ("float", "double"):
        return f"{value:.9g}"  # what it takes to write any float32
    return str(value)


def _whole_line(doc: Document, field: text.Field) -> text.Field:
    """The statement with the line that it has to itself, or just the statement."""
    begin = doc.text.rfind("\n", 0, field.start) + 1
    end = doc.text.find("\n", field.end) + 1 or len(doc.text)
    if doc.text[begin : field.start].strip() or doc.text[field.end : end].strip():
        return field
    return text.Field(field.name, begin, end, field.value)


def _type_of(view: Params) -> str:
    """The solver's type; that of an old file by its number or name."""
    if not view.has("solver_type"):
        return view["type"]
    if view.has("type"):
        raise SolverError(f"{view.where()}: has both type and solver_type; delete solver_type")
    return _OLD_TYPES[view["solver_type"]]


def _check(solver: Solver, view: Params, forks: bool) -> None:
    """SolverError for what Caffe's solvers refuse before or at their first iteration."""

    def need(good: bool, name: str, expected: str) -> None:
        if not good:
            place = view.where(name) if view.has(name) else solver.path
            raise SolverError(f"{place}: {name} is {getattr(solver, name)!r}, expected {expected}")

    policy, kind = solver.lr_policy, solver.type
    if not forks:
        need(policy in POLICIES, "lr_policy", f"one of {', '.join(POLICIES)}")
        need(kind in TYPES, "type", f"one of {', '.join(TYPES)}")
    if policy in ("step", "sigmoid"):
        need(solver.stepsize > 0, "stepsize", f"1 or more with lr_policy '{policy}'")
    if policy in ("step", "exp", "inv", "multistep", "sigmoid"):
        need(solver.gamma >= 0, "gamma", f"0 or more with lr_policy '{policy}'")
    if kind in ("AdaGrad", "RMSProp"):
        need(solver.momentum == 0, "momentum", f"none with type '{kind}', which Caffe refuses")
    if kind == "RMSProp":
        need(0 <= solver.rms_decay < 1, "rms_decay", "0 or more and below 1")
    need(solver.regularization_type in ("L1", "L2"), "regularization_type", "'L1' or 'L2'")
    need(solver.max_iter > 0, "max_iter", "the number of iterations to train for")
    need(solver.iter_size > 0, "iter_size", "1 or more")
    need(solver.average_loss > 0, "average_loss", "1 or more")
