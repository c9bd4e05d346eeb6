"""One training of a flow: its net with frozen layers, its solver, where it goes on, what it leaves.

Everything is written to the step's own work folder; the user's prototxts and solver are only read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from ..data.layers import feeds_net, open_feeds
from ..errors import FlowError
from ..files import text
from ..files.atomic import write_bytes
from ..files.text import Message, quote
from ..net.layers import lookup
from ..net.net import Net, parse_net, read_net
from ..net.params import Params
from ..surgery.restore import find_chains
from ..train import recipes
from ..train import solver as solvers
from ..train.freeze import frozen
from ..train.job import Job, Outcome, Tick, Trainer
from ..train.snapshots import snapshots
from .course import Next
from .flow import Flow, Training
from .places import Places
from .steps import Step

SNAPSHOTS = 10
"""Snapshots of a training by default."""
_NETS = ("train_net", "test_net", "net_param", "train_net_param", "test_net_param", "weights")
_TESTS = ("test_iter", "test_interval", "test_initialization", "test_state")
_PATHS = ("source", "mean_file", "root_folder")


def train(
    places: Places,
    step: Step,
    now: Next,
    trainer: Trainer,
    tick: Callable[[Tick], None] | None = None,
) -> Outcome:
    """Train the net of ``now`` as the step says, from the last snapshot where there is one.

    Raises TrainError where training cannot begin; how it ended is for the caller to see.
    """
    flow, name = places.flow, places.name(step, now)
    work, net = places.work(name), read_net(places.nets(now.model)[-1])
    weights = places.load(now.model).require_weights()
    work.mkdir(parents=True, exist_ok=True)
    blobs = {layer.name: len(layer.blobs) for layer in weights.layers}
    own = not_learning(net, step, {layer for layer, count in blobs.items() if count})
    prepared = frozen(net, own, blobs) if own else net.doc.text
    prepared = at_home(parse_net(prepared, net.doc.path), Path(flow.train_val).parent)
    if step.training.batch:
        prepared = with_batch(parse_net(prepared, net.doc.path), step.training.batch)
    train_val = work / "train_val.prototxt"
    write_bytes(train_val, net.doc.encode(prepared), force=True)
    solver = work / "solver.prototxt"
    # on several GPUs Caffe takes a batch on each
    batches = len(flow.trainer.gpus) if trainer.name == "caffe" else 1
    made = solver_text(flow, step.training, train_val, work, max(batches, 1))
    write_bytes(solver, made.encode("utf-8", "surrogateescape"), force=True)
    job = Job(
        solver=solver,
        folder=work,
        weights=places.weights(now.model),
        state=newest_state(work),
        gpus=flow.trainer.gpus,
        processes=flow.trainer.processes,
        seed=(1_000_003 * flow.seed + 1_000 * now.index + now.attempt) % 2**31,
        mixed=flow.trainer.mixed,
        data=replaced_data(flow, net, "TRAIN"),
    )
    return trainer.train(job, tick)


def check_solvers(flow: Flow) -> None:
    """Raise what a training would only meet after hours: a solver that cannot be made."""
    every = [flow.train, flow.optimise, flow.finish]
    every += [flow.train.with_changes(group.train) for group in flow.groups]
    for training in every:
        if training is not None and not training.skipped:
            solver_text(flow, training, Path(flow.train_val), Path(flow.output))


def check_data(flow: Flow) -> None:
    """DataError where what the net is to be trained on is not there."""
    net = read_net(flow.train_val)
    open_feeds(net, "TRAIN", overrides=replaced_data(flow, net, "TRAIN"))


def replaced_data(flow: Flow, net: Net, phase: str) -> dict[str, Path]:
    """The files that the flow gives in place of what data layers of a phase read, by layer."""
    layers = [layer.name for layer in net.phase(phase) if feeds_net(layer)]
    return {
        name: Path(source.path).absolute()
        for source in flow.data
        for name in layers
        if source.phase in ("", phase) and source.layer in ("", name)
    }


def not_learning(net: Net, step: Step, learning: Collection[str]) -> list[str]:
    """Names of the layers that the step freezes; ``learning`` are those that have weights."""
    chains = find_chains(net.layers)
    own = {chain.name: [layer.name for layer in chain.layers] for chain in chains}
    if step.freeze == "none":
        return []
    if step.freeze == "others":
        group = {name for layer in step.layers for name in own.get(layer, [layer])}
        found = [layer.name for layer in net.layers if layer.name in learning]
        return [name for name in dict.fromkeys(found) if name not in group]
    spared = step.layers if step.freeze == "decomposed" else ()
    return [name for chain, names in own.items() if chain not in spared for name in names]


def at_home(net: Net, folder: Path) -> str:
    """The net's text with absolute paths where data lie beside the user's own file.

    A path that there is from the current folder stays, as Caffe looks there.
    """
    edits = []
    for layer in net.layers:
        for field, value in _inner_fields(layer.field.value, _PATHS):
            given = value.string()
            beside = os.path.abspath(folder / given)
            if given and not Path(given).exists() and os.path.exists(beside):
                slash = "/" if given.endswith("/") else ""
                edits.append((field, f"{field.name}: {quote(beside + slash)}"))
    return net.doc.replace(edits)


def with_batch(net: Net, batch: int) -> str:
    """The net's text with another batch size in the data layers of the TRAIN phase.

    FlowError where none of them states one.
    """
    edits = [
        (field, f"{field.name}: {batch}")
        for layer in net.phase("TRAIN")
        for field, _ in _inner_fields(layer.field.value, ("batch_size", "batchsize"))
    ]
    if not edits:
        raise FlowError(
            f"{net.doc.path}: no data layer of the TRAIN phase has a batch_size, so batch: {batch} "
            "of the flow has nothing to replace; leave it out"
        )
    return net.doc.replace(edits)


def _inner_fields(message: Message, names: Collection[str]):
    """Scalar fields of these names in the messages of a layer, with their values."""
    for field in message.fields:
        inner = field.value
        if isinstance(inner, Message):
            yield from _inner_fields(inner, names)
        elif field.name in names and not isinstance(inner, tuple):
            yield field, inner


def solver_text(
    flow: Flow, training: Training, train_val: Path, work: Path, batches: int = 1
) -> str:
    """The solver of one training: the user's or the recipe's, for the flow's net and folder.

    ``batches`` are taken at a time.
    """
    if training.solver:
        doc = text.read(training.solver)
        said = Params(doc.root, "SolverParameter", doc.where)  # its net need not be there
        count, snapshot, whole = (said[name] for name in ("iter_size", "snapshot", "max_iter"))
    else:
        doc = text.parse(_recipe(flow, training, train_val, batches), training.recipe)
        count, snapshot, whole = 1, 0, 0
    iterations = _iterations(flow, training, train_val, count * batches) or whole
    if iterations < 1:
        raise FlowError(
            f"{training.solver}: has no max_iter, and {flow.path or 'the flow'} says neither "
            "epochs nor iterations; say how long to train"
        )
    changes = {
        "net": str(train_val.absolute()),
        **dict.fromkeys((*_NETS, *_TESTS)),
        "snapshot_prefix": str(work.absolute() / "net"),
        "max_iter": iterations,
        "snapshot": training.snapshot or snapshot or -(-iterations // SNAPSHOTS),
        "snapshot_after_train": True,
        "snapshot_diff": None,
        "random_seed": None,
    }
    if training.base_lr is not None:
        changes["base_lr"] = training.base_lr
    return solvers.edit(doc, changes)


def _recipe(flow: Flow, training: Training, train_val: Path, batches: int) -> str:
    """The solver that a recipe makes for as many epochs as the training has."""
    images, batch = _epoch(flow, training, train_val)
    numbers = recipes.Counts(images, batch * batches)
    epochs = training.epochs or training.iterations / numbers.iterations
    chosen, mode = recipes.recipe(training.recipe), "gpu" if flow.trainer.gpus else "cpu"
    rows = recipes.settings(chosen, numbers, "net", "net", epochs, mode=mode)
    return recipes.solver_text(chosen, rows)


def _iterations(flow: Flow, training: Training, train_val: Path, batches: int) -> int:
    """Iterations that the flow asks for; 0 where it leaves that to the solver."""
    if training.epochs is None:
        return int(training.iterations or 0)
    images, batch = _epoch(flow, training, train_val)
    return max(1, round(training.epochs * images / (batch * batches)))


def _epoch(flow: Flow, training: Training, train_val: Path) -> tuple[int, int]:
    """Images in an epoch, and in a batch; what the flow says counts before what data tell."""
    net = read_net(train_val)
    given = replaced_data(flow, net, "TRAIN")
    layer = next((one for one in net.phase("TRAIN") if feeds_net(one)), None)
    batch = training.batch or (lookup(layer.type).batch(layer) if layer else None)
    if training.images and batch:
        return training.images, batch
    feeds = open_feeds(net, "TRAIN", overrides=given)
    images, batch = training.images or feeds.size, batch or feeds.batch
    if not images or not batch:
        raise FlowError(
            f"{flow.path or 'the flow'}: how many images an epoch has is not known: the data layer "
            "of the TRAIN phase never ends; give images or iterations"
        )
    return images, batch


def newest_state(work: Path) -> Path | None:
    """The last whole snapshot of a training that was cut off; None where there is none."""
    found = snapshots(work)
    return found[-1].state if found else None
