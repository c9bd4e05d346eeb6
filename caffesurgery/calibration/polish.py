"""All of a smaller net fitted at once to what the original makes of the images on the way.

What is minimised is the squared difference at the checkpoints, each over the variance that the
original has there, and counting the more the later it comes: what is wrong late nothing mends.
Images are seen mirrored as often as not: wanted is what the original makes of just these, whether
or not that is the same, so that few images are twice as many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from ..errors import NetError
from ..forward.threads import blas_threads
from ..forward.weights import Blobs
from ..net.graph import Port
from ..net.shapes import NetShapes
from .checkpoints import checkpoints
from .descent import Adam, Arrays, Way
from .fit import sharers
from .guard import Watched
from .ordered import all_done
from .patches import TYPES
from .sample import Sample, Shaped
from .store import Store
from .walk import pair_units

ROUNDS = 10
"""How often each image is seen, mirrored or not."""
MOST_MACS = 4e12
"""Multiply-adds of the smaller net's forward and backward passes; larger nets get fewer rounds."""
_LEAST_ROUNDS = 2
_PIECE = 16
"""Images that are gone through at a time; several pieces, side by side, make a step."""
_PIECES = 3
_WIDEST = 1 << 22
"""Numbers of the largest kernel that learns: fully connected layers of 4096 x 4096 stay."""
_FAR = 2.5e-3
"""Squared relative error at the checkpoints from which on steps are as long as they may be: a net
that is nearer than that is led away by such steps."""
_HELD = 1 << 28
"""Bytes of activations of a piece: of large nets pieces have fewer images, steps more pieces."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class _Check:
    """A place where both nets are compared, and what a squared difference there counts."""

    old: Port
    new: Port
    weight: float


def polished(
    old: Shaped,
    new: Shaped,
    old_blobs: Blobs,
    new_blobs: Blobs,
    chains: Mapping[str, Sequence[str]],
    sample: Sample,
    watched: tuple[Watched, ...],
    seed: int = 0,
    jobs: int | None = None,
    memory: int = 1 << 30,
    progress: Progress | None = None,
) -> Arrays:
    """Other blobs for layers of the new net, by index; none where the net is too large, or where
    nothing can be derived.

    chains: by the name of each layer that was replaced, those in its place; watched: the outputs
    sample: the images; seed: draws their order; jobs, memory: as in ``fit``
    """
    one = new(sample.sizes[0])
    seen = min(ROUNDS, int(MOST_MACS // max(1, 3 * one.macs / sample.sizes[0] * sample.images)))
    pairs = _pairs(old(sample.sizes[0]), one, chains, watched)
    learning = _learning(one, chains)
    ways = Way(one, learning, [port for _, port in pairs])
    pairs = [(before, after) for before, after in pairs if ways.moves(after)]
    if seen < _LEAST_ROUNDS or not pairs:
        return {}
    with Store(memory) as store, blas_threads(1):
        made = _Originals(old, old_blobs, [port for port, _ in pairs], store)
        size = _piece(new, sample)
        made.fill(sample, size, jobs)
        pieces = _PIECES * max(1, min(_PIECE, sample.sizes[0]) // size)
        rounds = max(1, round(seen * sample.images / sum(made.sizes)))
        checks = [
            _Check(*pair, weight) for pair, weight in zip(pairs, made.weights(len(pairs)))
            if weight > 0
        ]  # fmt: skip
        descent = _Descent(new, new_blobs, learning, checks, made, rounds, pieces, seed)
        for done in descent.run(jobs):
            if progress:
                progress(f"round {int(done * rounds) + 1} of {rounds}", done)
        return descent.found()


def _pairs(old: NetShapes, new: NetShapes, chains, watched) -> list[tuple[Port, Port]]:
    """The checkpoints in both nets."""
    last = {unit.old: unit.new[-1] for unit in pair_units(old, new, chains)}
    return [(port, (last[port[0]], port[1])) for port in checkpoints(old, watched)]


def _learning(shapes: NetShapes, chains: Mapping[str, Sequence[str]]) -> frozenset[int]:
    """The layers of the chains, and layers with a kernel and Scales that read what these change;
    none of those that share a blob, or are wider than images can tell."""
    members = {name for layers in chains.values() for name in layers}
    moved, found = set(), set()
    for index, entry in enumerate(shapes.layers):
        own = entry.layer.name in members
        if own or any(source in moved for source, _ in shapes.graph.sources[index]):
            moved.add(index)
            if entry.layer.type in TYPES and prod(entry.params[0]) > _WIDEST:
                continue
            if own or entry.layer.type in (*TYPES, "Scale"):
                found.add(index)
    return frozenset(found) - sharers(shapes)


def _piece(shaped: Shaped, sample: Sample) -> int:
    """Images at a time: few, or as many as a batch where the net takes no other number."""
    shapes = shaped(sample.sizes[0])
    each = 4 * sum(prod(top) for entry in shapes.layers for top in entry.tops) / shapes.images
    size = max(1, min(_PIECE, int(_HELD // each)))
    try:
        shaped(size)
    except NetError:
        return sample.sizes[0]
    return size


class _Originals:
    """Pieces of the images, and what the old net makes of them at the checkpoints."""

    def __init__(self, shaped: Shaped, blobs: Blobs, ports: Sequence[Port], store: Store):
        self._shaped, self._blobs, self._ports, self._store = shaped, blobs, ports, store
        self.sizes: list[int] = []
        self._sums = np.zeros((3, len(ports)))

    def fill(self, sample: Sample, size: int, jobs: int | None) -> None:
        """Look at all images, and at what a mirror makes of them."""
        for batch in range(len(sample)):
            inputs, count = sample.load(batch), sample.sizes[batch]
            pieces = [
                {name: array[at : at + size] for name, array in inputs.items()}
                for at in range(0, count, size)
            ]
            if any(array.ndim == 4 for array in inputs.values()):
                pieces += [_mirrored(piece) for piece in pieces]
            for piece, sums in zip(pieces, all_done(self._looked_at, pieces, jobs)):
                for port, array in zip(self._ports, sums[1]):
                    self._store.put((len(self.sizes), port), array)
                for name, array in piece.items():
                    self._store.put((len(self.sizes), name), np.array(array))
                self.sizes.append(sums[0])
                self._sums += sums[2]
            self._names = tuple(inputs)

    def _looked_at(self, piece: Mapping[str, np.ndarray]) -> tuple:
        (count,) = {len(array) for array in piece.values()}
        made = Way(self._shaped(count), frozenset(), self._ports).there(self._blobs, piece)
        arrays = [made[port] for port in self._ports]
        wide = [array.astype(np.float64) for array in arrays]
        sums = [[one.sum() for one in wide], [np.square(one).sum() for one in wide]]
        return count, arrays, np.array([*sums, [one.size for one in wide]])

    def weights(self, count: int) -> list[float]:
        """What the squared differences at each checkpoint count, summed over an image; 0 where
        the old net always makes the same."""
        total, squares, sizes = self._sums
        variance = squares / sizes - (total / sizes) ** 2
        places = np.arange(1, count + 1) / (count * (count + 1) / 2)
        alive = variance > 1e-12 * np.maximum(squares / sizes, np.finfo(np.float32).tiny)
        each = places * sum(self.sizes) / sizes / np.where(alive, variance, 1.0)
        return list(np.where(alive, each, 0.0))

    def inputs(self, piece: int) -> dict[str, np.ndarray]:
        """What the nets are fed."""
        return {name: self._store.get((piece, name)) for name in self._names}

    def at(self, piece: int, port: Port) -> np.ndarray:
        """What the old net made."""
        return self._store.get((piece, port))


def _mirrored(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with left for right in all that has the axes of an image."""
    return {
        name: np.ascontiguousarray(array[..., ::-1]) if array.ndim == 4 else array
        for name, array in inputs.items()
    }


class _Descent:
    """The new net on its way downhill."""

    def __init__(
        self, shaped: Shaped, blobs: Blobs, learning, checks, made, rounds: int, pieces: int, seed
    ):
        self._shaped, self._checks, self._made = shaped, checks, made
        self._learning, self._rounds, self._seed = learning, rounds, seed
        self._pieces = pieces
        self._blobs = {index: list(own) for index, own in blobs.items()}
        self._ways: dict[int, Way] = {}
        self._steps = rounds * -(-len(made.sizes) // pieces)
        self._adam = Adam({index: self._blobs[index] for index in learning}, self._steps)

    def run(self, jobs: int | None):
        """Go all steps; yields the share of them before each."""
        random, done = np.random.default_rng([self._seed, len(self._made.sizes)]), 0
        size = 0.0
        for _ in range(self._rounds):
            order = random.permutation(len(self._made.sizes))
            for start in range(0, len(order), self._pieces):
                yield done / self._steps
                some = [int(piece) for piece in order[start : start + self._pieces]]
                lost, slopes = self._mean(some, jobs)
                size = size or min(1.0, lost / _FAR)
                self._adam.step(self._blobs, slopes, size)
                done += 1

    def _mean(self, pieces: Sequence[int], jobs: int | None) -> tuple[float, Arrays]:
        """What is lost in an image of these pieces, and its derivatives."""
        images = sum(self._made.sizes[piece] for piece in pieces)
        total, lost = {}, 0.0
        for part_lost, found in all_done(self._slopes, pieces, jobs):
            lost += part_lost / images
            for index, own in found.items():
                sums = total.setdefault(index, [np.zeros(one.shape) for one in own])
                for one, part in zip(sums, own):
                    one += part / images
        return lost, total

    def _slopes(self, piece: int) -> tuple[float, Arrays]:
        """The same, summed over the images of a piece."""
        size = self._made.sizes[piece]
        if size not in self._ways:
            ports = [check.new for check in self._checks]
            self._ways[size] = Way(self._shaped(size), self._learning, ports)
        way = self._ways[size]
        made = way.there(self._blobs, self._made.inputs(piece))
        lost, slopes = 0.0, {}
        for check in self._checks:
            off = made[check.new] - self._made.at(piece, check.old)
            lost += check.weight * float(np.vdot(off, off))
            slopes[check.new] = np.float32(2 * check.weight) * off
        return lost, way.back(self._blobs, made, slopes)

    def found(self) -> Arrays:
        """The blobs of the layers that learned."""
        return {index: self._blobs[index] for index in sorted(self._learning)}
