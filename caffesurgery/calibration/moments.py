"""Second moments of what layers see of images, streamed: memory does not grow with the images.

Where patches are too large, they are those of what the layer puts out.  Products are made in
float32, some thousands of patches at a time, added up in float64, and kept in float32, as are those
of all layers at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import local

import numpy as np

from ..decompose.metric import Moments
from ..errors import NetError
from ..forward import Runner
from ..forward.threads import blas_threads
from ..forward.weights import Blobs
from ..net.shapes import LayerShapes, NetShapes
from .ordered import Turns, in_turn
from .patches import TYPES, gram_of, output_axis, patch_size, seen_blocks
from .sample import Sample, Shaped
from .wide import is_told, output_sums

LARGEST = 8192
"""Numbers of the largest patch whose Gram matrix is kept: 512 MiB of float64."""

Progress = Callable[[str, float], None]


class Sums:
    """Adds up what one layer sees: ``squares`` as ``gram_of`` takes them, ``total`` (g, n) and the
    count of patches; float64."""

    def __init__(self):
        self.squares: np.ndarray | None = None
        self.total: np.ndarray | float = 0.0
        self.count = 0

    def add(self, squares: np.ndarray, total: np.ndarray, count: int) -> None:
        """What was found in some images."""
        if self.squares is None:
            self.squares = np.zeros(squares.shape)
        self.squares += squares
        self.total = self.total + total
        self.count += count


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


def output_layers(shapes: NetShapes, names: Sequence[str] | None = None) -> frozenset[int]:
    """The layers whose outputs are looked at, as their patches are too large; none that share their
    kernel.  ``names`` None: all."""
    owners = Counter(entry.owners[0][0] for entry in shapes.layers if entry.owners)
    return frozenset(
        index
        for index, entry in enumerate(shapes.layers)
        if entry.layer.type in TYPES and not entry.unknown
        and (names is None or entry.layer.name in names)
        and patch_size(entry)[1] > LARGEST and owners[entry.owners[0][0]] == 1
        and is_told(entry.tops[0][output_axis(entry)] // patch_size(entry)[0])
    )  # fmt: skip


def collect(
    shaped: Shaped,
    blobs: Blobs,
    sample: Sample,
    names: Sequence[str] | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Moments]:
    """Moments of the inputs of every layer, or of those in ``names``, by layer name.

    Layers that share their kernel get the moments of all of them together.  Of layers whose patches
    have more than ``LARGEST`` numbers it is those of the outputs.  ``jobs`` batches run at a time;
    the sums do not depend on how many.  NetError for what cannot be computed, and for values not
    finite.
    """
    first = shaped(sample.sizes[0])
    wanted, wide = measured_layers(first, names), output_layers(first, names)
    sums = {index: Sums() for index in (*wanted, *wide)}
    own = local()

    def runner_of(images: int) -> Runner:
        runners = own.__dict__.setdefault("runners", {})
        if images not in runners:
            runners[images] = Runner(shaped(images), blobs)
        return runners[images]

    def of_layer(runner: Runner, index: int) -> Iterator[tuple]:
        entry = runner.shapes.layers[index]
        if index in wide:
            yield output_sums(runner.tops(index), output_axis(entry), patch_size(entry)[0])
        elif index in wanted:
            for seen in seen_blocks(entry, runner.bottoms(index)):
                yield seen.squares(), seen.total(), seen.width

    def work(number: int, turns: Turns) -> None:
        runner = runner_of(sample.sizes[number])

        def watch(index: int, seconds: float) -> None:
            for found in of_layer(runner, index):
                with turns.take(number, index):
                    sums[index].add(*found)

        runner.run(sample.load(number), watch)

    # the number of threads is BLAS's own for the whole process: set once, before any of ours start
    with np.errstate(all="ignore"), blas_threads(1):
        in_turn(work, len(sample), jobs, progress and _told(progress, sample))
    for index in sorted(sums):
        _check_finite(first.layers[index], sums[index], "outputs" if index in wide else "inputs")
    found = _together(first, wanted, sums, sample.images)
    for index in wide:
        entry = first.layers[index]
        found[entry.layer.name] = _moments([(entry, sums.pop(index))], sample.images, True)
    return found


def _together(
    shapes: NetShapes, wanted: Mapping[int, int], sums: dict[int, Sums], images: int
) -> dict[str, Moments]:
    """The moments of each layer, with those of the layers that share its kernel; uses up ``sums``,
    which take twice the memory."""
    together: dict[int, list[int]] = {}
    for index, owner in wanted.items():
        together.setdefault(owner, []).append(index)
    found = {
        owner: _moments([(shapes.layers[index], sums.pop(index)) for index in indices], images)
        for owner, indices in together.items()
    }
    return {shapes.layers[index].layer.name: found[owner] for index, owner in wanted.items()}


def _moments(
    seen: Sequence[tuple[LayerShapes, Sums]], images: int, of_outputs: bool = False
) -> Moments:
    """Of layers that share a kernel, mostly only one."""
    count = sum(sums.count for _, sums in seen)
    total = sum(sums.total for _, sums in seen)
    grams = [s.squares if of_outputs else gram_of(entry, s.squares) for entry, s in seen]
    gram = grams[0] if len(grams) == 1 else sum(grams)
    single = np.divide(gram, count, out=np.empty(gram.shape, np.float32), casting="same_kind")
    return Moments(total / count, single, int(count), images, of_outputs)


def _check_finite(entry: LayerShapes, sums: Sums, what: str) -> None:
    """NetError for sums of ``what`` that are not finite."""
    if not (np.isfinite(sums.total).all() and np.isfinite(sums.squares).all()):
        raise NetError(
            f"{entry.layer.where()}: its {what} become NaN or infinite for these images; see "
            "whether they are prepared as the net takes them, and whether its weights are finite"
        )


def _told(progress: Progress, sample: Sample) -> Callable[[int], None]:
    return lambda done: progress(f"batch {done} of {len(sample)}", done / len(sample))
