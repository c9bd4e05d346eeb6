"""Snapshots in a folder: which are whole, and the weights of one as a file of their own."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import FileError, WeightsError
from ..files import caffemodel
from ..files.atomic import writing
from ..files.caffemodel import Caffemodel, NewLayer
from ..files.solverstate import read_state

PREFIX = "snapshot"
"""What the names of snapshots begin with, whoever trains."""
_NAME = re.compile(r"_iter_(\d+)\.solverstate$")


@dataclass(frozen=True)
class Snapshot:
    """A caffemodel and the .solverstate that belongs to it, both whole."""

    iteration: int
    weights: Path
    state: Path


def snapshots(folder, most: int | None = None) -> list[Snapshot]:
    """The snapshots in a folder that are whole, by iteration; those cut off are left out.

    Files are ANY_iter_N.caffemodel and .solverstate, as Caffe names them; ``most`` leaves out
    those of later iterations.
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
    except FileError:
        return False


def finite(model: Caffemodel) -> bool:
    """Whether all the weights of a caffemodel are finite numbers."""
    return all(np.isfinite(blob.array()).all() for layer in model.layers for blob in layer.blobs)


def has_gradients(model: Caffemodel) -> bool:
    """Whether a caffemodel also keeps gradients, as ``snapshot_diff`` makes Caffe write them."""
    return any(blob.has_diff for layer in model.layers for blob in layer.blobs)


def hand_on(snapshot, target, force: bool = False) -> Path:
    """The weights of a snapshot, without gradients, as the file ``target``.

    WeightsError where the snapshot holds no layers; FileError where ``target`` is there already.
    """
    model = caffemodel.read(snapshot)
    if not model.layers:
        raise WeightsError(f"{snapshot}: no layers in it; expected the weights of a net")
    if has_gradients(model):
        layers = (
            NewLayer(layer.name, layer.type, (), (), [blob.array() for blob in layer.blobs])
            for layer in model.layers
        )
        caffemodel.write(target, model.net_name, layers, force=force)
    else:
        with writing(target, force) as stream, Path(snapshot).open("rb") as source:
            shutil.copyfileobj(source, stream, 1 << 22)
    return Path(target)
