"""What an error of one layer's outputs is worth to the net, measured: the currency of rank rules.

Each layer alone is disturbed by a known little, and what the outputs of the net lose is measured.
The disturbance is like that of a decomposition under what the layer sees, whatever the method:
noise in its kernel, spread evenly over its outputs and over what its inputs vary by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ..decompose.metric import Metric
from ..decompose.outputs import OutputMetric
from ..forward.alone import run_layer
from ..forward.weights import Blobs
from ..net.shapes import LayerShapes
from .guard import watched
from .patches import TYPES, is_transposed, output_axis
from .rerun import Reruns, disturbances
from .sample import Sample, Shaped

ERROR = 0.05
"""The squared relative output error of a probe: so small that losses are still proportional."""

_LEAST = 1e-6  # of the largest worth: what no image shows may still count for others


def with_worth(
    shaped: Shaped,
    blobs: Blobs,
    sample: Sample,
    metrics: Mapping[str, Metric | OutputMetric],
    jobs: int | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Metric | OutputMetric]:
    """The metrics, by layer name, each with what an error of its layer is worth to the net.

    shaped, blobs: the net; sample: the images on which its outputs are compared

    Layers whose outputs are the same for all images are worth the least.  ``jobs`` batches run at
    a time.
    """
    shapes = shaped(sample.sizes[0])
    probes: dict[int, Probe] = {}
    for index, entry in enumerate(shapes.layers):
        if entry.layer.name in metrics and entry.layer.type in TYPES:
            probe = probe_of(entry, blobs[index], metrics[entry.layer.name], index)
            if probe is not None:
                probes[index] = probe
    lost = _lost(shaped, blobs, sample, probes, jobs, progress)
    found = {shapes.layers[index].layer.name: each for index, each in lost.items()}
    least = _LEAST * (max(found.values(), default=0.0) or 1.0)
    return {
        name: replace(metric, worth=max(found.get(name, 0.0), least))
        for name, metric in metrics.items()
    }


def _lost(
    shaped: Shaped, blobs: Blobs, sample: Sample, probes: Mapping[int, Probe], jobs, progress
) -> dict[int, float]:
    """By layer, what the outputs of the net lose for each unit of its squared relative error."""
    kept = watched(shaped(sample.sizes[0]))
    changes = {index: probe.disturbed for index, probe in probes.items()}
    reruns = Reruns(shaped, sample.sizes[0], blobs, changes, [one.blob for one in kept])
    found = disturbances(reruns, sample, kept, jobs, progress)
    return {index: each / ERROR for index, each in found.items()}


class Probe(Protocol):
    """A little that is added to what a layer makes."""

    def disturbed(
        self, entry: LayerShapes, tops: Sequence[np.ndarray], bottoms: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """The tops of the layer with it."""


@dataclass(frozen=True, eq=False)
class KernelProbe:
    """A little that is added to the kernel of a layer.

    kernel: as the layer's weights lie; shift: (T,), with which the mean of the outputs stays
    """

    kernel: np.ndarray
    shift: np.ndarray

    def disturbed(
        self, entry: LayerShapes, tops: Sequence[np.ndarray], bottoms: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """The tops of the layer with it."""
        blobs = [self.kernel, self.shift][: len(entry.params)]
        found = run_layer(entry, blobs, bottoms)
        axis = output_axis(entry)
        for made, top in zip(found, tops):
            made += top
            if len(blobs) == 1:
                made += self.shift.reshape(-1, *(1,) * (made.ndim - axis - 1))
        return found


@dataclass(frozen=True, eq=False)
class OutputProbe:
    """A little that is added to the kernel of a layer, told by what it does to the outputs y.

    mixing: N (g, T / g, T / g), of which N (y - mean) is added; mean: (T,) of y
    """

    mixing: np.ndarray
    mean: np.ndarray

    def disturbed(
        self, entry: LayerShapes, tops: Sequence[np.ndarray], bottoms: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """The tops of the layer with it."""
        axis, found = output_axis(entry), []
        for top in tops:
            moved = np.moveaxis(top, axis, -1)
            rows = (moved - self.mean).reshape(-1, *self.mixing.shape[:2]).transpose(1, 2, 0)
            made = np.matmul(self.mixing, rows).transpose(2, 0, 1).reshape(moved.shape)
            found.append(np.ascontiguousarray(np.moveaxis(moved + made, -1, axis)))
        return found


def probe_of(
    entry: LayerShapes, own: Sequence[np.ndarray], metric: Metric | OutputMetric, seed: int
) -> Probe | None:
    """Noise for a layer with these blobs; None where its outputs are always the same."""
    random = np.random.default_rng(seed)
    if isinstance(metric, OutputMetric):
        return _of_outputs(own, metric, random)
    turned, fresh = is_transposed(entry.layer), metric.fresh()
    kernel = np.asarray(own[0].T if turned else own[0], np.float64)
    flat = kernel.reshape(len(kernel), -1)
    whole = fresh.lost(flat)
    if not whole > 0:
        return None
    noise = fresh.noise(len(flat), random)
    noise *= (ERROR * whole / fresh.lost(noise)) ** 0.5
    shift = metric.shift(flat, flat + noise) if metric.centred else np.zeros(len(flat), np.float32)
    laid = (noise.T if turned else noise).reshape(np.shape(own[0])).astype(np.float32)
    return KernelProbe(np.ascontiguousarray(laid), shift)


def _of_outputs(
    own: Sequence[np.ndarray], metric: OutputMetric, random: np.random.Generator
) -> OutputProbe | None:
    if not metric.whole > 0:
        return None
    noise = metric.noise(random)
    noise *= np.float32((ERROR * metric.whole / metric.lost(noise)) ** 0.5)
    mean = np.zeros(len(metric.scales)) if metric.mean is None else metric.mean + sum(own[1:])
    return OutputProbe(noise, np.asarray(mean, np.float32))
