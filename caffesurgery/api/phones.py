"""ONNX files as apps want them: preprocessing inside, smaller forms, labels; and how they run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ExportError, UsageError, VerifyError
from ..files.atomic import refuse_existing, staged_folder
from ..net.net import read_net
from ..report import accelerator_rows, bench_report, export_report, variant_rows
from .model import Model, Progress, stage_of

if TYPE_CHECKING:
    from ..export.preprocess import Preprocess

PRECISIONS = ("float32", "float16", "int8")
_SUFFIXES = {"float32": "", "float16": ".fp16", "int8": ".int8"}
_OPERATORS = ".required_operators.config"


def preprocessing(model: Model, train_val=None, **given) -> Preprocess:
    """How frames are prepared for ``model``: what is ``given``, else its data layer's transform.

    train_val: the prototxt that has the transform_param, where the model's own has none
    given: mean (numbers, "104,117,123", or a .binaryproto or .npy file), scale, channels that the
    net takes ("bgr", "rgb", "gray"), camera ("rgb", "rgba", "bgr", "bgra", "gray"), resize
    ("256x256" or "short=256"), crop (cut the centre out), frame ((height, width), else open)
    Raises ExportError where neither says what is subtracted or multiplied; mean=0 says nothing is.
    """
    from ..export.preprocess import resolve
    from ..net.transform import read_transform

    net = model.net if train_val is None else read_net(train_val)
    transform = read_transform(net)
    if transform is None and given.get("mean") is None and given.get("scale") is None:
        raise ExportError(
            f"{net.doc.path}: no data layer with a transform_param, so the mean and scale of its "
            "images are not known; say --preprocess-from TRAIN_VAL, or --mean (0 for none)"
        )
    return resolve(transform, **given)


def export_for_phones(
    model: Model,
    path,
    *,
    precisions: Sequence[str] = ("float32",),
    preprocess: Preprocess | None = None,
    inside: bool = True,
    halve_ends: bool = False,
    labels=None,
    ort: bool = False,
    mobile: bool = False,
    images=None,
    test_images=None,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
    **options,
) -> dict:
    """Write ``model`` as ONNX in one or more precisions, measured against float32.

    precisions: of "float32", "float16", "int8"; one is written to ``path``, of several the smaller
    ones beside it, as NAME.fp16.onnx and NAME.int8.onnx
    preprocess: from ``preprocessing``; put into the files, or with inside=False only used on images
    halve_ends: float16 files take and give float16, not float32
    labels: a file with one class label a line, or a list; kept in the files' metadata
    ort: also write each file in ORT format, and the list of operators that a reduced build needs
    mobile: add what NNAPI, CoreML and XNNPACK make of each file
    images: calibration images for int8 (N x C x H x W, uint8 RGB or grey; array, .npy or .npz)
    test_images: images (with labels in the .npz) on which the files are measured; without them,
    the calibration images or seeded noise
    options: as for ``export_onnx``
    Returns the documented report.  All files are written, or none.
    """
    _check(precisions, images, options)
    target = Path(path)
    files = _files(target, precisions)
    names = [file.name for file in files.values()]
    if ort:
        names += [f"{Path(name).stem}.ort" for name in names] + [f"{target.stem}{_OPERATORS}"]
    refuse_existing([target.parent / name for name in names], force)
    job = _Job(model, preprocess, inside, halve_ends, labels, options, progress)
    with _places(target, names, force) as (stage, beside):
        paths = {kind: stage / file.name for kind, file in files.items()}
        report, rows = _write(job, paths, beside, images, test_images, seed)
        report["path"] = str(path)
        report["variants"] = variant_rows(rows, files)
        report["mobile"] = _mobile(paths, files) if mobile else []
        report["operators"] = _ort(target, paths) if ort else {}
        made = sorted(stage.iterdir())
        report["files"] = {file.name: file.stat().st_size for file in made}
        report["bytes"] = paths[precisions[0]].stat().st_size
    return report


@dataclass(frozen=True)
class _Job:
    """What is written, whatever its precision."""

    model: Model
    preprocess: Preprocess | None
    inside: bool
    halve_ends: bool
    labels: object
    options: Mapping
    progress: Progress | None

    def write(self, path: Path, precision: str):
        """Write one floating-point file; returns its report and the model before any change."""
        from ..export.half import to_half
        from ..export.labels import describe_outputs, label_names, with_labels
        from ..export.onnx import export_onnx
        from ..export.preprocess import attach

        kinds = {top: layer.type for layer in self.model.net.phase() for top in layer.tops}
        first: list = []
        changes = [lambda made: first.append(made) or made]
        if precision == "float16":
            changes.append(partial(to_half, halve_ends=self.halve_ends))
        changes.append(partial(describe_outputs, types=kinds))
        if self.preprocess and self.inside:
            changes.append(partial(attach, wanted=self.preprocess))
        if self.labels is not None:
            names, source = label_names(self.labels)
            changes.append(partial(with_labels, labels=names, source=source))
        report = stage_of(self.progress, "export")
        done = export_onnx(
            self.model.net, self.model.require_weights(), path, inputs=self.model.inputs,
            changes=changes, progress=partial(report, path.name) if report else None,
            **self.options,
        )  # fmt: skip
        return done, first[0]


def _write(job: _Job, paths: Mapping[str, Path], beside: Path, images, test_images, seed: int):
    """Write every precision; returns the report of the first and what was measured."""
    from ..verify.frames import feed_of
    from ..verify.quantize import quantize
    from ..verify.variants import measure

    base = paths.get("float32", beside / "float32.onnx")
    options = dict(job.options)
    if "float32" not in paths:  # what is not kept is one file
        options.pop("one_file_up_to", None)
    done, bare = replace(job, options=options).write(base, "float32")
    made = {"float32": done, "int8": done}
    if "float16" in paths:
        made["float16"], _ = job.write(paths["float16"], "float16")
    report = export_report(made[next(iter(paths))])
    if set(paths) == {"float32"} and test_images is None:
        return report, ()
    before = None if job.inside else job.preprocess
    feed = partial(feed_of, base, bare=bare, before=before)
    if "int8" in paths:
        quantize(base, paths["int8"], feed(images), _named(job.progress, "quantize", "int8"))
    source = test_images if test_images is not None else images
    forms = {"float32": base, **paths}
    return report, measure(
        forms,
        feed(source) if source is not None else None,
        seed=seed,
        progress=stage_of(job.progress, "measure"),
    )


def _check(precisions: Sequence[str], images, options: Mapping) -> None:
    for precision in precisions:
        if precision not in PRECISIONS:
            raise UsageError(f"precision '{precision}': expected one of {', '.join(PRECISIONS)}")
    if "int8" in precisions:
        from ..verify.quantize import OLDEST_OPSET

        if images is None:
            raise VerifyError(
                "8-bit ranges come from images, and none are given; say --images FILE (.npy or "
                ".npz, N x C x H x W; a few dozen that look like those of the app)"
            )
        if options.get("opset", OLDEST_OPSET) < OLDEST_OPSET:
            raise ExportError(
                f"opset {options['opset']}: a scale for each channel needs {OLDEST_OPSET} or newer"
            )


def _files(target: Path, precisions: Sequence[str]) -> dict[str, Path]:
    """Precision -> file; one alone is ``target`` itself."""
    if len(precisions) == 1:
        return {precisions[0]: target}
    suffix = target.suffix or ".onnx"
    return {
        kind: target.with_name(f"{target.stem}{_SUFFIXES[kind]}{suffix}") for kind in precisions
    }


@contextmanager
def _places(target: Path, names: Sequence[str], force: bool) -> Iterator[tuple[Path, Path]]:
    """(Where the files are made, where what is only needed meanwhile goes)."""
    with staged_folder(target.parent, names, force) as stage:
        with tempfile.TemporaryDirectory(prefix="caffesurgery-") as beside:
            yield stage, Path(beside)


def _ort(target: Path, paths: Mapping[str, Path]) -> dict[str, list[str]]:
    """Write every file in ORT format, and beside them what a reduced build needs."""
    from ..verify.ortformat import config_text, operators, to_ort

    made = []
    for precision, path in paths.items():
        made.append(path.with_suffix(".ort"))
        to_ort(path, made[-1], half=precision == "float16")
    needed = operators(made)
    config = made[0].with_name(f"{target.stem}{_OPERATORS}")
    config.write_text(config_text(needed, [path.name for path in made]), encoding="utf-8")
    return needed


def _mobile(paths: Mapping[str, Path], files: Mapping[str, Path]) -> list[dict]:
    from ..verify.mobile import check_mobile

    return [
        {"file": str(files[kind]), **row}
        for kind, path in paths.items()
        for row in accelerator_rows(check_mobile(path))
    ]


def _named(progress: Progress | None, stage: str, item: str):
    return partial(progress, stage, item) if progress else None


def check_mobile(path) -> list[dict]:
    """What NNAPI, CoreML and XNNPACK make of the ONNX file at ``path``: one dict for each.

    Keys as in ``mobile`` of the export's report: name, verdict ("yes", "maybe", "no"), sentence,
    nodes, supported, pieces, unsupported, advice.
    """
    from ..verify.mobile import check_mobile as check

    return accelerator_rows(check(path))


def bench(
    paths: Sequence,
    *,
    threads: int = 1,
    runs: int = 30,
    loads: int = 5,
    inputs: Mapping[str, Sequence[int]] | None = None,
    progress: Progress | None = None,
) -> dict:
    """Measure ONNX files in processes of their own, in turns; returns the documented report.

    paths: .onnx or .ort files; ratios are those of the first to each
    threads: of each process; runs: forward passes of each file that count; loads: processes in
    which each file is loaded
    inputs: shapes of inputs with open axes, e.g. {"image": (1, 480, 640, 3)}
    """
    from ..verify.bench import bench as measure

    report = stage_of(progress, "bench")
    figures = measure(
        paths, threads=threads, runs=runs, loads=loads, inputs=inputs, progress=report
    )
    return bench_report(figures, threads, runs, loads)
