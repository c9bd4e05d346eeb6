"""Decomposes the weights of planned layers, several at a time.

In: layers checked against their net (``Work``) and the caffemodel.  Out: the new layers of each,
with what was lost.  Layers run in threads, since NumPy lets go of the interpreter while it
computes; the outcome does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event, Lock

import numpy as np

from ..cost import Cost, chain_cost, dense_cost
from ..decompose import SCHEMES, Aim, Decomposition, Geometry, Part, Scheme
from ..decompose.matrix import MatrixScheme
from ..decompose.task import Task, run_task
from ..errors import DecomposeError, PlanError, suggest
from ..files.caffemodel import Caffemodel, NewLayer
from ..net.shapes import NetShapes
from ..workers import processors, run_all
from .aims import aim_of
from .chain import small_layers
from .methods import fit
from .plan import LayerPlan, Plan
from .target import TYPES, Target, target

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Work:
    """A planned layer, checked against the net."""

    entry: LayerPlan
    target: Target
    scheme: Scheme
    geometry: Geometry
    parts: tuple[Part, ...]
    aim: Aim = Aim()


def prepare(entry: LayerPlan, shapes: NetShapes, plan: Plan) -> Work:
    """Check one entry of a plan against the net; PlanError says precisely what does not fit."""
    where = f"{entry.where or plan.path or 'plan'}: layer '{entry.name}'"
    named = [found for found in shapes.layers if found.layer.name == entry.name]
    if not named:
        names = [found.layer.name for found in shapes.layers if found.layer.type in TYPES]
        raise PlanError(
            f"{where}: the net has no such layer, so the plan may be for another net; "
            f"{suggest(entry.name, names)}"
        )
    layer = named[0].layer
    if layer.type not in TYPES:
        raise PlanError(
            f"{where}: it is a {layer.type} ({layer.where()}); only {' and '.join(TYPES)} layers "
            "can be decomposed"
        )
    found = target(named[0])
    if isinstance(found, str):
        raise PlanError(f"{where}: cannot be decomposed: {found}")
    scheme = SCHEMES[entry.scheme]
    geometry = fit(scheme, found.flat, found.spatial)
    if isinstance(geometry, str):
        raise PlanError(f"{where}: {entry.scheme} does not apply: {geometry}")
    try:
        parts = scheme.parts(geometry, scheme.check_ranks(geometry, entry.ranks))
    except DecomposeError as error:
        raise PlanError(f"{where}: {error}") from error
    has = dense_cost(geometry, found.sizes_of(geometry), found.bias).params
    if entry.before and entry.before.params != has:
        raise PlanError(
            f"{where}: was planned with {entry.before.params:,} parameters and has {has:,} in "
            f"{layer.where()}, so the plan is for another net; make it anew with `caffesurgery "
            "plan`, or delete 'before' if the layer was changed"
        )
    return Work(entry, found, scheme, geometry, parts, aim_of(entry, plan))


@dataclass(frozen=True)
class Replaced:
    """One layer that was decomposed: the plan's entry, what came out, and the costs.

    ``error``, ``curve``, ``norm_ratio``, ``sensitivity`` and ``warning`` are its Decomposition's,
    ``aim`` what it was to reach.
    """

    plan: LayerPlan
    target: Target
    geometry: Geometry
    parts: tuple[Part, ...]
    error: float
    norm_ratio: float | None
    sensitivity: float
    warning: str | None
    before: Cost
    after: Cost
    aim: Aim
    curve: np.ndarray | None = None


def decompose_all(
    works: Mapping[str, Work],
    weights: Caffemodel,
    seed: int,
    jobs: int | None = None,
    progress: Progress | None = None,
    workers: Executor | None = None,
) -> dict[str, tuple[tuple[NewLayer, ...], Replaced]]:
    """New layers and record of every layer, by name, in the order of ``works``.

    ``jobs`` layers run at a time, by default one for each processor, the longest first; or
    ``workers`` (of ``workers.open_workers``) do it.  Raises DecomposeError for weights that cannot
    be decomposed.
    """
    if workers is not None:
        tasks = [_task(work, weights, seed) for work in works.values()]
        results = run_all(workers, run_task, None, tasks, progress=progress)
        done = zip(works.values(), results)
        return {work.entry.name: _replaced(work, weights, result) for work, result in done}
    meter = _Meter({name: _effort(work) for name, work in works.items()}, progress)
    longest_first = sorted(works, key=meter.efforts.get, reverse=True)
    with ThreadPoolExecutor(jobs or processors()) as pool:
        running = {
            name: pool.submit(_operate, works[name], weights, seed, meter.ticker(name))
            for name in longest_first
        }
        try:
            wait(running.values(), return_when=FIRST_EXCEPTION)
            for future in running.values():
                if future.done():
                    future.result()
        except BaseException:
            meter.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {name: running[name].result() for name in works}


class _Stopped(Exception):
    """Raised in a thread whose outcome nobody waits for any more."""


class _Meter:
    """Adds up what the threads have done, as a share of the expected effort of all layers."""

    def __init__(self, efforts: Mapping[str, float], progress: Progress | None):
        self.efforts = dict(efforts)
        self.stopped = Event()
        self._progress = progress
        self._done = dict.fromkeys(efforts, 0.0)
        self._lock = Lock()

    def ticker(self, name: str) -> Callable[[int, int], None]:
        """A callback (done, total) for one layer; it raises when the job was given up."""

        def tick(done: int, total: int) -> None:
            if self.stopped.is_set():
                raise _Stopped
            with self._lock:
                self._done[name] = self.efforts[name] * done / max(total, 1)
                if self._progress:
                    share = sum(self._done.values()) / max(sum(self.efforts.values()), 1e-9)
                    self._progress(name, min(share, 1.0))

        return tick


def _effort(work: Work) -> float:
    """About how long a layer takes, in any unit: the power method goes through memory for every
    component, a truncated SVD through the cache."""
    numbers = work.geometry.T * work.geometry.S * work.geometry.D * work.geometry.E
    slow = 0.1 if isinstance(work.scheme, MatrixScheme) else 1.0
    return slow * numbers / work.geometry.group**2 * sum(work.entry.ranks)


def _operate(work: Work, weights: Caffemodel, seed: int, tick: Callable[[int, int], None]):
    result = _task(work, weights, seed).run(tick)
    tick(1, 1)
    return _replaced(work, weights, result)


def _task(work: Work, weights: Caffemodel, seed: int) -> Task:
    name, group = work.entry.name, work.geometry.group
    kernel = work.target.kernel(weights.blobs(name)[0].array(), work.geometry)
    where = f"layer '{name}' ({weights.path})"
    return Task(where, work.scheme.name, kernel, group, work.entry.ranks, seed, work.aim)


def _replaced(work: Work, weights: Caffemodel, result: Decomposition):
    """The new layers of one layer, and its record."""
    blobs = weights.blobs(work.entry.name)
    chain = small_layers(work.target, work.geometry, work.parts)
    bias = [blob.array().reshape(-1) for blob in blobs[1:2]]
    new = tuple(
        NewLayer(
            small.name,
            small.type,
            small.bottoms,
            small.tops,
            [_blob(factor, small.type), *(bias if small.bias else [])],
        )
        for small, factor in zip(chain, result.factors)
    )
    sizes = work.target.sizes_of(work.geometry)
    before = dense_cost(work.geometry, sizes, work.target.bias)
    after = chain_cost(work.parts, sizes, work.target.bias)
    return new, Replaced(
        work.entry,
        work.target,
        work.geometry,
        work.parts,
        result.error,
        result.norm_ratio,
        result.sensitivity,
        result.warning,
        before,
        after,
        work.aim,
        result.curve,
    )


def _blob(factor: np.ndarray, kind: str) -> np.ndarray:
    """A factor in the shape of Caffe's blob: a matrix for an InnerProduct."""
    return factor.reshape(factor.shape[0], -1) if kind == "InnerProduct" else factor
