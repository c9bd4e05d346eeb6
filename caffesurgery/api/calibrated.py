"""Calibrated surgery: a smaller net fitted to images, and kept only where that is better.

Everything is judged on images that nothing was fitted to, by how far the outputs are from those of
the original: the decompositions under what layers see, the refit, and the statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError, NetError, UsageError
from .evaluate import preprocessing
from .model import Model, Progress, stage_of
from .surgery import Result

if TYPE_CHECKING:
    from ..calibration import Sample, Shaped
    from ..surgery.plan import Plan

LEVERS = ("ranks", "whitening", "refit", "statistics", "polish")
"""What calibration consists of, in the order in which it is done."""
_FEWEST = 16
_SEEN = 256
"""Images that moments of the original's layers are from: every one of them gives many patches."""
_PROBED = 64
"""Images on which is measured what an error of each layer is worth, each disturbed alone."""
_HELD = 0.2
"""Share of the images that nothing is fitted to."""


class Calibrator:
    """Images to calibrate with, and how a net takes them; ``compress(..., calibrate=...)``.

    images: an array, .npy or .npz, a folder of image files, an LMDB, or a prototxt, which means its
        data layer (see ``help evaluate``); labels are never looked at
    samples: how many of them are used at most, drawn with ``seed``; a fifth of them judges
    mean, scale, bgr, crop, transform, resize: as ``Evaluator`` takes them
    levers: what is done of 'ranks', 'whitening', 'refit', 'statistics', 'polish'; for comparisons
    memory: bytes of activations that are kept before they go to the disk
    """

    def __init__(
        self,
        images,
        *,
        samples: int = 1000,
        seed: int = 0,
        mean=None,
        scale: float | None = None,
        bgr: bool = False,
        crop: bool = False,
        transform=None,
        resize: tuple[int, int] | None = None,
        levers=LEVERS,
        memory: int = 1 << 29,
        jobs: int | None = None,
    ):
        from ..data.images import open_images
        from .evaluate import resize_of

        unknown = sorted(set(levers) - set(LEVERS))
        if unknown:
            raise UsageError(f"unknown lever '{unknown[0]}'; expected of {', '.join(LEVERS)}")
        self.seed, self.levers, self.memory, self.jobs = seed, frozenset(levers), memory, jobs
        self._options = {"mean": mean, "scale": scale, "bgr": bgr, "crop": crop}
        self._transform, self._given = transform, images
        self.images = open_images(images, None, resize_of(resize, transform), "TRAIN")
        count = len(self.images.images)
        if (most := min(count, samples)) < _FEWEST:
            raise DataError(
                f"{self.images.name}: {most} image{'s' * (most != 1)} to calibrate with; expected "
                f"at least {_FEWEST}, better some hundred"
            )
        order = np.random.default_rng([seed, count]).permutation(count)[:samples]
        held = max(_FEWEST // 4, round(_HELD * len(order)))
        self._chosen = order[held:], order[:held]

    def made_from(self) -> tuple[tuple[str, str], ...]:
        """(Name, SHA-256) of the images, as far as they came from files."""
        from ..data.images import digests

        return digests(self._given)

    def samples(self, model: Model) -> tuple[Sample, Sample, str]:
        """The images to fit to and those to judge with, as ``model`` takes them, and who says how
        they are prepared.  DataError where they do not fit."""
        from ..calibration import lazy_sample
        from ..verify.batches import batch_size

        prepare, source = preprocessing(model, self.images, self._options, self._transform)
        name, rest = _inputs(model)
        shape = rest.pop(name)[1:]
        prepare.check(self.images, shape)
        whole = batch_size([shape], len(self.images.images))
        size = _possible_batch(model, whole)

        def load(places: np.ndarray) -> dict[str, np.ndarray]:
            found = {other: np.zeros((len(places), *dims[1:])) for other, dims in rest.items()}
            ascending = np.sort(places)
            back = np.searchsorted(ascending, places)
            found[name] = prepare(np.asarray(self.images.images[ascending])[back], shape)
            return {each: np.asarray(array, np.float32) for each, array in found.items()}

        fitted, held = (
            lazy_sample(places, size, load, whole=size != whole) for places in self._chosen
        )
        if not fitted.sizes or not held.sizes:
            raise DataError(
                f"{self.images.name}: {model.net.doc.path} takes {size} images at a time and no "
                f"other number; give at least {round(size / _HELD)} images, so that a fifth of "
                "them can judge"
            )
        return fitted, held, source


@dataclass(frozen=True)
class Stage:
    """One form of the net: how far its outputs are from the original's on the images that judge,
    and whether what it adds was kept."""

    name: str
    divergence: float
    kept: bool


@dataclass(frozen=True)
class Calibrated:
    """What calibration did, for the report.

    predicted: how far the outputs were expected to move by the decompositions under what layers
        see, and how far they did (``calibration.disturbance``); None where that was not done
    """

    images: int
    held: int
    source: str
    seed: int
    stages: tuple[Stage, ...]
    layers: tuple
    measure: str
    spilled: int
    predicted: tuple[float, float] | None = None


def _inputs(model: Model) -> tuple[str, dict[str, tuple[int, ...]]]:
    """The blob that takes images, and the shapes of all that the net is fed."""
    from ..calibration.guard import fed_shapes

    found = fed_shapes(model.shapes)
    images = [name for name, shape in found.items() if len(shape) == 4]
    if len(images) != 1:
        raise NetError(
            f"{model.net.doc.path}: images are for a net with one input N x C x H x W; this one "
            f"has {', '.join(images) or 'none'}"
        )
    return images[0], found


def _possible_batch(model: Model, wanted: int) -> int:
    """``wanted``, or the batch that the net is written for where it takes no other."""
    from ..net.shapes import infer

    try:
        infer(model.net, model.phase, model.inputs, wanted)
    except NetError:
        return model.shapes.images
    return wanted


def calibrated(
    model: Model,
    calibrator: Calibrator,
    planned: Callable[..., Plan],
    applied: Callable[[Plan], Result],
    progress: Progress | None = None,
) -> tuple[Result, Calibrated]:
    """The best of what a plan makes of a model and of what images make of that.

    planned: makes a plan, with ``metrics`` or without; applied: carries one out.
    """
    from ..calibration import collect, with_worth
    from ..surgery.fitting import metrics_of

    work = _Work(model, calibrator, progress)
    metrics = {}
    if calibrator.levers & {"ranks", "whitening"}:
        told = work.stage("look at images")
        few = work.sample.first(_SEEN)
        moments = collect(work.old, work.blobs, few, None, calibrator.jobs, told)
        metrics = metrics_of(model.shapes, work.blobs, moments)
    if "ranks" in calibrator.levers:
        told, few = work.stage("probe layers"), work.sample.first(_PROBED)
        metrics = with_worth(work.old, work.blobs, few, metrics, calibrator.jobs, told)
    plain = applied(planned())
    work.judge("plain", plain, {})
    start = plain
    if "ranks" in calibrator.levers:
        start = _replanned(plain, planned(metrics=metrics), applied)
        if start is not plain:
            work.judge("ranks", start, {})
    if "whitening" in calibrator.levers:
        work.whiten(start, metrics)
    metrics.clear()
    if "refit" in calibrator.levers:
        work.fit("refit", start)
    if "statistics" in calibrator.levers:
        work.fit("statistics", None)
    if "polish" in calibrator.levers:
        work.polish()
    return work.result()


def _in_memory(model: Model):
    """The blobs of a model as BLAS wants them.

    Few of those in a file lie so, and whoever runs a net would make a copy of the others for
    himself; the file itself then leaves memory again.
    """
    from .. import forward

    weights = model.require_weights()
    found = {
        index: [np.require(blob, np.float32, "CA") for blob in blobs]
        for index, blobs in forward.load(model.shapes, weights).items()
    }
    weights.release(0, weights.size)
    return found


def _replanned(plain: Result, plan: Plan, applied) -> Result:
    """What the calibrated plan makes; ``plain`` itself where the plans do not differ."""
    mine, others = (
        {(one.name, one.scheme, one.ranks) for one in p.layers} for p in (plan, plain.plan)
    )
    return plain if mine == others else applied(plan)


class _Work:
    """The forms of a net on the way to the calibrated one, and the best of them so far."""

    def __init__(self, model: Model, calibrator: Calibrator, progress: Progress | None):
        from ..calibration import Shaped, watched
        from ..net.shapes import infer

        self.model, self.calibrator, self.progress = model, calibrator, progress
        self.sample, self.held, self.source = calibrator.samples(model)
        self.old: Shaped = Shaped(
            lambda images: infer(model.net, model.phase, model.inputs, images)
        )
        self.blobs = _in_memory(model)
        self.watched = watched(model.shapes)
        self.reference = self._outputs("the original", self.old, self.blobs)
        self.stages: list[Stage] = []
        self.layers: dict = {}
        self.spilled = 0
        self.predicted: tuple[float, float] | None = None
        self.best: tuple[float, Result, dict] | None = None
        self._nets: dict[int, object] = {}

    def stage(self, name: str):
        """Begin a stage: what it is to be told of its progress.  What was read of the caffemodel
        leaves memory."""
        weights = self.model.require_weights()
        weights.release(0, weights.size)
        told = stage_of(self.progress, name)
        if told:
            told("", 0.0)
        return told

    def _outputs(self, form: str, shaped: Shaped, blobs) -> list[dict]:
        """What a form of the net makes of the images that judge."""
        from ..calibration import outputs

        jobs, told, batches = self.calibrator.jobs, self.stage("judge"), len(self.held)
        return outputs(
            shaped, blobs, self.held, self.watched, jobs,
            told and (lambda done: told(form, done / batches)),
        )  # fmt: skip

    def net(self, result: Result):
        """The net that a result has made."""
        from ..surgery.fitting import smaller

        model = self.model
        if id(result) not in self._nets:
            self._nets[id(result)] = smaller(
                result.operated, model.net, model.shapes, self.blobs, model.require_weights(),
                model.inputs, model.phase, result.plan.seed, self.calibrator.jobs,
            )  # fmt: skip
        return self._nets[id(result)]

    def judge(self, name: str, result: Result, blobs: dict, layers=()) -> list[dict]:
        """Measure one form of the net, and keep it where it is the best so far; its outputs."""
        from ..calibration import divergence

        net = self.net(result)
        made = self._outputs(name, net.shaped, {**net.blobs, **blobs})
        found = divergence(self.reference, made, self.watched)
        better = self.best is None or found < self.best[0]
        self.stages.append(Stage(name, found, better))
        if better:
            self.best = (found, result, blobs)
            self.layers.update((layer.name, layer) for layer in layers)
        return made

    def whiten(self, result: Result, metrics) -> None:
        """Decompose under what the original's layers see."""
        from ..calibration import disturbance
        from ..surgery.fitting import whitened

        told = self.stage("whitening")
        blobs, predicted = whitened(self.net(result), metrics, told)
        made = self.judge("whitening", result, blobs)
        if "ranks" in self.calibrator.levers:
            self.predicted = predicted, disturbance(self.reference, made, self.watched)

    def fit(self, name: str, result: Result | None) -> None:
        """Fit layer by layer: the refit of a result, or the statistics of the best form so far."""
        from ..calibration import Levers, fit

        blobs = {}
        if result is None:
            _, result, blobs = self.best
        net, own = self.net(result), self.calibrator
        found = fit(
            self.old, net.shaped, self.blobs, {**net.blobs, **blobs}, net.chains, self.sample,
            self.held, Levers(name == "refit", name == "statistics"), own.jobs, own.memory,
            self.stage(name),
        )  # fmt: skip
        self.spilled = max(self.spilled, found.spilled)
        self.judge(name, result, {**blobs, **found.blobs}, found.layers)

    def polish(self) -> None:
        """All layers of the best form so far downhill together."""
        from ..calibration import polished

        _, result, blobs = self.best
        net, own = self.net(result), self.calibrator
        chains = {name: chain.layers for name, chain in net.chains.items()}
        found = polished(
            self.old, net.shaped, self.blobs, {**net.blobs, **blobs}, chains, self.sample,
            self.watched, own.seed, own.jobs, own.memory, self.stage("polish"),
        )  # fmt: skip
        if found:
            self.judge("polish", result, {**blobs, **found})

    def result(self) -> tuple[Result, Calibrated]:
        """The best form, and what was done on the way to it."""
        from ..surgery.fitting import with_blobs

        _, result, blobs = self.best
        if blobs:
            operated = with_blobs(result.operated, self.net(result), blobs)
            result = replace(result, operated=operated)
        if any(stage.kept for stage in self.stages[1:]):
            made_from = (*result.plan.made_from, *self.calibrator.made_from())
            result = replace(result, plan=replace(result.plan, made_from=made_from))
        measure = ", ".join(f"{one.blob} ({one.kind})" for one in self.watched)
        told = Calibrated(
            self.sample.images, self.held.images, self.source, self.calibrator.seed,
            tuple(self.stages), tuple(self.layers.values()), measure, self.spilled, self.predicted,
        )  # fmt: skip
        return result, told
