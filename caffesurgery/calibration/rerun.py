"""Runs a net on a batch, and again from the outputs of single layers on, after those were changed.

What a change does not reach is not computed again, so all layers of a net changed one by one cost a
few runs of it and not one each.  Of the first run only that is kept which the others read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ..forward.alone import run_layer
from ..forward.threads import blas_threads
from ..forward.weights import Blobs
from ..net.graph import Port
from ..net.shapes import LayerShapes, NetShapes
from .guard import Watched, moved, spread
from .ordered import all_done
from .sample import Inputs, Sample, Shaped

Change = Callable[[LayerShapes, Sequence[np.ndarray], Sequence[np.ndarray]], Sequence[np.ndarray]]
"""From a layer, its tops and its bottoms, neither to be written to, to others in place of the tops.
"""


class Reruns:
    """A net and the layers whose outputs are changed, one at a time.

    images: of a batch that the net takes
    changes: by index of the layer; names: the blobs that are looked at, in their last version
    """

    def __init__(
        self,
        shaped: Shaped,
        images: int,
        blobs: Blobs,
        changes: Mapping[int, Change],
        names: Sequence[str],
    ):
        self._shaped, self._blobs, self._changes = shaped, blobs, changes
        shapes = shaped(images)
        self._last = {
            name: (index, top)
            for index, layer in enumerate(shapes.graph.layers)
            for top, name in enumerate(layer.tops)
            if name in names
        }
        self._after = {index: _reached(shapes, index) for index in changes}
        self._stay = frozenset(self._last.values()).union(
            *(_read(shapes, index, after) for index, after in self._after.items())
        )

    def __call__(self, images: int, inputs: Inputs) -> Iterator[tuple[int, dict]]:
        """(-1, the blobs of ``names``) for the net as it is, then (index, they) for each change.

        inputs: a batch of so many images
        """
        shapes = self._shaped(images)
        base: dict[Port, np.ndarray] = {}
        changed = self._run(
            shapes, range(len(shapes.layers)), base, inputs, self._stay, self._changes
        )
        yield -1, {name: base[port] for name, port in self._last.items()}
        for index in self._changes:
            tops = {(index, top): made for top, made in enumerate(changed.pop(index))}
            values = {**base, **tops}
            stay = frozenset(base).difference(tops).union(self._last.values())
            self._run(shapes, self._after[index], values, inputs, stay, {})
            yield index, {name: values[port] for name, port in self._last.items()}

    def _run(
        self, shapes: NetShapes, order: Sequence[int], values: dict, inputs, stay, changes
    ) -> dict[int, Sequence[np.ndarray]]:
        """Compute layers into ``values``; what is not to stay goes when nobody reads it any more,
        and may be written over then.  Returns what ``changes`` make of the layers' tops."""
        sources, changed = shapes.graph.sources, {}
        left = Counter(port for index in order for port in sources[index])
        for index in order:
            entry = shapes.layers[index]
            bottoms = [values[port] for port in sources[index]]
            first = sources[index][0] if bottoms else None
            reuse = bool(bottoms) and left[first] == 1 and first not in stay
            reuse = reuse and index not in changes
            tops = run_layer(entry, self._blobs.get(index, ()), bottoms, inputs, reuse)
            if index in changes:
                changed[index] = changes[index](entry, tops, bottoms)
            left.subtract(sources[index])
            for port in set(sources[index]):
                if not left[port] and port not in stay:
                    del values[port]
            for top, made in enumerate(tops):
                if left[index, top] or (index, top) in stay:
                    values[index, top] = made
        return changed


def disturbances(
    reruns: Reruns,
    sample: Sample,
    kept: Sequence[Watched],
    jobs: int | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> dict[int, float]:
    """How far each change moves the outputs, by its index; ``jobs`` batches run at a time."""

    def run(number: int) -> tuple[dict, dict[int, np.ndarray]]:
        made = reruns(sample.sizes[number], sample.load(number))
        _, base = next(made)
        return base, {index: moved(base, other, kept) for index, other in made}

    bases, sums = [], {}
    with blas_threads(1):
        for done, (base, found) in enumerate(all_done(run, range(len(sample)), jobs), 1):
            bases.append(base)
            for index, each in found.items():
                sums[index] = sums.get(index, 0.0) + each
            if progress:
                progress(f"batch {done} of {len(sample)}", done / len(sample))
    whole = spread(bases, kept)
    return {index: float(np.mean(each / whole)) for index, each in sums.items()}


def _reached(shapes: NetShapes, start: int) -> tuple[int, ...]:
    """The layers that what a layer puts out gets to, in order."""
    found = {start}
    for index in range(start + 1, len(shapes.layers)):
        if any(maker in found for maker, _ in shapes.graph.sources[index]):
            found.add(index)
    return tuple(sorted(found - {start}))


def _read(shapes: NetShapes, start: int, after: Sequence[int]) -> set[Port]:
    """What the layers behind a changed one read that neither it nor any of them makes."""
    read = {port for index in after for port in shapes.graph.sources[index]}
    return {port for port in read if port[0] != start and port[0] not in after}
