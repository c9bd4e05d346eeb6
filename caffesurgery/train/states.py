"""Caffe's .solverstate: where a training stands, as far as others than its solver need it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileError, TrainError, WeightsError
from ..files import caffemodel, wire
from ..files.atomic import write_bytes

_ITER, _LEARNED_NET, _HISTORY, _CURRENT_STEP = 1, 2, 3, 4  # fields of SolverState
_NAME = re.compile(r"_iter_(\d+)\.solverstate$")


@dataclass(frozen=True)
class State:
    """What a .solverstate says: updates done, its caffemodel as written there, blobs of history."""

    path: Path
    iteration: int
    learned_net: str
    current_step: int
    histories: int


@dataclass(frozen=True)
class Snapshot:
    """A caffemodel and the .solverstate that belongs to it, both whole."""

    iteration: int
    weights: Path
    state: Path


def read_state(path) -> State:
    """The head of a .solverstate; TrainError where the file is none, or is cut off."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise TrainError(
            f"{path}: cannot be read ({error.strerror}); expected a .solverstate"
        ) from None
    values, learned, histories = {_ITER: 0, _CURRENT_STEP: 0}, "", 0
    try:
        for number, kind, start, stop in wire.fields(data, 0, len(data)):
            if kind == wire.VARINT and number in values:
                values[number] = wire.varint(data, start, stop)[0]
            elif kind == wire.BYTES and number == _LEARNED_NET:
                learned = data[start:stop].decode("utf-8", "surrogateescape")
            elif kind == wire.BYTES and number == _HISTORY:
                histories += 1
            else:
                raise wire.damaged(start, f"field {number}, which a .solverstate does not have")
    except WeightsError as error:
        raise TrainError(
            f"{path}: no whole .solverstate ({error}); take the one of an earlier iteration"
        ) from None
    if not learned and not histories:
        raise TrainError(f"{path}: no .solverstate: it names no caffemodel and has no history")
    return State(Path(path), values[_ITER], learned, values[_CURRENT_STEP], histories)


def learned_weights(state: State, folder: Path = Path()) -> Path:
    """The caffemodel of a state: where it says (from ``folder``), or beside it by the same name."""
    for place in (folder / state.learned_net, state.path.parent / Path(state.learned_net).name):
        if state.learned_net and place.is_file():
            return place
    raise TrainError(
        f"{state.path}: its caffemodel '{state.learned_net}' is neither there nor beside it; put "
        "it beside the .solverstate"
    )


def relocated(state: State, weights: Path, target: Path) -> Path:
    """A copy of a state, at ``target``, that names ``weights`` as its caffemodel."""
    data = state.path.read_bytes()
    kept, position = [], 0
    for number, _, _, stop in wire.fields(data, 0, len(data)):
        if number != _LEARNED_NET:
            kept.append(data[position:stop])
        position = stop
    write_bytes(target, b"".join(kept) + wire.string(_LEARNED_NET, str(weights)), force=True)
    return target


def snapshots(folder: Path, most: int | None = None) -> list[Snapshot]:
    """The snapshots in a folder that are whole, by iteration; those cut off are left out.

    Files are PREFIX_iter_N.caffemodel and .solverstate, as Caffe names them.
    """
    found = []
    for state in Path(folder).glob("*.solverstate"):
        named = _NAME.search(state.name)
        weights = state.with_suffix(".caffemodel")
        if named and (most is None or int(named[1]) <= most) and _whole(state, weights):
            found.append(Snapshot(int(named[1]), weights, state))
    return sorted(found, key=lambda snapshot: snapshot.iteration)


def _whole(state: Path, weights: Path) -> bool:
    try:
        read_state(state)
        return bool(caffemodel.read(weights).layers)
    except (TrainError, FileError):
        return False
