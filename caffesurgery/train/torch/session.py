"""What one process trains: the nets of a job, their data, their place, and how far they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import torch

from ...data.feed import Feeds
from ...data.layers import feeds_net, open_feed
from ...data.prefetch import in_order
from ...errors import TrainError, suggest
from ...files import caffemodel
from ...files.solverstate import SolverState, read_state, write_state
from ...net.shapes import NetShapes, infer
from ..check import require_space, require_weights
from ..job import Job
from ..nets import NetUse
from ..snapshots import PREFIX
from ..solver import Solver, current_step, read_solver
from .distributed import together
from .net import TorchNet
from .precision import Precision
from .steps import loss_weights
from .updates import Updater

Inputs = dict[str, torch.Tensor]


class Session:
    """A job made ready: ``net`` to train, ``tests`` to test with its weights, and the updates.

    ``rank`` of ``of`` processes share every batch.  ``iteration`` updates are done.  Raises the
    errors of everything that is read: solver, nets, data, weights and state.
    """

    def __init__(self, job: Job, rank: int = 0, of: int = 1):
        self.job, self.rank, self.of = job, rank, of
        self.solver: Solver = read_solver(job.solver)
        self.seed = job.seed if job.seed is not None else max(self.solver.random_seed, 0)
        self.device = device_of(job, rank)
        self.precision = Precision(self.device, job.mixed)
        _check_overrides(self.solver, job)
        self.feeds = _open(self.solver, self.solver.train, job)
        shapes = _shapes(self.solver.train, self.feeds, of)
        _check_loss(shapes)
        self.net = TorchNet(shapes, "TRAIN", seed=self.seed, rank=rank, of=of).place(self.device)
        self.tests = [self._test(use) for use in self.solver.tests] if rank == 0 else []
        state = read_state(job.state) if job.state is not None else None
        self.iteration = state.iteration if state else 0
        self.began_from = (Path(state.weights), job.state) if state else (None, None)
        self.fresh: list[str] = []
        for path in _weights(job, self.solver, state):
            weights = caffemodel.read(path)
            self.fresh = require_weights(shapes.net, weights, shapes)
            self.net.load(weights)
        job.folder.mkdir(parents=True, exist_ok=True)
        require_space(job.folder, 4 * shapes.parameters)
        self.updater = Updater(self.net, self.solver)
        if state is not None:
            self._remember(state)
        self.module = together(self.net) if of > 1 else self.net

    def _test(self, use: NetUse) -> tuple[TorchNet, Feeds, int]:
        feeds = _open(self.solver, use, self.job)
        net = TorchNet(_shapes(use, feeds, 1), "TEST", seed=self.seed).place(self.device)
        net.share(self.net)
        return net, feeds, use.iterations

    def _remember(self, state: SolverState) -> None:
        expected, met = self.updater.shapes, [array.shape for array in state.history]
        if expected != met:
            raise TrainError(
                f"{self.job.state}: holds {len(met)} blobs of history, and solver type "
                f"{self.solver.type} with this net needs {len(expected)} of other shapes; go on "
                "with the solver and the net that it was saved by"
            )
        self.updater.remember(state.history)

    def batches(self) -> Iterator[Inputs]:
        """The batches to train with from here on, on the device."""
        start = self.iteration * self.solver.iter_size
        return self._placed(self.net, self.feeds, start, self.rank, self.of)

    def test_batches(self, number: int, tests: int) -> Iterator[Inputs]:
        """The batches of test net ``number`` after so many tests."""
        net, feeds, iterations = self.tests[number]
        return self._placed(net, feeds, tests * iterations, 0, 1)

    def _placed(self, net: TorchNet, feeds: Feeds, start: int, rank: int, of: int):
        """Batches from number ``start`` on; threads read, check and lay them out ahead of time."""
        feeds.check_slices(rank, of)

        def made(number: int) -> Inputs:
            batch = feeds.read(number, self.seed, rank, of)
            net.check_labels(batch)
            return {name: self._laid_out(torch.from_numpy(a)) for name, a in batch.items()}

        with closing(in_order(made, start)) as batches:
            for batch in batches:
                yield {n: value.to(self.device, non_blocking=True) for n, value in batch.items()}

    def _laid_out(self, value: torch.Tensor) -> torch.Tensor:
        if value.ndim == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        return value if self.device.type == "cpu" else value.pin_memory()

    def forward_backward(
        self, inputs: Inputs, number: int, outputs: bool = False, more: bool = False
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(Loss, outputs) of forward pass ``number`` (from 0), and its gradients added up.

        ``more`` says that another pass belongs to the same update.
        """
        alone = self.module.no_sync() if self.of > 1 and more else nullcontext()
        with alone:
            with self.precision.block():
                loss, given = self.module(inputs, seed_of(self.seed, number), outputs)
            if loss.requires_grad:
                # each process' loss is its share of the whole, and DDP takes the mean of gradients
                factor = self.of * self.precision.scale
                (loss * factor if factor != 1 else loss).backward()
        return loss.detach(), given

    def agreed(self, losses: torch.Tensor, stop: bool) -> tuple[list[float], bool]:
        """Losses over all processes, and whether any of them is to stop."""
        if self.of > 1:
            told = torch.cat((losses, losses.new_tensor([float(stop)])))
            torch.distributed.all_reduce(told)
            *values, stops = told.tolist()
            return values, stops > 0
        return losses.tolist(), stop

    @property
    def at_once(self) -> bool:
        """Whether losses are read at every iteration: they are there, or others wait for them."""
        return self.of > 1 or self.device.type == "cpu"

    def snapshot(self) -> tuple[Path, Path]:
        """Write the weights and the state of this iteration; (caffemodel, .solverstate).

        The first process writes, the others only know the names.
        """
        base = self.job.folder / f"{PREFIX}_iter_{self.iteration}"
        weights, state = base.with_name(f"{base.name}.caffemodel"), Path(f"{base}.solverstate")
        if self.rank:
            return weights, state
        layers = (
            caffemodel.NewLayer(
                entry.layer.name,
                entry.layer.type,
                entry.layer.bottoms,
                entry.layer.tops,
                lambda index=index: self.net.blobs(index),
            )
            for index, entry in enumerate(self.net.shapes.layers)
        )
        caffemodel.write(weights, self.net.shapes.net.name, layers, force=True)
        write_state(
            state,
            self.iteration,
            os.fspath(weights.resolve()),
            self.updater.memories(),
            current_step(self.solver, self.iteration - 1),
            force=True,
        )
        return weights, state


def seed_of(seed: int, number: int) -> int:
    """The seed of forward pass ``number`` of a run."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])


def device_of(job: Job, rank: int) -> torch.device:
    """Where a process of a job computes; TrainError for a GPU that is not there."""
    if not job.gpus:
        return torch.device("cpu")
    known = torch.cuda.device_count()
    missing = [gpu for gpu in job.gpus if gpu >= known]
    if missing:
        raise TrainError(
            f"GPU {missing[0]} is not there: torch sees {known} GPU(s); leave --gpu out to train "
            "on processors"
        )
    torch.backends.cudnn.benchmark = True  # sizes stay the same: the quickest kernel is found
    return torch.device("cuda", job.gpus[rank % len(job.gpus)])


def _open(solver: Solver, use: NetUse, job: Job) -> Feeds:
    """The data layers of a net; what they name is looked for from where the net was found, and
    beside it if that is the working folder."""
    net, place = use.read(), solver.folder if solver.folder != Path() else None
    layers = [layer for layer in net.phase(use.phase, use.stages, use.level) if feeds_net(layer)]
    return Feeds(
        tuple(open_feed(one, use.phase, place, _instead(job, use, one.name)) for one in layers)
    )


def _instead(job: Job, use: NetUse, name: str) -> Path | None:
    """What takes the place of a layer's data: in this phase alone (``TEST:data``), or in both."""
    return job.data.get(f"{use.phase}:{name}", job.data.get(name))


def _shapes(use: NetUse, feeds: Feeds, of: int) -> NetShapes:
    """The net's shapes with one process' slice of every batch."""
    for feed in feeds.feeds:
        if feed.batch % of:
            raise TrainError(
                f"{feed.where}: a batch of {feed.batch} cannot be shared equally by {of} "
                "processes; choose a batch_size that is a multiple of them"
            )
    if of > 1 and len({feed.batch for feed in feeds.feeds}) > 1:
        sizes = ", ".join(f"'{feed.tops[0]}' {feed.batch}" for feed in feeds.feeds)
        raise TrainError(
            f"{feeds.feeds[0].where}: {of} processes can share batches of one size only, met "
            f"{sizes}; train by one process"
        )
    batch = feeds.batch // of if of > 1 and feeds.batch else None
    return infer(use.read(), use.phase, feeds.shapes, batch, use.stages, use.level)


def _check_overrides(solver: Solver, job: Job) -> None:
    names = set()
    for use in (solver.train, *solver.tests):
        for layer in use.read().phase(use.phase, use.stages, use.level):
            if feeds_net(layer):
                names |= {layer.name, f"{use.phase}:{layer.name}"}
    for name in job.data:
        if name not in names:
            raise TrainError(
                f"data are given for '{name}', which is no data layer; {suggest(name, names)}"
            )


def _check_loss(shapes: NetShapes) -> None:
    if not loss_weights(shapes):
        raise TrainError(
            f"{shapes.net.doc.path}: nothing to train for in the TRAIN phase: no layer is a loss; "
            "give the train_val.prototxt, or a layer a loss_weight"
        )


def _weights(job: Job, solver: Solver, state: SolverState | None) -> list[Path]:
    """The caffemodels to begin with, in the order in which Caffe copies them."""
    if state is not None:
        return [Path(state.weights)] if state.weights else []
    if job.weights is not None:
        return [job.weights]
    names = [name.strip() for group in solver.weights for name in group.split(",")]
    return [Path(n) if Path(n).is_file() else solver.folder / n for n in names if n]
