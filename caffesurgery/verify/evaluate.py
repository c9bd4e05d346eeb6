"""Evaluates a net on labelled images, as it is or with some layers decomposed, in ONNX Runtime.

A decomposed layer computes what the dense layer does whose kernel its factors make up, so cases of
ranks are evaluated in the dense net with kernels replaced: nothing else has to be exported anew,
and what comes before the first decomposed layer is computed once for several cases.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.images import show
from ..data.items import Items
from ..data.prefetch import in_order
from ..errors import VerifyError
from ..export.cut import first_difference, head, tail
from .batches import batch_size, filled, first_items
from .decomposed import Case
from .scores import Metrics, Scorer
from .session import Session, model_session
from .subject import Subject


@dataclass(frozen=True)
class Outcome:
    """Metrics of one case, and the largest class of each image."""

    metrics: Metrics
    predicted: np.ndarray


def evaluate(
    subject: Subject,
    cases: Sequence[Case] = ((),),
    reference: np.ndarray | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """What each of ``cases`` makes of the subject's images; the case () is the net as it is.

    ``reference`` are the classes that agreement is counted with, ``threads`` compute at a time, and
    ``progress`` is called with images done and all.  The numbers of a case do not depend on which
    others are evaluated with it.  VerifyError for nets, images or labels that do not fit.
    """
    shape = check_subject(subject)
    scorers = [Scorer(subject.probabilities) for _ in cases]
    with contextlib.ExitStack() as stack:
        runs = _runners(subject, cases, threads, stack)
        for start, count, size, labels, feeds in _batches(subject, shape):
            part = None if reference is None else reference[start : start + count]
            for scorer, scores in zip(scorers, runs(feeds)):
                scorer.add(first_items(scores, size, count).reshape(count, -1), labels, part)
            if progress:
                progress(start + count, len(subject.images.images))
    return [Outcome(scorer.result(), scorer.predicted()) for scorer in scorers]


def _runners(subject: Subject, cases: Sequence[Case], threads: int | None, stack):
    """A function from feeds to the scores of each case; its sessions close with ``stack``."""
    base, carrier = subject.exported, subject.exported.outputs[subject.output]
    models = [subject.build(subject.decomposed.kernels(case)).model for case in cases]
    cuts = {first_difference(base.model, model) for model in models}
    cut = cuts.pop() if len(cuts) == 1 and cases != ((),) else 0
    shared = head(base.model, cut)

    def opened(model) -> Session:
        return stack.enter_context(model_session(model, threads=threads))

    first = opened(shared) if shared else None
    sessions = [opened(tail(model, cut) if shared else model) for model in models]

    def run(feeds: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
        found = {**feeds, **(first.run(feeds) if first else {})}
        for session in sessions:
            yield session.run({name: found[name] for name in session.inputs})[carrier]

    return run


def _batches(subject: Subject, shape: tuple[int, ...]) -> Iterator:
    """(First item, how many, the batch's size, their labels, the feeds) of every batch."""
    (value,) = subject.exported.model.inputs
    images, labels = subject.images.images, subject.images.labels
    size = value.dims[0] if isinstance(value.dims[0], int) else batch_size([shape], len(images))

    def prepared(number: int) -> np.ndarray:
        return subject.prepare(images[number * size : (number + 1) * size], shape)

    # images that have to be decoded first are made while the net computes
    threads = None if isinstance(images, Items) else 0
    batches = in_order(prepared, threads=threads, stop=-(-len(images) // size))
    for number, batch in enumerate(batches):
        start = number * size
        own = None if labels is None else labels[start : start + size]
        yield start, len(batch), size, own, {value.name: filled(batch, size)}


def check_subject(subject: Subject) -> tuple[int, ...]:
    """C, H, W of what the net takes; VerifyError where its images, output or labels do not fit."""
    inputs = subject.exported.model.inputs
    if len(inputs) != 1 or len(inputs[0].dims) != 4:
        told = ", ".join(f"{value.name} {show(value.dims[1:])}" for value in inputs)
        raise VerifyError(
            f"{subject.path}: images are for a net with one input C x H x W; this one takes {told}"
        )
    shape = tuple(inputs[0].dims[1:])
    subject.prepare.check(subject.images, shape)
    dims, labels = subject.shapes.blobs[subject.output], subject.images.labels
    if len(dims) < 2 or math.prod(dims[2:]) != 1 or dims[1] < 2:
        raise VerifyError(
            f"{subject.path}: the blob '{subject.output}' has the shape {show(dims)}; expected one "
            "score for each class, name such a blob with --blob"
        )
    if labels is not None and not 0 <= labels.min() <= labels.max() < dims[1]:
        raise VerifyError(
            f"the labels go from {labels.min()} to {labels.max()}, and '{subject.output}' has the "
            f"classes 0 to {dims[1] - 1}; give the labels of this net"
        )
    return shape
