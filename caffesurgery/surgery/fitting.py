"""Between what ``apply_plan`` made of a net and the stage that fits a smaller net to images.

In: the outcome of an operation.  Out: the smaller net as shapes and blobs with the chains in it,
and the outcome again with the blobs that were found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..calibration.chains import Chain
from ..calibration.onward import has_statistics, output_weights
from ..calibration.patches import is_transposed
from ..calibration.sample import Shaped
from ..decompose import compose, stability
from ..decompose.metric import Metric, Moments
from ..decompose.outputs import OutputMetric, suits
from ..decompose.task import Task
from ..decompose.truncated import squared_norm
from ..files.caffemodel import Caffemodel, NewLayer
from ..forward.weights import Blobs
from ..net.net import Net, parse_net
from ..net.shapes import NetShapes, infer
from ..workers import processors
from .apply import Operated
from .operate import Replaced

_SMALL = 1 << 29
"""Multiply-adds of a kernel with its covariance up to which chains are solved for with high effort:
that takes a second or two, and the divergence falls by a quarter."""


@dataclass(frozen=True, eq=False)
class Smaller:
    """The net that an operation made: its shapes, also for other batches, blobs and chains."""

    shapes: NetShapes
    shaped: Shaped
    blobs: Blobs
    chains: Mapping[str, Chain]


def smaller(
    operated: Operated,
    net: Net,
    shapes: NetShapes,
    blobs: Blobs,
    weights: Caffemodel,
    inputs,
    phase: str,
    seed: int,
    jobs: int | None = None,
) -> Smaller:
    """The net that ``apply_plan`` has made of ``net`` (of ``shapes`` and ``blobs``); ``jobs``: what
    decomposing a layer anew may use, by default all processors."""
    path = net.doc.path or ""
    rewritten = parse_net(operated.texts[path], path)
    shaped = Shaped(lambda images: infer(rewritten, phase, inputs, images))
    made = {layer.name: layer.blobs for new in operated.weights.values() for layer in new}
    places = {entry.layer.name: index for index, entry in enumerate(shapes.layers)}
    found: dict[int, list[np.ndarray]] = {}
    made_shapes = shaped(shapes.images)
    for index, entry in enumerate(made_shapes.layers):
        name = entry.layer.name
        if name in made:
            found[index] = [np.asarray(blob, np.float32) for blob in made[name]]
        elif entry.params:
            found[index] = list(blobs[places[name]])
    threads = jobs or processors()
    chains = {
        one.plan.name: _chain(one, operated, weights, seed, threads) for one in operated.replaced
    }
    return Smaller(made_shapes, shaped, found, chains)


def _chain(
    one: Replaced, operated: Operated, weights: Caffemodel, seed: int, threads: int
) -> Chain:
    name, group = one.plan.name, one.geometry.group
    kernel = one.target.kernel(weights.blobs(name)[0].array(), one.geometry)
    small = kernel.size * kernel[0].size <= _SMALL
    aim = replace(one.aim, effort="high") if small else one.aim
    task = Task(
        f"layer '{name}'", one.plan.scheme, kernel, group, one.plan.ranks, seed, aim,
        threads=threads,
    )  # fmt: skip
    names = tuple(layer.name for layer in operated.weights[name])
    return Chain(names, one.parts, group, kernel, partial(_decomposed, task))


def _decomposed(task: Task, metric: Metric | OutputMetric, wanted: np.ndarray):
    return replace(task, metric=metric, wanted=wanted).run()


def metrics_of(
    shapes: NetShapes, blobs: Blobs, moments: Mapping[str, Moments]
) -> dict[str, Metric | OutputMetric]:
    """What the moments of layers say of their errors: by layer name, with what BatchNorm and Scale
    make of each output; the mean of the outputs is free where a bias or a BatchNorm takes it up."""
    found: dict[str, Metric | OutputMetric] = {}
    for index, entry in enumerate(shapes.layers):
        if entry.layer.name in moments:
            readers = [shapes.layers[reader] for reader, _ in shapes.graph.consumers(index)]
            normalised = bool(readers) and all(has_statistics(reader) for reader in readers)
            centred = normalised or len(entry.params or ()) > 1
            seen, weights = moments[entry.layer.name], output_weights(shapes, blobs, index)
            if seen.of_outputs:
                kernel, *bias = blobs[index]
                kernel = kernel.T if is_transposed(entry.layer) else kernel
                known = OutputMetric.of(kernel, seen, centred, weights, *bias)
            else:
                known = Metric(seen, centred, weights)
            found[entry.layer.name] = known
    return found


def whitened(
    small: Smaller,
    metrics: Mapping[str, Metric | OutputMetric],
    progress: Callable[[str, float], None] | None = None,
) -> tuple[dict[int, list[np.ndarray]], float]:
    """Blobs of the chains whose layers have a metric, decomposed under it, by index; and what the
    net is then predicted to lose: the sum of their squared errors, each times what it is worth."""
    places = {e.layer.name: i for i, e in enumerate(small.shapes.layers)}
    names = [
        name for name, chain in small.chains.items()
        if name in metrics and suits(metrics[name], chain.parts)
    ]  # fmt: skip
    found: dict[int, list[np.ndarray]] = {}
    lost = 0.0
    for done, name in enumerate(names, 1):
        chain = small.chains[name]
        made = chain.decompose(metrics[name], chain.kernel)
        lost += metrics[name].worth * made.output_error**2
        for layer, factor in zip(chain.layers, made.factors):
            own = small.blobs[places[layer]]
            bias = [blob + made.shift for blob in own[1:]] if made.shift is not None else own[1:]
            found[places[layer]] = [np.reshape(factor, np.shape(own[0])), *bias]
        if progress:
            progress(name, done / len(names))
    return found, lost


def with_blobs(
    operated: Operated, small: Smaller, blobs: Mapping[int, Sequence[np.ndarray]]
) -> Operated:
    """The operation with other blobs (by index in the new net) in some of its layers.

    Layers that the operation left alone come into ``weights`` under their own name.
    """
    layers = small.shapes.layers
    named = {layers[index].layer.name: list(arrays) for index, arrays in blobs.items()}
    weights, owners = dict(operated.weights), {}
    for old, new in operated.weights.items():
        owners.update((layer.name, old) for layer in new)
        weights[old] = tuple(replace(one, blobs=named.get(one.name, one.blobs)) for one in new)
    for index, arrays in blobs.items():
        layer = layers[index].layer
        if layer.name not in owners:
            new = NewLayer(layer.name, layer.type, layer.bottoms, layer.tops, list(arrays))
            weights[layer.name] = (new,)
    replaced = tuple(_judged(one, weights, small, named) for one in operated.replaced)
    return replace(operated, weights=weights, replaced=replaced)


def _judged(one: Replaced, weights, small: Smaller, named: Mapping) -> Replaced:
    """The record of a layer with what its new factors come to."""
    chain = small.chains[one.plan.name]
    if not named.keys() & set(chain.layers):
        return one
    factors = [
        np.reshape(layer.blobs[0], part.weight_shape)
        for layer, part in zip(weights[one.plan.name], chain.parts)
    ]
    change = compose(factors, chain.parts, chain.group)
    change -= chain.kernel
    size, lost = (squared_norm(each) ** 0.5 for each in (chain.kernel, change))
    size = size or 1.0
    ratio = one.norm_ratio
    if ratio is not None:
        ratio = float(stability.component_norms(factors, chain.parts, chain.group).sum()) / size
    sensitivity = stability.sensitivity(factors, chain.parts, chain.group)
    return replace(one, error=lost / size, curve=None, norm_ratio=ratio, sensitivity=sensitivity)
