"""What an error of one layer's outputs is worth to the net, measured: the currency of rank rules.

Each layer alone is disturbed by a known little, and what the outputs of the net lose is measured.
The disturbance is that of a decomposition: the least principal components of its outputs go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import eigh

from ..decompose.metric import Metric
from ..decompose.truncated import matmul
from ..forward.threads import blas_threads
from ..forward.weights import Blobs
from ..net.shapes import LayerShapes
from .guard import moved, spread, watched
from .ordered import all_done
from .patches import TYPES, output_axis
from .rerun import Reruns
from .sample import Sample, Shaped

ERROR = 0.05
"""The squared relative output error of a probe: so small that losses are still proportional."""

_TAIL = 0.2  # components that go hold at most this share of the variance, where there are any such
_LARGE = 1024  # outputs from which their components are found in float32
_LEAST = 1e-6  # of the largest worth: what no image shows may still count for others


def with_worth(
    shaped: Shaped,
    blobs: Blobs,
    sample: Sample,
    metrics: Mapping[str, Metric],
    jobs: int | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Metric]:
    """The metrics, by layer name, each with what an error of its layer is worth to the net.

    shaped, blobs: the net; sample: the images on which its outputs are compared

    Layers whose outputs are the same for all images are worth the least.  ``jobs`` batches run at
    a time.
    """
    shapes = shaped(sample.sizes[0])
    probes: dict[int, Probe] = {}
    for index, entry in enumerate(shapes.layers):
        if entry.layer.name in metrics and entry.layer.type in TYPES:
            probe = probe_of(entry, blobs[index], metrics[entry.layer.name])
            if probe is not None:
                probes[index] = probe
    lost = _lost(shaped, blobs, sample, probes, jobs, progress)
    found = {shapes.layers[index].layer.name: each for index, each in lost.items()}
    least = _LEAST * max(found.values(), default=1.0)
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

    def run(number: int) -> tuple[dict, dict[int, np.ndarray]]:
        made = reruns(sample.sizes[number], sample.load(number))
        _, base = next(made)
        return base, {index: moved(base, other, kept) for index, other in made}

    bases, sums = [], dict.fromkeys(probes, 0.0)
    with blas_threads(1):
        for done, (base, found) in enumerate(all_done(run, range(len(sample)), jobs), 1):
            bases.append(base)
            for index, each in found.items():
                sums[index] = sums[index] + each
            if progress:
                progress(f"batch {done} of {len(sample)}", done / len(sample))
    whole = spread(bases, kept)
    return {i: float(np.mean(each / whole)) / probes[i].squared for i, each in sums.items()}


@dataclass(frozen=True, eq=False)
class Probe:
    """A little that goes of a layer's outputs y: of B B^T (y - centre) so much as ``scale`` says.

    bases: B of each group, (T / g, k) with orthonormal columns; centre: (T,)
    squared: the squared relative output error that this makes; axis: the outputs' in a top
    """

    bases: Sequence[np.ndarray]
    scale: float
    centre: np.ndarray
    squared: float
    axis: int

    def disturbed(self, tops: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The tops of a layer without it."""
        return [self._without(top) for top in tops]

    def _without(self, top: np.ndarray) -> np.ndarray:
        groups, outputs = len(self.bases), top.shape[self.axis]
        found = np.array(top).reshape(-1, groups, outputs // groups, _size(top, self.axis + 1))
        centre = self.centre.astype(np.float32).reshape(groups, -1, 1)
        for g, basis in enumerate(self.bases):
            part = np.asarray(basis, np.float32)
            seen = np.matmul(part.T, found[:, g] - centre[g])
            found[:, g] -= np.float32(self.scale) * np.matmul(part, seen)
        return found.reshape(top.shape)


def _size(top: np.ndarray, axis: int) -> int:
    return int(np.prod(top.shape[axis:], dtype=int))


def probe_of(entry: LayerShapes, own: Sequence[np.ndarray], metric: Metric) -> Probe | None:
    """What goes of the outputs of a layer with these blobs; None for one without outputs.

    The kernel that does the same is (1 - scale B B^T) W.
    """
    turned = entry.layer.type == "InnerProduct" and bool(
        entry.layer.params("inner_product_param")["transpose"]
    )
    rows = np.asarray(own[0].T if turned else own[0], np.float64)
    rows = rows.reshape(len(rows), -1)
    weights = np.ones(len(rows)) if metric.weights is None else metric.weights
    bases, centres, whole, lost = [], [], 0.0, 0.0
    fresh, blocks = metric.fresh(), (np.split(each, metric.group) for each in (rows, weights))
    for g, (block, weight) in enumerate(zip(*blocks)):
        block = np.ascontiguousarray(block)
        made = matmul(matmul(block, fresh.covariances[g]), np.ascontiguousarray(block.T))
        basis, values = least_components(made)
        whole += float(weight @ np.diagonal(made))
        lost += float(weight @ (basis**2 @ values))
        bases.append(basis)
        centres.append(block @ metric.moments.mean[g] * metric.centred)
    if not (whole > 0 and lost > 0):
        return None
    centre = np.concatenate(centres)
    if len(own) > 1:
        centre = centre + np.asarray(own[1], np.float64).reshape(-1)
    scale = min(1.0, (ERROR * whole / lost) ** 0.5)
    return Probe(bases, scale, centre, scale**2 * lost / whole, output_axis(entry))


def least_components(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least principal components (T, k) of outputs of this covariance (T, T), and what they
    hold (k,): as many as hold at most a fifth of the variance, and at least the last one."""
    if len(covariance) > _LARGE:  # a third of the time, and what float32 cannot tell holds nothing
        covariance = covariance.astype(np.float32)
    values, vectors = eigh(covariance, driver="evd", check_finite=False)
    values = np.maximum(values, 0.0)
    share = np.cumsum(values)
    count = int(np.searchsorted(share, _TAIL * share[-1], "right"))
    count = max(1, min(count, len(values) - 1))
    return vectors[:, :count], values[:count]
