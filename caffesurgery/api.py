"""The public interface: what the command line does, as functions from values to values.

    model = caffesurgery.load("deploy.prototxt", "net.caffemodel")
    plan = caffesurgery.plan(model, method="cp", ranks="ratio=0.25")
    smaller = caffesurgery.save(caffesurgery.apply(model, plan), "out/")
    caffesurgery.export_onnx(smaller, "out/net.onnx")
    print(caffesurgery.compare(model, smaller))

Nothing is written but by ``save``, ``compress`` and ``export_onnx``, and those write whole files or
none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ExportError, FileError, PlanError, WeightsError
from .files import caffemodel
from .files.atomic import staged_folder
from .files.caffemodel import Caffemodel
from .net.match import require_match
from .net.net import Net, read_net
from .net.shapes import NetShapes, infer
from .report import encode_json, inspect_net, operation_report

if TYPE_CHECKING:  # surgery brings SciPy, which looking at a net does not need
    from .surgery.apply import Operated
    from .surgery.plan import Plan
    from .surgery.restore import Chain

__all__ = [
    "Model", "Result", "apply", "compare", "compress", "export_onnx", "inspect", "load", "plan",
    "read_plan", "restore", "save",
]  # fmt: skip

Progress = Callable[[str, str, float], None]
"""Called with a stage ('decompose'), what it works on ('conv2') and the share done (0 to 1)."""


@dataclass(frozen=True)
class Model:
    """A net, the shapes of its blobs, and its weights (None when only the prototxt was read)."""

    net: Net
    shapes: NetShapes
    weights: Caffemodel | None = None
    inputs: Mapping[str, tuple[int, ...]] | None = None
    phase: str = "TEST"

    @property
    def name(self) -> str:
        """The net's own name, or that of its file."""
        return self.net.name or Path(self.net.doc.path or "net").stem

    def require_weights(self) -> Caffemodel:
        """The weights; WeightsError when the model was loaded without them."""
        if self.weights is None:
            raise WeightsError(
                f"{self.net.doc.path}: loaded without weights; give the caffemodel too"
            )
        return self.weights


@dataclass(frozen=True)
class Result:
    """What ``apply`` and ``restore`` return, and ``save`` writes: the old model and the outcome.

    ``plan`` is what ``apply`` carried out, ``chains`` what ``restore`` undid.
    """

    model: Model
    operated: Operated
    plan: Plan | None = None
    chains: tuple[Chain, ...] = ()


def load(
    prototxt,
    caffemodel_path=None,
    *,
    phase: str = "TEST",
    batch: int | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
) -> Model:
    """Read a net and, if given, its weights, and check that they belong together.

    prototxt: path of a net (deploy, train_val ...); caffemodel_path: path of its weights
    phase: 'TEST' or 'TRAIN'; batch: replaces the first dimension of the inputs
    inputs: shapes, by blob, of data that the file does not describe, e.g. {"data": (3, 32, 32)}
    Raises FileError, ParseError, NetError or WeightsError, each naming the place.
    """
    net = read_net(prototxt)
    shapes = infer(net, phase, inputs, batch)
    if caffemodel_path is None:
        return Model(net, shapes, None, inputs, phase)
    weights = caffemodel.read(caffemodel_path)
    require_match(shapes, weights, net.doc.path)
    return Model(net, shapes, weights, inputs, phase)


def inspect(model: Model) -> dict:
    """The documented report of a model: layers, shapes, parameters, multiply-adds for one image."""
    notes = [*model.net.warnings, *model.shapes.notes]
    return inspect_net(model.name, model.net.doc.path or "", model.phase, model.shapes, notes)


def plan(
    model: Model,
    method: str = "cp",
    ranks: str = "ratio=0.5",
    layers: str | Sequence[str] = "*",
    *,
    seed: int = 0,
    allow_growth: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """Choose what to decompose, and at which ranks.

    method: a scheme ('cp3', 'tucker2', 'svd' ...) or a policy ('cp', 'tucker2')
    ranks: a rule ('ratio=0.25', 'energy=0.9', 'error=0.3') or explicit ranks 'conv2=154,fc6=365'
    layers: a name, a glob pattern, several with commas, or a list of them
    allow_growth: do not leave alone the layers that would need more multiply-adds than before
    Returns a Plan, whose ``dumps()`` is the text of a plan file; PlanError when no layer is left to
    decompose.
    """
    from .surgery.planner import make_plan

    patterns = layers.split(",") if isinstance(layers, str) else list(layers)
    made = make_plan(
        model.net,
        model.shapes,
        model.require_weights(),
        method,
        ranks,
        [pattern.strip() for pattern in patterns],
        seed,
        allow_growth,
        _stage(progress, "plan"),
    )
    _require_layers(made)
    return made


def read_plan(path) -> Plan:
    """Read a plan file; PlanError or ParseError names the line of what is wrong."""
    from .surgery.plan import read_plan as read

    return read(path)


def apply(
    model: Model,
    plan: Plan,
    also: Sequence = (),
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Carry out a plan on a model, and on the prototxts in ``also`` that describe the same net.

    Decomposes the weights, rewrites every prototxt, and proves that Caffe will load the outcome in
    the TRAIN and TEST phase of each.  Writes nothing: see ``save``.  ``jobs`` layers are decomposed
    at a time, by default one for each processor; that is fastest with OPENBLAS_NUM_THREADS=1 in the
    environment, as the command line sets it.
    """
    from .surgery.apply import apply_plan
    from .surgery.describe import describe_all
    from .surgery.prove import prove

    weights = model.require_weights()
    others = [read_net(path) for path in also]
    described = describe_all(model.net, model.shapes, model.inputs, others)
    operated = apply_plan(
        model.net,
        model.shapes,
        weights,
        plan,
        described,
        jobs,
        _stage(progress, "decompose"),
    )
    notes = operated.notes + prove(described, weights, operated)
    return Result(model, _with_notes(operated, notes), plan)


def restore(model: Model, *, progress: Progress | None = None) -> Result:
    """Turn every decomposed layer of a model back into the dense layer that it stands for."""
    from .surgery.describe import describe_all
    from .surgery.prove import prove
    from .surgery.restore import restore_net

    weights = model.require_weights()
    operated, chains = restore_net(model.net, model.shapes, weights, _stage(progress, "restore"))
    described = describe_all(model.net, model.shapes, model.inputs, ())
    notes = prove(described, weights, operated)
    return Result(model, _with_notes(operated, notes), None, chains)


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
    report = _stage(progress, "write") or (lambda item, share: None)
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


def export_onnx(
    model: Model, path, *, force: bool = False, progress: Progress | None = None, **options
):
    """Write a model as ONNX, with the batch left open.

    options: opset, batch, keep_blobs; returns the report of ``export.onnx.export_onnx``
    """
    from .export.onnx import export_onnx as export

    report = _stage(progress, "export")
    return export(
        model.net,
        model.require_weights(),
        path,
        inputs=model.inputs,
        force=force,
        progress=partial(report, Path(path).name) if report else None,
        **options,
    )


def compare(first: Model, second: Model, *, progress: Progress | None = None, **options):
    """Run two models on the same inputs in ONNX Runtime; the first is the reference.

    options: images, labels, blobs, mean, scale, bgr, crop, samples, seed, batch, as in
    ``verify.compare.compare``, whose Comparison is returned
    """
    from .verify.compare import compare as run

    return run(
        first.net,
        first.require_weights(),
        second.net,
        second.require_weights(),
        inputs=first.inputs or second.inputs,
        progress=_stage(progress, "compare"),
        **options,
    )


def compress(
    model: Model,
    folder,
    method: str = "cp",
    ranks: str = "ratio=0.5",
    layers: str | Sequence[str] = "*",
    also: Sequence = (),
    *,
    onnx: bool = True,
    seed: int = 0,
    allow_growth: bool = False,
    force: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
):
    """The whole job: plan, apply, save, export, and compare what was written with the original.

    Leaves prototxts, caffemodel, plan.prototxt, report.json and (with ``onnx``) net.onnx in
    ``folder``, all of them or none.  A net with a layer that ONNX cannot hold is compressed all the
    same; the report's notes name the layer.  Returns the report as a dict.
    """
    weights = model.require_weights()
    files = file_names([model.net.doc.path, *map(str, also)], weights.path, True)
    files += ["report.json", "net.onnx"]
    with staged_folder(folder, files if onnx else files[:-1], force) as stage:
        made = plan(
            model, method, ranks, layers, seed=seed, allow_growth=allow_growth, progress=progress
        )
        result = apply(model, made, also, jobs=jobs, progress=progress)
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
        report["notes"] += notes
        report["files"] = {path.name: path.stat().st_size for path in sorted(stage.iterdir())}
        report["comparison"] = comparison.as_dict() if comparison else None
        (stage / "report.json").write_bytes(encode_json(report))
    return report


def _require_layers(made: Plan) -> None:
    if not made.layers:
        reasons = "\n".join(f"  {kept.name}: {kept.why}" for kept in made.kept[:10])
        raise PlanError(
            f"{made.method} at {made.rule} replaces no layer of {made.net or 'the net'}:\n"
            f"{reasons}\ntry another method, smaller ranks, or --allow-growth"
        )


def _with_notes(operated: Operated, notes: tuple[str, ...]) -> Operated:
    return replace(operated, notes=tuple(dict.fromkeys(notes)))


def _stage(progress: Progress | None, stage: str):
    """The progress of one stage: a callback that takes what it works on and the share done."""
    return partial(progress, stage) if progress else None
