"""Reads and writes .solverstate files: where training stands, as Caffe's SolverState message.

A state names the caffemodel that was saved with it and holds the solver's memory (momentum and the
like), one blob or more for each learnable blob of the net.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import FileError, WeightsError
from . import atomic, wire
from .blob import read_blob
from .caffemodel_write import blob_field

_ITER, _LEARNED_NET, _HISTORY, _CURRENT_STEP = 1, 2, 3, 4


@dataclass(frozen=True)
class SolverState:
    """``iteration`` updates are done; ``weights`` is the caffemodel saved then ("" for none).

    ``history`` are float32 arrays in Caffe's order; ``current_step`` counts the steps of the
    learning rate.
    """

    iteration: int
    weights: str
    history: tuple[np.ndarray, ...]
    current_step: int = 0


def read_state(path: str | os.PathLike) -> SolverState:
    """The state in a .solverstate file; its weights are looked for beside it if need be.

    FileError where there is no such file, or where its caffemodel is gone; WeightsError where it is
    damaged or of another kind.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        iteration, name, history, step = _fields(data, os.fspath(path))
    except WeightsError as error:
        raise WeightsError(
            f"{path}: {error}; expected a .solverstate as Caffe saves it in a snapshot"
        ) from None
    return SolverState(iteration, _beside(name, Path(path)), tuple(history), step)


def _fields(data: bytes, path: str):
    iteration, name, history, step = None, "", [], 0
    for number, kind, start, stop in wire.fields(data, 0, len(data)):
        if (number, kind) == (_ITER, wire.VARINT):
            iteration = wire.varint(data, start, stop)[0]
        elif (number, kind) == (_LEARNED_NET, wire.BYTES):
            name = data[start:stop].decode("utf-8", "surrogateescape")
        elif (number, kind) == (_HISTORY, wire.BYTES):
            blob = read_blob(data, start, stop, path, f"history {len(history)}")
            history.append(blob.array())
        elif (number, kind) == (_CURRENT_STEP, wire.VARINT):
            step = wire.varint(data, start, stop)[0]
    if iteration is None:
        raise WeightsError("there is no iteration in it")
    return iteration, name, history, step


def _beside(name: str, path: Path) -> str:
    """Where the caffemodel is: as named, or beside the state."""
    near = path.parent / Path(name).name
    if not name or Path(name).is_file():
        return name
    if near.is_file():
        return str(near)
    raise FileError(f"{path}: its weights {name} are gone, and {near} is not there either")


def write_state(
    path: str | os.PathLike,
    iteration: int,
    weights: str,
    history: Iterable[np.ndarray],
    current_step: int = 0,
    force: bool = False,
) -> None:
    """Write a .solverstate, whole or not at all, as Caffe writes it."""
    with atomic.writing(path, force) as stream:
        stream.write(wire.integer(_ITER, iteration) + wire.string(_LEARNED_NET, weights))
        for array in history:
            for piece in blob_field(_HISTORY, array):
                if isinstance(piece, np.ndarray):
                    piece = np.ascontiguousarray(piece, "<f4").tobytes()
                stream.write(piece)
        stream.write(wire.integer(_CURRENT_STEP, current_step))
