"""Writes what surgery returned: whole files or none."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FileError
from ..files import caffemodel
from ..files.atomic import staged_folder
from ..files.caffemodel import Caffemodel
from .model import Model, Progress, load, stage_of
from .surgery import Result

if TYPE_CHECKING:
    from ..surgery.apply import Operated


def save(result: Result, folder, *, force: bool = False, progress: Progress | None = None) -> Model:
    """Write a result's prototxts, caffemodel and plan to ``folder``, under the inputs' names.

    All files or none: they are written beside the folder's place and moved there at the end.
    Returns the model read back from what was written.
    """
    weights, planned = result.model.require_weights(), result.plan is not None
    files = file_names(result.operated.texts, weights.path, planned)
    with staged_folder(folder, files, force) as stage:
        write_result(result, stage, progress)
    return load_written(result, Path(folder))


def write_result(result: Result, folder: Path, progress: Progress | None = None) -> None:
    """Write the files of ``result`` into an existing folder."""
    model, operated = result.model, result.operated
    for path, text in operated.texts.items():
        (folder / Path(path).name).write_bytes(model.net.doc.encode(text))
    weights = model.require_weights()
    name, size = Path(weights.path).name, _size_after(weights, operated)
    report = stage_of(progress, "write") or (lambda item, share: None)
    caffemodel.rewrite(
        weights,
        operated.weights,
        folder / name,
        progress=lambda done: report(name, min(done / size, 1.0)),
    )
    report(name, 1.0)
    if result.plan is not None:
        (folder / "plan.prototxt").write_text(result.plan.dumps(), encoding="utf-8")


def _size_after(weights: Caffemodel, operated: Operated) -> int:
    """About how many bytes the new caffemodel will have."""
    goes = sum(one.end - one.start for one in weights.layers if one.name in operated.weights)
    new = (layer for layers in operated.weights.values() for layer in layers)
    return max(weights.size - goes + sum(4 * b.size for layer in new for b in layer.blobs), 1)


def file_names(prototxts: Iterable, weights, planned: bool) -> list[str]:
    """Names of the files that are written for these; FileError where two would have one name."""
    names: dict[str, str] = {}
    for path in (*prototxts, weights):
        name = Path(path).name
        if name in names:
            raise FileError(
                f"{path} and {names[name]} would both be written as {name}; rename one of them"
            )
        if planned and name in ("plan.prototxt", "report.json", "net.onnx"):
            raise FileError(f"{path}: the name {name} is taken by another file that is written")
        names[name] = path
    return [*names, "plan.prototxt"] if planned else list(names)


def load_written(result: Result, folder: Path) -> Model:
    """The model that was written to ``folder``."""
    model = result.model
    return load(
        folder / Path(model.net.doc.path).name,
        folder / Path(model.require_weights().path).name,
        phase=model.phase,
        inputs=model.inputs,
    )
