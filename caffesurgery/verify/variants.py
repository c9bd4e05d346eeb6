"""What a smaller form of a model costs: its size, its largest difference, its accuracy.

The float32 model is the reference; all forms run on the same images, or on seeded noise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import VerifyError
from .frames import Feed
from .session import Session
from .tally import BlobDifference, Tally

_NOISE_ITEMS = 8
_OPEN_SIDE = 256

Progress = Callable[[str, float], None]
"""Called with the form at work and the share that is done, 0 to 1."""


@dataclass(frozen=True)
class Variant:
    """One form of a model.

    ``relative`` is its largest difference from float32 over the largest output, ``agreement`` the
    share of images with the same class, ``top1`` and ``top5`` its accuracy (None without labels).
    """

    precision: str
    path: str
    bytes: int
    relative: float
    agreement: float | None
    top1: float | None
    top5: float | None


def measure(
    paths: Mapping[str, str | os.PathLike],
    feed: Feed | None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Variant, ...]:
    """Every form in ``paths`` (precision -> file; the first is the reference) on the same inputs.

    Without a ``feed``, the inputs are seeded noise: pixels for a model that takes frames, normal
    numbers for others.  ``feed`` must be made for the first file.
    """
    (reference, first), *others = paths.items()
    base = feed.session if feed else Session(first)
    made = {name: [Tally(blob) for blob in base.outputs] for name, _ in others}
    own = [Tally(blob) for blob in base.outputs]
    for name, path in others:
        session = Session(path)
        tallies = made[name]
        for share, feeds, count, labels in _batches(feed, base, seed):
            expected, found = base.run(feeds), session.run(_as_taken(session, feeds))
            for place, blob in enumerate(base.outputs):
                pair = expected[blob][:count], found[session.outputs[place]][:count]
                tallies[place].add(pair[0], pair[1].astype(np.float32), labels)
            if progress:
                progress(name, share)
    if not others:
        for _, feeds, count, labels in _batches(feed, base, seed):
            for tally, out in zip(own, base.run(feeds).values()):
                tally.add(out[:count], out[:count], labels)
    results = {name: [tally.result() for tally in tallies] for name, tallies in made.items()}
    rows = [_reference(reference, first, next(iter(results.values()), [t.result() for t in own]))]
    rows += [_row(name, path, results[name]) for name, path in others]
    return tuple(rows)


def _batches(
    feed: Feed | None, session: Session, seed: int
) -> Iterator[tuple[float, dict[str, np.ndarray], int, np.ndarray | None]]:
    """(Share done, input name -> array, items that count, labels)."""
    if feed is not None:
        for start, count, feeds in feed.batches():
            yield (start + count) / len(feed), feeds, count, feed.labels(start, count)
        return
    random = np.random.default_rng(seed)
    for index in range(_NOISE_ITEMS):
        feeds = noise(session.inputs, session.kinds, random)
        yield (index + 1) / _NOISE_ITEMS, feeds, len(next(iter(feeds.values()))), None


def noise(inputs: Mapping, kinds: Mapping[str, str], random) -> dict[str, np.ndarray]:
    """Seeded inputs of one item: pixels where a model takes bytes, else normal numbers."""
    feeds = {}
    for name, dims in inputs.items():
        if not dims:
            raise VerifyError(f"input {name} has no dimensions; expected a batch axis")
        sides = (axis if isinstance(axis, int) else _OPEN_SIDE for axis in dims[1:])
        shape = (dims[0] if isinstance(dims[0], int) else 1, *sides)
        if kinds[name] == "uint8":
            feeds[name] = random.integers(0, 256, shape).astype(np.uint8)
        else:
            feeds[name] = random.standard_normal(shape, np.float32).astype(kinds[name])
    return feeds


def _as_taken(session: Session, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Inputs in the precision that a form takes them."""
    return {name: array.astype(session.kinds[name], copy=False) for name, array in feeds.items()}


def _reference(name: str, path, results: Sequence[BlobDifference]) -> Variant:
    scored = next((blob for blob in results if blob.top1 is not None), None)
    return Variant(
        name,
        os.fspath(path),
        _size(path),
        0.0,
        1.0 if any(blob.agreement is not None for blob in results) else None,
        scored.top1[0] if scored else None,
        scored.top5[0] if scored and scored.top5 else None,
    )


def _row(name: str, path, results: Sequence[BlobDifference]) -> Variant:
    scored = next((blob for blob in results if blob.top1 is not None), None)
    classed = scored or next((blob for blob in results if blob.agreement is not None), None)
    return Variant(
        name,
        os.fspath(path),
        _size(path),
        max(blob.relative for blob in results),
        classed.agreement if classed else None,
        scored.top1[1] if scored else None,
        scored.top5[1] if scored and scored.top5 else None,
    )


def _size(path) -> int:
    """Bytes of a model, with those of the file of weights that may lie beside it."""
    beside = f"{os.fspath(path)}.data"
    return os.path.getsize(path) + (os.path.getsize(beside) if os.path.exists(beside) else 0)
