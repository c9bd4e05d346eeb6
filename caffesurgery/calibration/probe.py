"""What an error of one layer's outputs is worth to the net, measured: the currency of rank rules.

Each layer alone is disturbed by a known little, and what the outputs of the net lose is measured.
The disturbance is that of a decomposition: the least principal components of its outputs go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from scipy.linalg import eigh

from ..decompose.metric import Metric
from ..forward.weights import Blobs
from .guard import disturbance, outputs, watched
from .patches import TYPES
from .sample import Sample, Shaped

ERROR = 0.05
"""The squared relative output error of a probe: so small that losses are still proportional."""

_TAIL = 0.2  # components that go hold at most this share of the variance, where there are any such
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
    kept = watched(shapes)
    base = outputs(shaped, blobs, sample, kept, jobs)
    found: dict[str, float] = {}
    for index, entry in enumerate(shapes.layers):
        name = entry.layer.name
        if name not in metrics or entry.layer.type not in TYPES:
            continue
        if progress:
            progress(name, len(found) / len(metrics))
        probe = _probe(entry, blobs[index], metrics[name])
        if probe is None:
            found[name] = 0.0
            continue
        changed, squared = probe
        made = outputs(shaped, {**blobs, index: changed}, sample, kept, jobs)
        found[name] = disturbance(base, made, kept) / squared
    least = _LEAST * max(found.values(), default=1.0)
    return {
        name: replace(metric, worth=max(found.get(name, 0.0), least))
        for name, metric in metrics.items()
    }


def _probe(entry, own, metric: Metric) -> tuple[list[np.ndarray], float] | None:
    """Blobs of a layer that has lost a little of its outputs, and their squared relative error.

    None for a layer without outputs or with a single one that is all it has.
    """
    turned = entry.layer.type == "InnerProduct" and bool(
        entry.layer.params("inner_product_param")["transpose"]
    )
    kernel = np.asarray(own[0], np.float64)
    kernel = kernel.T if turned else kernel
    rows = kernel.reshape(len(kernel), -1)
    changes = [
        least_components(block, covariance)
        for block, covariance in zip(np.split(rows, metric.group), metric.covariances)
    ]
    change = np.concatenate(changes)
    whole = metric.lost(rows)
    share = metric.lost(change) / whole if whole > 0 else 0.0
    if not share > 0:
        return None
    scale = min(1.0, (ERROR / share) ** 0.5)
    found = (rows - scale * change).reshape(kernel.shape)
    bias = [np.asarray(blob, np.float64) for blob in own[1:]]
    if bias and metric.centred:
        shift = metric.shift(rows, found.reshape(rows.shape))
        bias[0] = bias[0] + shift.reshape(bias[0].shape)
    blobs = [found.T if turned else found, *bias]
    return [np.ascontiguousarray(blob, np.float32) for blob in blobs], scale**2 * share


def least_components(rows: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """The part of a kernel (T, n) that makes the least principal components of its outputs.

    As many as hold at most a fifth of their variance, and at least the last one.
    """
    values, vectors = eigh(rows @ covariance @ rows.T)
    share = np.cumsum(np.maximum(values, 0.0))
    count = int(np.searchsorted(share, _TAIL * share[-1], "right"))
    some = vectors[:, : max(1, min(count, len(rows) - 1))]
    return some @ (some.T @ rows)
