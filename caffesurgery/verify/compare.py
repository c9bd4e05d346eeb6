"""Runs two nets on the same inputs and says how far their outputs are apart.

Both nets are exported and run in ONNX Runtime, batch by batch, on given images or on seeded noise.
The first net is the reference: differences are relative to its outputs.  With labels, accuracy is
counted as Caffe's Accuracy layer does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from ..data.images import Images, Preprocessing, Source, open_images, show
from ..errors import VerifyError
from ..files.mean import load_mean
from .batches import batch_size, filled, first_items
from .session import NetSession, net_session
from .tally import BlobDifference, Tally

Progress = Callable[[str, float], None]
"""Called with what is at work and the share that is done, 0 to 1."""


@dataclass(frozen=True)
class Comparison:
    """How two nets differ on ``images`` items that came from ``source``.

    ``only_first`` and ``only_second`` are outputs that the other net has not.
    """

    images: int
    source: str
    seed: int | None
    batch: int
    blobs: tuple[BlobDifference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    @property
    def worst(self) -> float:
        """The largest of the blobs' relative differences."""
        return max(blob.relative for blob in self.blobs)

    def as_dict(self) -> dict:
        """Plain values for JSON; ``accuracy`` has an entry for each net (and classifier)."""
        return {**asdict(self), "worst": self.worst, "accuracy": self.accuracy()}

    def accuracy(self) -> dict[str, dict[str, float]]:
        """Net (and output, where several are scored) -> top1 and, from 6 classes on, top5."""
        scored = [blob for blob in self.blobs if blob.top1 is not None]
        table = {}
        for blob in scored:
            for i, net in enumerate(("first", "second")):
                scores = {"top1": blob.top1[i]}
                if blob.top5 is not None:
                    scores["top5"] = blob.top5[i]
                table[net if len(scored) == 1 else f"{net}, {blob.name}"] = scores
        return table


def compare(
    net1,
    weights1,
    net2,
    weights2,
    *,
    images: Source | None = None,
    labels: Source | None = None,
    blobs: Sequence[str] = (),
    mean=None,
    scale: float = 1.0,
    bgr: bool = False,
    crop: bool = False,
    inputs: Mapping[str, Sequence[int]] | None = None,
    samples: int = 8,
    seed: int = 0,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare the outputs of two nets, or the blobs named in ``blobs`` (any of both nets).

    ``images`` (an array, a .npy or .npz, a folder, an LMDB, or a prototxt with a data layer) and
    ``labels`` are as ``open_images`` takes them; without images, ``samples`` items of standard
    normal noise are drawn from ``seed``.
    ``mean``, ``scale``, ``bgr`` and ``crop`` prepare images as ``Preprocessing`` says, ``inputs``
    gives shapes that a prototxt does not, ``batch`` sets how many items run at once.

    Raises VerifyError for nets without common inputs or outputs, DataError for images that do not
    fit, ExportError for a net that ONNX cannot hold.
    """
    prepare = Preprocessing(load_mean(mean), scale, bgr, crop)
    given = None if images is None else open_images(images, labels)
    if given is None and labels is not None:
        raise VerifyError("labels without images; give the images that they belong to")
    if given is not None and given.prepared and prepare != Preprocessing():
        raise VerifyError(f"{given.prepared} prepares its images already; leave out how")
    running = partial(net_session, inputs=inputs, keep_blobs=blobs)
    with running(net1, weights1) as first, running(net2, weights2) as second:
        names = list(blobs) or [blob for blob in first.outputs if blob in second.outputs]
        _check_alike(first, second, names)
        if given is not None:
            prepare.check(given, _image_shape(first))
        feed = _Feed(given, prepare, seed, *_sizes(first, second, given, samples, batch))
        tallies = _run_both(first, second, names, feed, progress)
    return Comparison(
        images=feed.total,
        source="random inputs" if given is None else given.name,
        seed=seed if given is None else None,
        batch=feed.size,
        blobs=tuple(tally.result() for tally in tallies),
        only_first=tuple(blob for blob in first.outputs if blob not in second.outputs),
        only_second=tuple(blob for blob in second.outputs if blob not in first.outputs),
    )


@dataclass(frozen=True)
class _Feed:
    """``total`` items in batches of ``size``: given images, or noise where there are none."""

    given: Images | None
    prepare: Preprocessing
    seed: int
    total: int
    size: int

    def batches(self, net: NetSession) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """(First item, input name -> array) of every batch; the last image fills up its batch."""
        noise = np.random.default_rng(self.seed)
        for start in range(0, self.total, self.size):
            if self.given is None:
                yield (
                    start,
                    {
                        name: noise.standard_normal(self._shape(dims), np.float32)
                        for name, dims in net.inputs.items()
                    },
                )
                continue
            ((name, dims),) = net.inputs.items()
            images = self.prepare(self.given.images[start : start + self.size], dims[1:])
            yield start, {name: filled(images, self.size)}

    def _shape(self, dims: tuple) -> tuple[int, ...]:
        return (dims[0] if isinstance(dims[0], int) else self.size, *dims[1:])

    def labels(self, start: int, count: int) -> np.ndarray | None:
        """The labels of a batch, where there are any."""
        if self.given is None or self.given.labels is None:
            return None
        return self.given.labels[start : start + count]


def _run_both(
    first: NetSession,
    second: NetSession,
    names: Sequence[str],
    feed: _Feed,
    progress: Progress | None,
) -> list[Tally]:
    """The tallies of the named blobs, after every batch went through both nets."""
    tallies = [Tally(name) for name in names]
    for start, feeds in feed.batches(first):
        count = min(feed.size, feed.total - start)
        found = first.run(feeds), second.run(dict(zip(second.inputs, feeds.values())))
        for tally in tallies:
            parts = (first_items(out[tally.name], feed.size, count) for out in found)
            tally.add(*parts, feed.labels(start, count))
        if progress:
            progress(f"{start + count} of {feed.total}", (start + count) / feed.total)
    return tallies


def _check_alike(first: NetSession, second: NetSession, names: Sequence[str]) -> None:
    """Refuse nets that do not take the same inputs, or have no output in common."""
    shapes = [[dims[1:] for dims in net.inputs.values()] for net in (first, second)]
    if shapes[0] != shapes[1]:
        one, other = (
            ", ".join(f"{name} {show(dims[1:])}" for name, dims in net.inputs.items())
            for net in (first, second)
        )
        raise VerifyError(
            f"the nets take different inputs: {one} and {other}; expected equal ones to compare"
        )
    if not names:
        raise VerifyError(
            f"the nets have no output in common: {', '.join(first.outputs)} and "
            f"{', '.join(second.outputs)}; name blobs that both have"
        )


def _image_shape(net: NetSession) -> tuple[int, ...]:
    """C, H, W of the input that takes images; refused where it is not the only one."""
    shapes = [dims[1:] for dims in net.inputs.values()]
    if len(shapes) != 1 or len(shapes[0]) != 3:
        inputs = ", ".join(f"{name} {show(dims[1:])}" for name, dims in net.inputs.items())
        raise VerifyError(
            f"images are for a net with one input C x H x W; this one takes {inputs}: "
            "compare on random inputs"
        )
    return shapes[0]


def _sizes(
    first: NetSession, second: NetSession, given: Images | None, samples: int, batch: int | None
) -> tuple[int, int]:
    """(Items in all, items at once): the nets' own batch where it is fixed, else ``batch``, else
    what keeps memory low.  Noise comes in whole batches."""
    if batch is not None and batch < 1 or samples < 1:
        raise VerifyError(f"batch {batch}, samples {samples}: expected 1 or more")
    fixed = {net.batch for net in (first, second) if net.batch}
    if len(fixed) > 1:
        one, other = sorted(fixed)
        raise VerifyError(
            f"the nets' batches are fixed at {one} and {other}; give both prototxts the same"
        )
    total = samples if given is None else len(given.images)
    if fixed:
        size = fixed.pop()
        return (total if given is not None else -(-total // size) * size), size
    shapes = (tuple(dims[1:]) for dims in first.inputs.values())
    return total, min(batch or batch_size(shapes, total), total)
