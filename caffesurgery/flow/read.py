"""Reads a flow file: every field is checked against ``proto/flow.proto`` and against the others.

What a flow says wrong is a FlowError (or, of a wrong type, a NetError) that names file, line and
field.  The files that a flow names are looked for and not read.
"""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import FlowError, UsageError, suggest
from ..files import text
from ..net.params import Params
from ..ranks import parse_rule
from ..surgery.methods import check_method
from .flow import Flow, GroupOf, Images, Source, Stop, TrainerChoice, Training

RECIPES = ("etri", "samsung", "two-pass")
METRICS = ("top1", "top5")
_AS_THEY_ARE = ("choose_ranks", "keep", "high_effort", "allow_growth", "scheme", "keep_steps")


def read_flow(path) -> Flow:
    """Read and check a flow file; FlowError or ParseError names the line of what is wrong."""
    return _flow(text.read(path))


def parse_flow(source: str | bytes, path: str | None = None) -> Flow:
    """The flow in ``source``; its relative paths start from the folder of ``path``."""
    return _flow(text.parse(source, path))


def _flow(doc) -> Flow:
    root = _root(doc)
    files = _Files(doc.path)
    _need(root, "train_val", "the net to train, with its data layers")
    _need(root, "weights", "the caffemodel to start from")
    _need(root, "train", 'what follows a cut: train { recipe: "etri" epochs: 15 }')
    _asked(root, "method", check_method)
    _asked(root, "ranks", parse_rule)
    scheme = root["scheme"]
    train = _training(root["train"], files, whole=True)
    optimise = _training(root["optimise"], files) if root.has("optimise") else None
    finish = _training(root["finish"], files) if root.has("finish") else None
    if optimise and scheme != "two_pass":
        raise FlowError(f"{root.where('optimise')}: optimise is a part of scheme: two_pass only")
    every, groups = _groups(root, files)
    return Flow(
        **{name: root[name] for name in _AS_THEY_ARE},
        **{name: files.found(root, name) for name in ("train_val", "deploy", "weights")},
        method=root["method"],
        ranks=root["ranks"],
        train=train,
        inputs=tuple((one["name"], one["dim"]) for one in root["input"]),
        data=tuple(_source(one, files) for one in root["data"]),
        layers=_patterns(root, "layers"),
        pin=",".join(root["pin"]),
        method_for=root["method_for"],
        max_norm=root["max_norm"] if root.has("max_norm") else None,
        profile=files.found(root, "profile", may_be_name=True),
        measure=_images(root["measure"], files) if root.has("measure") else None,
        calibrate=_unlabelled(root["calibrate"], files) if root.has("calibrate") else None,
        every=every,
        order=root["order"],
        groups=groups,
        freeze=_freezing(root, scheme),
        budget=_budget(root["budget"]),
        optimise=train.with_changes(optimise) if optimise else None,
        finish=train.with_changes(finish) if finish else None,
        trainer=_trainer(root["trainer"], files),
        evaluate=_images(root["evaluate"], files) if root.has("evaluate") else None,
        stop=_stop(root["stop"]),
        seed=int(_number(root, "seed", 0) or 0),
        output=files.beside(root["output"] or f"{Path(doc.path or 'flow').stem}.out"),
        path=doc.path or "",
        said=json.dumps(root.as_dict()),
    )


def _root(doc) -> Params:
    """The whole file as a Flow of a version that can be read; else FlowError."""
    where, names = doc.path or "the flow", doc.root.names()
    root = Params(doc.root, "Flow", doc.where, "flow")
    if "layer" in names or ("net" in names and "base_lr" in names):
        what = "a solver" if "base_lr" in names else "a net or a plan"
        raise FlowError(
            f"{where}: this is {what}, expected a flow; `caffesurgery finetune --recipe "
            "cifar10-quick` prints one to begin with"
        )
    root.check_fields()
    if root["version"] != 1:
        raise FlowError(f"{where}: version {root['version']}, this program reads version 1")
    return root


class _Files:
    """Finds what a flow names: beside the flow file, else from the current folder."""

    def __init__(self, path: str | None):
        self.folder = Path(path or "flow.prototxt").parent

    def beside(self, name: str) -> str:
        """The path of a file or folder that will be made."""
        return str(self.folder / name)

    def found(self, entry: Params, name: str, may_be_name: bool = False) -> str:
        """The path of the file or folder that a field names; "" where the field is not given."""
        given = entry[name]
        if not entry.has(name) or not given:
            return ""
        for folder in (self.folder, Path()):
            if (folder / given).exists():
                return str(folder / given)
        if may_be_name:
            return given
        here = "" if self.folder == Path() else f", nor {given} in the current folder"
        raise FlowError(
            f"{entry.where(name)}: {name}: there is no {self.folder / given}{here}; paths are "
            "looked for beside the flow first"
        )


def _need(entry: Params, name: str, what: str) -> None:
    if not entry.has(name) or entry[name] == "":
        raise FlowError(f"{entry.where()}: {entry.kind} has no {name}, expected {what}")


def _asked(root: Params, name: str, check) -> None:
    """A method or rule that there is; FlowError with the place for any other."""
    _need(root, name, f"what --{name} of `caffesurgery plan` takes")
    try:
        check(root[name])
    except UsageError as error:
        raise FlowError(f"{root.where(name)}: {error}") from error


def _number(entry: Params, name: str, least: float, most: float | None = None):
    """A number in its range; None where it is not given and the schema has no default."""
    if not entry.has(name):
        return entry[name] or None
    value = entry[name]
    if not value >= least or (most is not None and value > most):
        bounds = f"{least:g} or more" if most is None else f"{least:g} to {most:g}"
        raise FlowError(f"{entry.where(name)}: {name} is {value:g}, expected {bounds}")
    return value


def _one_of(entry: Params, first: str, second: str, needed: str = "") -> None:
    """FlowError where both fields are given, or neither although one is needed."""
    if entry.has(first) and entry.has(second):
        raise FlowError(
            f"{entry.where(second)}: both {first} and {second} are given; keep one of them"
        )
    if needed and not entry.has(first) and not entry.has(second):
        raise FlowError(f"{entry.where()}: {entry.kind} has neither {first} nor {second}; {needed}")


def _patterns(entry: Params, name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in entry[name].split(",") if part.strip())


def _training(entry: Params, files: _Files, whole: bool = False) -> Training:
    """One training; a ``whole`` one must say all, another what differs from it."""
    _one_of(entry, "solver", "recipe", "name one of them" if whole else "")
    _one_of(entry, "epochs", "iterations")
    if entry.has("recipe") and entry["recipe"] not in RECIPES:
        raise FlowError(
            f"{entry.where('recipe')}: no recipe '{entry['recipe']}'; "
            f"{suggest(entry['recipe'], RECIPES)}"
        )
    made = Training(
        files.found(entry, "solver"),
        entry["recipe"],
        _number(entry, "epochs", 0) if entry.has("epochs") else None,
        _number(entry, "iterations", 0) if entry.has("iterations") else None,
        _number(entry, "base_lr", 0),
        *(_number(entry, name, 1) for name in ("batch", "images", "snapshot")),
    )
    if whole and made.recipe and made.epochs is None and made.iterations is None:
        raise FlowError(
            f"{entry.where('recipe')}: a recipe does not say how long; give epochs or iterations"
        )
    return made


def _groups(root: Params, files: _Files) -> tuple[int, tuple[GroupOf, ...]]:
    groups = tuple(
        GroupOf(
            _patterns(one, "layers"),
            _training(one["train"], files) if one.has("train") else None,
            one.where(),
        )
        for one in root["group"]
    )
    for group in groups:
        if not group.layers:
            raise FlowError(f"{group.where}: a group has no layers, expected names or patterns")
    said = next((name for name in ("group", "every", "order") if root.has(name)), None)
    if said and root["scheme"] == "one_shot":
        raise FlowError(f"{root.where(said)}: scheme one_shot cuts all at once; leave {said} out")
    if groups:
        _one_of(root, "group", "every")
        _one_of(root, "group", "order")
    return int(_number(root, "every", 1)), groups


def _freezing(root: Params, scheme: str) -> str:
    if root.has("freeze"):
        return root["freeze"]
    return "decomposed" if scheme == "two_pass" else "none"


def _budget(entry: Params) -> tuple[tuple[str, float], ...]:
    return tuple(
        (name, _number(entry, name, 1e-9)) for name in ("macs", "params") if entry.has(name)
    )


def _source(entry: Params, files: _Files) -> Source:
    _need(entry, "source", "a file or folder to read")
    phase = entry["phase"] if entry.has("phase") else ""
    return Source(files.found(entry, "source"), entry["layer"], phase)


def _trainer(entry: Params, files: _Files) -> TrainerChoice:
    name, known = entry["name"], ("caffe", "torch")
    if name and name not in known:
        raise FlowError(f"{entry.where('name')}: no trainer '{name}'; {suggest(name, known)}")
    processes = int(_number(entry, "processes", 1))
    caffe = files.found(entry, "caffe")
    return TrainerChoice(name, caffe, entry["gpu"], processes, entry["mixed"])


def _images(entry: Params, files: _Files) -> Images:
    _need(entry, "images", "a .npy, a .npz or a folder of images")
    if entry["metric"] not in METRICS:
        raise FlowError(
            f"{entry.where('metric')}: no metric '{entry['metric']}'; "
            f"{suggest(entry['metric'], METRICS)}"
        )
    return Images(
        *(files.found(entry, name) for name in ("images", "labels")),
        entry["metric"],
        _number(entry, "samples", 1),
        entry["blob"],
        files.found(entry, "transform"),
        files.found(entry, "mean", may_be_name=True),
        entry["scale"] if entry.has("scale") else None,
        entry["bgr"],
        entry["crop"],
    )


def _unlabelled(entry: Params, files: _Files) -> Images:
    for name in ("labels", "metric", "blob"):
        if entry.has(name):
            raise FlowError(
                f"{entry.where(name)}: {name}: calibration looks at images only; leave it out"
            )
    return _images(entry, files)


def _stop(entry: Params) -> Stop:
    _one_of(entry, "floor", "max_drop", "name one" if entry.message.fields else "")
    floor, drop = (
        _number(entry, name, 0, 1) if entry.has(name) else None for name in ("floor", "max_drop")
    )
    factor = entry["raise"]
    if not factor > 1:
        raise FlowError(f"{entry.where('raise')}: raise is {factor:g}, expected more than 1")
    return Stop(floor, drop, int(_number(entry, "tries", 0) or 0), factor, entry["otherwise"])
