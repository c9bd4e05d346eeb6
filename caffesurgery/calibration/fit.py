"""Fits a smaller net to the one that it came from, layer by layer, on images without labels.

In topological order: the last layer of each chain is refitted, layers behind no BatchNorm get their
scale and bias corrected, and BatchNorms their statistics; each of them already sees the inputs that
the finished net will have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from ..decompose.metric import LARGE
from ..forward.alone import run_layer
from ..forward.weights import Blobs
from .chains import Chain, Ends, solve_chain
from .moments import LARGEST
from .onward import find_shortcut, has_statistics, output_weights
from .patches import TYPES, Draw, is_transposed, output_axis, patch_size
from .refit import Line, Refitted, pair_sums, pairs_of, refit
from .sample import Sample, Shaped
from .statistics import (
    affine_lost,
    agreement_sums,
    best_affine,
    moved_statistics,
    spread_sums,
    stored_mean,
)
from .store import Store
from .walk import Step, Unit, Walk
from .wide import is_wide, leading_chain, output_sums

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Levers:
    """What is done: the last factors solved anew, statistics (or scales and biases) put right."""

    refit: bool = True
    statistics: bool = True


@dataclass(frozen=True)
class Fitted:
    """One layer of the old net: what was done for it, and its relative output error on the images
    that nothing is fitted to, before and after, in the net as calibrated so far.

    what: 'refit', 'bias', 'scale', 'statistics', or '' where all stayed as it was
    Errors are None for a BatchNorm, whose outputs have the old net's means and variances.
    """

    name: str
    what: str
    before: float | None = None
    after: float | None = None


@dataclass(frozen=True, eq=False)
class Calibration:
    """New parameter blobs by the index of their layer in the new net, and what was done."""

    blobs: Mapping[int, list[np.ndarray]]
    layers: tuple[Fitted, ...]
    spilled: int = 0


def fit(
    old: Shaped,
    new: Shaped,
    old_blobs: Blobs,
    new_blobs: Blobs,
    chains: Mapping[str, Chain],
    sample: Sample,
    held: Sample,
    levers: Levers = Levers(),  # noqa: B008  frozen
    jobs: int | None = None,
    memory: int = 1 << 30,
    progress: Progress | None = None,
) -> Calibration:
    """Blobs of the new net with which it does best what the old one does.

    chains: by the name of each layer that was replaced, what is in its place
    sample: the images that are fitted to; held: others, on which each layer's fit is judged
    jobs: batches at a time; memory: bytes of activations that are kept before they go to the disk
    NetError for nets that do not match or cannot be computed; FileError for a full disk.
    """
    blobs = {index: list(arrays) for index, arrays in new_blobs.items()}
    with Store(memory) as store:
        names = {name: chain.layers for name, chain in chains.items()}
        walk = Walk(old, new, old_blobs, blobs, names, (sample, held), store, jobs)
        fitter = _Fitter(walk, chains, levers)
        for done, unit in enumerate(walk):
            if progress:
                progress(walk.old.layers[unit.old].layer.name, done / len(walk.units))
            fitter.visit(unit)
        changed = {index: blobs[index] for index in fitter.changed}
        return Calibration(changed, tuple(fitter.records), store.spilled)


class _Fitter:
    """Decides for each unit of a walk what is done, and does it."""

    def __init__(self, walk: Walk, chains: Mapping[str, Chain], levers: Levers):
        self.walk, self.chains, self.levers = walk, chains, levers
        self.records: list[Fitted] = []
        self.changed: list[int] = []
        self._shared = sharers(walk.new)

    def visit(self, unit: Unit) -> None:
        """One layer of the old net and what stands for it."""
        walk, last = self.walk, unit.new[-1]
        entry = walk.new.layers[last]
        own = last not in self._shared
        if not walk.differs(unit):
            walk.each(lambda step: self._plain(unit, step))
        elif unit.replaced and self.levers.refit and own:
            (self._refit_large if self._is_large(unit) else self._solve)(unit, last)
        elif self._is_corrected(entry) and own and self.levers.statistics:
            self._correct(unit, last)
        elif has_statistics(entry) and own and self.levers.statistics:
            self._statistics(unit, last)
        else:
            walk.each(lambda step: self._both(unit, step))

    def _is_large(self, unit: Unit) -> bool:
        """Whether the patches of a layer are too large to be added up, or too large for so few of
        them, where what the layer puts out tells as much in a tenth of the time."""
        entry, images = self.walk.old.layers[unit.old], self.walk.old.images
        size, outputs = patch_size(entry)[1], entry.tops[0][output_axis(entry)]
        count = self.walk.samples[0].images * prod(entry.tops[0]) // outputs // images
        few = LARGE < size > count and is_wide(self.chains[entry.layer.name])
        return few or size > LARGEST

    # -- what is done with one batch; each returns what is to be added up

    def _plain(self, unit: Unit, step: Step) -> tuple:
        self.walk.compute(unit, "old", unit.old, step)
        self.walk.finish(unit, step)
        return ()

    def _both(self, unit: Unit, step: Step, new: Sequence[int] | None = None) -> tuple:
        self.walk.compute(unit, "old", unit.old, step)
        return self._rest(unit, step, unit.new)

    def _rest(self, unit: Unit, step: Step, layers: Sequence[int]) -> tuple:
        for index in layers:
            self.walk.compute(unit, "new", index, step)
        self.walk.finish(unit, step)
        return ()

    # -- what is done for one layer

    def _solve(self, unit: Unit, last: int) -> None:
        """All factors of a chain anew."""
        walk, first = self.walk, unit.new[0]
        shortcut = find_shortcut(walk, unit)

        def gather(step: Step) -> tuple:
            made = walk.compute(unit, "old", unit.old, step)
            if shortcut:
                made = [shortcut.target(walk, made[0], step)]
            seen = walk.bottoms("new", first, step)
            draw = Draw((unit.old, *step), walk.samples[step[0]].images)
            return pair_sums(walk.entry("old", unit.old, step), seen, made, draw)

        seeing = walk.old.layers[unit.old]
        fitted, held = (pairs_of(seeing, sums) for sums in walk.each(gather))
        chain = self.chains[walk.old.layers[unit.old].layer.name]
        blobs = [walk.new_blobs[index] for index in unit.new]
        biases = tuple(
            np.asarray(own[1], np.float64) if len(own) > 1 else np.zeros(len(chain.kernel))
            for own in (walk.old_blobs[unit.old], blobs[-1])
        )
        shaped = [np.reshape(own[0], part.weight_shape) for own, part in zip(blobs, chain.parts)]
        ends, images = self._ends(last), walk.samples[0].images
        found = solve_chain(chain, fitted, held, images, shaped, biases, ends, walk.jobs)
        if found.changed:
            for index, own, factor in zip(unit.new, blobs, found.factors):
                rest = [found.bias] if len(own) > 1 else []
                self._set(index, [np.reshape(factor, np.shape(own[0])), *rest])
        self._tell(unit, "refit" if found.changed else "", found.before, found.after)
        walk.each(lambda step: self._rest(unit, step, unit.new))

    def _refit_large(self, unit: Unit, last: int) -> None:
        """The last factor of a chain alone, where its layer's patches are too large to be added up,
        and the first where that is told by what the layer puts out."""
        walk = self.walk
        chain = self.chains[walk.old.layers[unit.old].layer.name]

        def begin(step: Step) -> tuple:
            walk.compute(unit, "old", unit.old, step)
            for index in unit.new[:-1]:
                walk.compute(unit, "new", index, step)
            return ()

        walk.each(begin)
        first, *_, start = (walk.new_blobs[index][0] for index in unit.new)
        found = self._last_refitted(unit, last, start)
        before = found.before
        if is_wide(chain):
            ends, images = self._ends(last), walk.samples[0].images
            other_first, start = leading_chain(chain, self._dense_sums(unit), images, ends)
            self._replace_first(unit, other_first)
            other = self._last_refitted(unit, last, start)
            if other.after < found.after:
                found = replace(other, changed=True)
            else:
                self._replace_first(unit, first)
        if found.changed:
            lines = found.line.matrix, found.line.bias
            self._set(
                last, [np.reshape(a, np.shape(b)) for a, b in zip(lines, walk.new_blobs[last])]
            )
        self._tell(unit, "refit" if found.changed else "", before, found.after)
        walk.each(lambda step: self._rest(unit, step, unit.new[-1:]))

    def _last_refitted(self, unit: Unit, last: int, kernel: np.ndarray) -> Refitted:
        """The last factor of a chain, by what the others make and the old layer made."""
        walk = self.walk
        fitted, held = (
            pairs_of(walk.new.layers[last], sums)
            for sums in walk.each(
                lambda step: pair_sums(
                    walk.entry("new", last, step),
                    walk.bottoms("new", last, step),
                    walk.tops("old", unit.old, step),
                )
            )
        )
        groups, outputs, size = fitted.yz.shape
        own = walk.new_blobs[last]
        bias = own[1] if len(own) > 1 else np.zeros(groups * outputs)
        start = Line(
            np.asarray(kernel, np.float64).reshape(groups, outputs, size),
            np.asarray(bias, np.float64).reshape(groups, outputs),
        )
        ends = self._ends(last)
        return refit(fitted, held, start, ends.bias, ends.normalised, ends.weights)

    def _dense_sums(self, unit: Unit) -> list[np.ndarray]:
        """Of the images that are fitted to: what the old layer makes of what the chain sees."""
        walk, entry = self.walk, self.walk.old.layers[unit.old]
        axis, groups = output_axis(entry), patch_size(entry)[0]

        def gather(step: Step) -> tuple:
            blobs, bottoms = walk.old_blobs[unit.old], walk.bottoms("new", unit.new[0], step)
            made = run_layer(walk.entry("old", unit.old, step), blobs, bottoms)
            return output_sums(made, axis, groups)

        return walk.each(gather)[0]

    def _replace_first(self, unit: Unit, kernel: np.ndarray) -> None:
        """Another first factor of a chain of two."""
        walk, first = self.walk, unit.new[0]
        own = walk.new_blobs[first]
        self._set(first, [np.reshape(kernel, np.shape(own[0])), *own[1:]])

        def run(step: Step) -> tuple:
            entry, bottoms = walk.entry("new", first, step), walk.bottoms("new", first, step)
            walk.replace_tops(first, step, run_layer(entry, walk.new_blobs[first], bottoms))
            return ()

        walk.each(run)

    def _correct(self, unit: Unit, last: int) -> None:
        walk, blobs = self.walk, self.walk.new_blobs[last]
        axis = output_axis(walk.new.layers[last])

        def gather(step: Step) -> tuple:
            made = walk.compute(unit, "old", unit.old, step)
            for index in unit.new:
                walk.compute(unit, "new", index, step)
            pairs = [agreement_sums(y, z, axis) for y, z in zip(made, walk.tops("new", last, step))]
            return tuple(sum(part) for part in zip(*pairs))

        fitted, held = walk.each(gather)
        scale, shift = best_affine(*fitted, has_bias=len(blobs) > 1)
        before, after = (_error(held, *line) for line in ((1.0, 0.0), (scale, shift)))
        changed = after < before
        if changed:
            kernel = np.asarray(blobs[0], np.float64)
            turned = walk.new.layers[last].layer
            kernel = kernel * _spread(scale, kernel, turned)
            self._set(last, [kernel, *(np.asarray(b) * scale + shift for b in blobs[1:])])

        def finish(step: Step) -> tuple:
            if changed:
                tops = walk.tops("new", last, step)
                shape = (-1,) + (1,) * (tops[0].ndim - axis - 1)
                a, c = (np.float32(each).reshape(shape) for each in (scale, shift))
                walk.replace_tops(last, step, [top * a + c for top in tops])
            walk.finish(unit, step)
            return ()

        what = "scale" if len(blobs) == 1 else "bias"
        self._tell(unit, what if changed else "", before, after if changed else before)
        walk.each(finish)

    def _statistics(self, unit: Unit, last: int) -> None:
        walk, blobs = self.walk, self.walk.new_blobs[last]
        mean = stored_mean(blobs)

        def gather(step: Step) -> tuple:
            (old,) = walk.bottoms("old", unit.old, step)
            (new,) = walk.bottoms("new", last, step)
            return *spread_sums(old, mean), *spread_sums(new, mean)

        sums, _ = walk.each(gather)
        self._set(last, moved_statistics(blobs, sums[:3], sums[3:]))
        self._tell(unit, "statistics")
        walk.each(lambda step: self._both(unit, step))

    # -- which layers

    def _is_corrected(self, entry) -> bool:
        """A linear layer behind which no BatchNorm takes up its scale and mean."""
        index = self.walk.new.layers.index(entry)
        return entry.layer.type in TYPES and not self._normalised(index)

    def _normalised(self, index: int) -> bool:
        """Whether all that reads a layer's tops are BatchNorms with stored statistics."""
        layers, graph = self.walk.new.layers, self.walk.new.graph
        readers = [
            layers[reader]
            for top in range(len(layers[index].layer.tops))
            for reader, _ in graph.consumers(index, top)
        ]
        return bool(readers) and all(has_statistics(entry) for entry in readers)

    def _ends(self, last: int) -> Ends:
        """What comes of the outputs of a chain's last layer."""
        blobs = self.walk.new_blobs
        weights = output_weights(self.walk.new, blobs, last)
        return Ends(len(blobs[last]) > 1, self._normalised(last), weights)

    def _set(self, index: int, arrays: Sequence[np.ndarray]) -> None:
        self.walk.new_blobs[index] = [np.asarray(array, np.float32) for array in arrays]
        self.changed.append(index)

    def _tell(self, unit: Unit, what: str, before=None, after=None) -> None:
        name = self.walk.old.layers[unit.old].layer.name
        self.records.append(Fitted(name, what, before, after))


def sharers(shapes) -> frozenset[int]:
    """Layers that share a parameter blob with another one: they cannot be fitted each by itself."""
    found = set()
    for index, entry in enumerate(shapes.layers):
        for owner, _ in entry.owners:
            if owner != index:
                found |= {index, owner}
    return frozenset(found)


def _spread(scale: np.ndarray, kernel: np.ndarray, layer) -> np.ndarray:
    """One factor for each output, lined up with the kernel."""
    if is_transposed(layer):
        return scale
    return scale.reshape(-1, *(1,) * (kernel.ndim - 1))


def _error(held, scale, shift) -> float:
    """Relative output error on the images that nothing is fitted to."""
    sums, count = held
    spread = sums[2] / count - (sums[0] / count) ** 2
    whole = float(np.maximum(spread, 0).sum())
    return float(np.sqrt(affine_lost(sums, count, scale, shift).sum() / whole)) if whole else 0.0
