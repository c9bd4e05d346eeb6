"""Carries out a plan: a net with weights becomes the same net with smaller layers.

The decomposition is done once a layer; its layers are then written into every prototxt that
describes the net (deploy, train_val ...), each in its own dialect, and into the caffemodel.  What
stands outside a replaced layer comes out byte for byte.  Nothing is written to disk here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..cost import Cost, chain_cost, dense_cost
from ..decompose import SCHEMES, Decomposition, Geometry, Part, Scheme
from ..errors import DecomposeError, PlanError, suggest
from ..files.caffemodel import Caffemodel, NewLayer
from ..net.net import Layer, Net
from ..net.shapes import NetShapes
from .chain import small_layers, unmoved_fields
from .methods import fit
from .plan import LayerPlan, Plan
from .statement import statements
from .target import TYPES, Target, target

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Replaced:
    """One layer that was decomposed: the plan's entry, what came out, and the costs."""

    plan: LayerPlan
    target: Target
    geometry: Geometry
    parts: tuple[Part, ...]
    error: float
    before: Cost
    after: Cost


@dataclass(frozen=True)
class Operated:
    """The outcome of an operation, ready to be written.

    ``texts`` are the new prototxts by the path of the old; ``weights`` the new layers by the name
    of the layer that they replace (none: it goes); ``notes`` what a user should know; ``gone`` the
    blobs that are no longer there.
    """

    texts: Mapping[str, str]
    weights: Mapping[str, tuple[NewLayer, ...]]
    replaced: tuple[Replaced, ...]
    notes: tuple[str, ...] = ()
    gone: frozenset[str] = frozenset()


def apply_plan(
    net: Net,
    shapes: NetShapes,
    weights: Caffemodel,
    plan: Plan,
    also: Sequence[tuple[Net, Sequence[NetShapes]]] = (),
    progress: Progress | None = None,
) -> Operated:
    """Decompose what ``plan`` names and rewrite ``net`` and every net in ``also``.

    ``also`` gives each further net with its shapes in every phase.  Raises PlanError when the plan
    does not fit a net, and DecomposeError when a layer's weights cannot be decomposed.
    """
    prepared = {entry.name: _prepare(entry, shapes, plan) for entry in plan.layers}
    _check_sharing(net, prepared)
    texts, notes = {}, []
    for other, phases in ((net, (shapes,)), *also):
        edits, said = _edits(other, phases, prepared)
        notes += said
        texts[other.doc.path or ""] = other.doc.replace(edits)
    new_weights, replaced = {}, []
    efforts = {name: _effort(work) for name, work in prepared.items()}
    total, spent = sum(efforts.values()), 0.0
    for name, work in prepared.items():
        tick = partial(_report, progress, name, spent / total, efforts[name] / total)
        new_weights[name], done = _operate(work, weights, plan.seed, tick)
        replaced.append(done)
        spent += efforts[name]
    return Operated(texts, new_weights, tuple(replaced), tuple(dict.fromkeys(notes)))


@dataclass(frozen=True)
class _Work:
    """A planned layer, checked against the net."""

    entry: LayerPlan
    target: Target
    scheme: Scheme
    geometry: Geometry
    parts: tuple[Part, ...]


def _prepare(entry: LayerPlan, shapes: NetShapes, plan: Plan) -> _Work:
    where = f"{entry.where or plan.path or 'plan'}: layer '{entry.name}'"
    named = [found for found in shapes.layers if found.layer.name == entry.name]
    if not named:
        names = [found.layer.name for found in shapes.layers if found.layer.type in TYPES]
        raise PlanError(
            f"{where}: the net has no such layer, so the plan may be for another net; "
            f"{suggest(entry.name, names)}"
        )
    layer = named[0].layer
    if layer.type not in TYPES:
        raise PlanError(
            f"{where}: it is a {layer.type} ({layer.where()}); only {' and '.join(TYPES)} layers "
            "can be decomposed"
        )
    found = target(named[0])
    if isinstance(found, str):
        raise PlanError(f"{where}: cannot be decomposed: {found}")
    scheme = SCHEMES[entry.scheme]
    geometry = fit(scheme, found.flat, found.spatial)
    if isinstance(geometry, str):
        raise PlanError(f"{where}: {entry.scheme} does not apply: {geometry}")
    try:
        parts = scheme.parts(geometry, scheme.check_ranks(geometry, entry.ranks))
    except DecomposeError as error:
        raise PlanError(f"{where}: {error}") from error
    has = dense_cost(geometry, found.sizes_of(geometry), found.bias).params
    if entry.before and entry.before.params != has:
        raise PlanError(
            f"{where}: was planned with {entry.before.params:,} parameters and has {has:,} in "
            f"{layer.where()}, so the plan is for another net; make it anew with `caffesurgery "
            "plan`, or delete 'before' if the layer was changed"
        )
    return _Work(entry, found, scheme, geometry, parts)


def _check_sharing(net: Net, prepared: Mapping[str, _Work]) -> None:
    """Layers that share their weights must be decomposed together and alike."""
    owners: dict[str, set[str]] = {}
    for layer in net.layers:
        for spec in layer.specs[:1]:
            if spec.name:
                owners.setdefault(spec.name, set()).add(layer.name)
    for name, work in prepared.items():
        shared = work.target.layer.specs[:1]
        for other in sorted(owners.get(shared[0].name, ())) if shared else ():
            mine, theirs = work.entry, prepared[other].entry if other in prepared else None
            if theirs is None or (mine.scheme, mine.ranks) != (theirs.scheme, theirs.ranks):
                raise PlanError(
                    f"layer '{name}' shares its weights with '{other}' "
                    f"(param name '{shared[0].name}'); plan both, with the same method and ranks"
                )


def _edits(net: Net, phases: Sequence[NetShapes], prepared: Mapping[str, _Work]):
    """Replacement text for every statement of every planned layer of one prototxt."""
    by_statement = {entry.layer.field.start: entry for shapes in phases for entry in shapes.layers}
    edits, notes, met = [], [], set()
    for layer in net.layers:
        work = prepared.get(layer.name)
        if work is None:
            continue
        met.add(layer.name)
        entry = by_statement.get(layer.field.start)
        found = target(entry) if entry else None
        if not isinstance(found, Target) or not found.same_layer(work.target):
            raise PlanError(
                f"{layer.where()}: differs from the layer of the same name in "
                f"{work.target.layer.where()}, so one replacement does not fit both; make them "
                "alike or leave the layer out of the plan"
            )
        geometry = found.spatial if work.geometry is work.target.spatial else found.flat
        _check_names(net, layer, work.parts)
        chain = small_layers(found, geometry, work.parts)
        doc = net.doc
        indent, unit = doc.indent(layer.field), statement_unit(net, layer)
        edits.append((layer.field, statements(chain, layer.dialect, indent, unit, doc.newline)))
        notes += [
            f"{layer.where()}: '{name}' is not carried over to the new layers"
            for name in unmoved_fields(layer)
        ]
    missing = sorted(set(prepared) - met)
    if missing:
        notes.append(f"{net.doc.path}: has no layer {', '.join(missing)}; nothing to replace there")
    return edits, notes


def statement_unit(net: Net, layer: Layer) -> str:
    """One step of indentation, as the statement itself uses it."""
    outer = net.doc.indent(layer.field)
    for inner in layer.field.value.fields:
        indent = net.doc.indent(inner)
        if indent.startswith(outer) and len(indent) > len(outer):
            return indent[len(outer) :]
    return "  "


def _check_names(net: Net, layer: Layer, parts: Sequence[Part]) -> None:
    """The new names must be free: two layers of one name would share weights in Caffe."""
    taken = {other.name for other in net.layers}
    taken.update(blob for other in net.layers for blob in (*other.bottoms, *other.tops))
    for part in parts:
        if layer.name + part.suffix in taken:
            raise PlanError(
                f"{layer.where()}: the new layer '{layer.name + part.suffix}' would meet one of "
                "that name in the net; rename the old one"
            )


def _effort(work: _Work) -> float:
    """About how long a layer takes, in any unit: the power method goes through memory for every
    component, a truncated SVD through the cache."""
    numbers = work.geometry.T * work.geometry.S * work.geometry.D * work.geometry.E
    slow = 1.0 if work.scheme.counts_components else 0.1
    return slow * numbers / work.geometry.group**2 * sum(work.entry.ranks)


def _report(progress, name: str, before: float, share: float, done: int, total: int) -> None:
    """Tell the share of the whole operation that is done."""
    if progress:
        progress(name, min(before + share * done / max(total, 1), 1.0))


def _operate(work: _Work, weights: Caffemodel, seed: int, tick: Callable[[int, int], None]):
    name = work.entry.name
    blobs = weights.blobs(name)
    kernel = work.target.kernel(blobs[0].array(), work.geometry)
    try:
        result: Decomposition = work.scheme.decompose(
            kernel,
            work.geometry.group,
            work.entry.ranks,
            seed=seed,
            progress=tick,
        )
    except DecomposeError as error:
        raise DecomposeError(f"layer '{name}' ({weights.path}): {error}") from error
    tick(1, 1)
    chain = small_layers(work.target, work.geometry, work.parts)
    bias = [blob.array().reshape(-1) for blob in blobs[1:2]]
    new = tuple(
        NewLayer(
            small.name,
            small.type,
            small.bottoms,
            small.tops,
            [_blob(factor, small.type), *(bias if small.bias else [])],
        )
        for small, factor in zip(chain, result.factors)
    )
    sizes = work.target.sizes_of(work.geometry)
    before = dense_cost(work.geometry, sizes, work.target.bias)
    after = chain_cost(work.parts, sizes, work.target.bias)
    return new, Replaced(
        work.entry, work.target, work.geometry, work.parts, result.error, before, after
    )


def _blob(factor: np.ndarray, kind: str) -> np.ndarray:
    """A factor in the shape of Caffe's blob: a matrix for an InnerProduct."""
    return factor.reshape(factor.shape[0], -1) if kind == "InnerProduct" else factor
