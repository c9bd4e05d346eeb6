"""The whole job in one call."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..errors import ExportError
from ..files.atomic import staged_folder
from ..report import calibration_report, encode_json, operation_report
from .calibrated import Calibrated, Calibrator, calibrated
from .model import Model, Progress
from .onnx import compare, export_onnx
from .save import file_names, load_written, write_result
from .surgery import Result, apply, plan


def compress(
    model: Model,
    folder,
    method: str = "cp",
    ranks: str = "ratio=0.5",
    layers: str | Sequence[str] = "*",
    also: Sequence = (),
    *,
    onnx: bool = True,
    force: bool = False,
    seed: int = 0,
    jobs: int | None = None,
    dask: str | None = None,
    calibrate=None,
    progress: Progress | None = None,
    **planning,
) -> dict:
    """The whole job: plan, apply, save, export, and compare what was written with the original.

    Leaves prototxts, caffemodel, plan.prototxt, report.json and (with ``onnx``) net.onnx in
    ``folder``, all of them or none.  A net with a layer that ONNX cannot hold is compressed all the
    same; the report's notes name the layer.

    method, ranks, layers, seed, jobs, dask, planning: which layers, and how, all as in ``plan``
    calibrate: images to fit the smaller net to, without labels: a ``Calibrator``, or what it takes
        as images; what they bring is kept only where images that were not fitted to say so
    Returns the report as a dict.
    """
    weights = model.require_weights()
    files = file_names([model.net.doc.path, *map(str, also)], weights.path, True)
    files += ["report.json", "net.onnx"]
    calibrator = _calibrator(calibrate, seed, jobs)
    with staged_folder(folder, files if onnx else files[:-1], force) as stage:
        work = {"jobs": jobs, "dask": dask, "progress": progress}
        planned = partial(plan, model, method, ranks, layers, seed=seed, **work, **planning)
        applied = partial(apply, model, also=also, **work)
        result, told = _carried_out(model, calibrator, planned, applied, progress)
        write_result(result, stage, progress)
        smaller, comparison, notes = load_written(result, stage), None, ()
        if onnx:
            try:
                export_onnx(smaller, stage / "net.onnx", progress=progress)
                comparison = compare(model, smaller, progress=progress)
            except ExportError as error:
                reason = str(error).replace(str(stage), str(folder))
                notes = (f"no net.onnx, and nothing compared: {reason}",)
        report = operation_report(result, smaller)
        report["calibration"] = calibration_report(told)
        report["notes"] += notes
        report["files"] = {path.name: path.stat().st_size for path in sorted(stage.iterdir())}
        report["comparison"] = comparison.as_dict() if comparison else None
        (stage / "report.json").write_bytes(encode_json(report))
    return report


def _calibrator(calibrate, seed: int, jobs: int | None) -> Calibrator | None:
    if calibrate is None or isinstance(calibrate, Calibrator):
        return calibrate
    return Calibrator(calibrate, seed=seed, jobs=jobs)


def _carried_out(
    model: Model, calibrator: Calibrator | None, planned, applied, progress: Progress | None
) -> tuple[Result, Calibrated | None]:
    """What the plan makes of a model, fitted to images where there are some."""
    if calibrator is None:
        return applied(planned()), None
    return calibrated(model, calibrator, planned, applied, progress)
