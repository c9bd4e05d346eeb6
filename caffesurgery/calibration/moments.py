"""Second moments of what layers see of images, streamed: memory does not grow with the images.

Products of patches are made in float32, some thousands at a time, added up in float64, and kept in
float32, as are those of all layers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import local

import numpy as np

from ..decompose.metric import Moments
from ..errors import NetError
from ..forward import Runner
from ..forward.threads import blas_threads
from ..forward.weights import Blobs
from ..net.shapes import LayerShapes, NetShapes
from .ordered import Turns, in_turn
from .patches import TYPES, patch_blocks, patch_size
from .sample import Sample, Shaped

LARGEST = 8192
"""Numbers of the largest patch whose Gram matrix is kept: 512 MiB of float64."""

Progress = Callable[[str, float], None]


class Sums:
    """Adds up the patches of one layer: ``gram`` (g, n, n), ``total`` (g, n) and their count."""

    def __init__(self, groups: int, size: int):
        self.gram = np.zeros((groups, size, size))
        self.total = np.zeros((groups, size))
        self.count = 0

    def add(self, gram: np.ndarray, total: np.ndarray, count: int) -> None:
        """What ``products`` found."""
        self.gram += gram
        self.total += total
        self.count += count


def products(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Of patches (g, n, m): the sum of x x^T (g, n, n) float32, of x (g, n) float64, and m."""
    gram = np.matmul(patches, patches.transpose(0, 2, 1))
    return gram, patches.sum(2, dtype=np.float64), patches.shape[2]


def measured_layers(shapes: NetShapes, names: Sequence[str] | None = None) -> dict[int, int]:
    """Layer index -> index of the layer that it shares its moments with, where they are kept.

    That is its own, or for layers that share a kernel the first of them.  ``names`` None: all.
    """
    found: dict[int, int] = {}
    for index, entry in enumerate(shapes.layers):
        if entry.layer.type not in TYPES or entry.unknown:
            continue
        size, owner = patch_size(entry), entry.owners[0][0]
        named = names is None or entry.layer.name in names
        if named and size[1] <= LARGEST:
            found[index] = owner if found.get(owner) == owner else index
            if patch_size(shapes.layers[found[index]]) != size:  # shared by a PERMISSIVE name
                found[index] = index
    return found


def collect(
    shaped: Shaped,
    blobs: Blobs,
    sample: Sample,
    names: Sequence[str] | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Moments]:
    """Moments of the inputs of every layer, or of those in ``names``, by layer name.

    Layers that share their kernel get the moments of all of them together.  Layers whose patches
    have more than ``LARGEST`` numbers are left out.  ``jobs`` batches run at a time; the sums do
    not depend on how many.  NetError for what cannot be computed, and for values not finite.
    """
    first = shaped(sample.sizes[0])
    wanted = measured_layers(first, names)
    sums = {index: Sums(*patch_size(first.layers[index])) for index in wanted}
    own = local()

    def runner_of(images: int) -> Runner:
        runners = own.__dict__.setdefault("runners", {})
        if images not in runners:
            runners[images] = Runner(shaped(images), blobs)
        return runners[images]

    def work(number: int, turns: Turns) -> None:
        runner = runner_of(sample.sizes[number])

        def watch(index: int, seconds: float) -> None:
            if index in wanted:
                entry = runner.shapes.layers[index]
                for patches, _ in patch_blocks(entry, runner.bottoms(index)):
                    found = products(patches)
                    with turns.take(number, index):
                        sums[index].add(*found)

        runner.run(sample.load(number), watch)

    # the number of threads is BLAS's own for the whole process: set once, before any of ours start
    with np.errstate(all="ignore"), blas_threads(1):
        in_turn(work, len(sample), jobs, progress and _told(progress, sample))
    return _together(first, wanted, sums, sample.images)


def _together(
    shapes: NetShapes, wanted: Mapping[int, int], sums: dict[int, Sums], images: int
) -> dict[str, Moments]:
    """The moments of each layer, with those of the layers that share its kernel; uses up ``sums``,
    which take twice the memory."""
    for index, owner in wanted.items():
        if owner != index:
            sums[owner].add(sums[index].gram, sums[index].total, sums[index].count)
            del sums[index]
    found = {own: _moments(shapes.layers[own], sums.pop(own), images) for own in list(sums)}
    return {shapes.layers[index].layer.name: found[owner] for index, owner in wanted.items()}


def _moments(entry: LayerShapes, sums: Sums, images: int) -> Moments:
    if not (np.isfinite(sums.total).all() and np.isfinite(sums.gram).all()):
        raise NetError(
            f"{entry.layer.where()}: its inputs become NaN or infinite for these images; see "
            "whether they are prepared as the net takes them, and whether its weights are finite"
        )
    gram = (sums.gram / sums.count).astype(np.float32)
    return Moments(sums.total / sums.count, gram, sums.count, images)


def _told(progress: Progress, sample: Sample) -> Callable[[int], None]:
    return lambda done: progress(f"batch {done} of {len(sample)}", done / len(sample))
