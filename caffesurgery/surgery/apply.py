"""Carries out a plan: a net with weights becomes the same net with smaller layers.

The decomposition is done once a layer; its layers are then written into every prototxt that
describes the net (deploy, train_val ...), each in its own dialect, and into the caffemodel.  What
stands outside a replaced layer comes out byte for byte.  Nothing is written to disk here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from ..decompose import Part
from ..errors import PlanError
from ..files.caffemodel import Caffemodel, NewLayer
from ..net.net import Layer, Net
from ..net.shapes import NetShapes
from .aims import aim_notes
from .chain import small_layers, unmoved_fields
from .describe import Described
from .operate import Progress, Replaced, Work, decompose_all, prepare
from .plan import Plan
from .statement import statements
from .target import Target, target


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
    nets: Sequence[Described],
    jobs: int | None = None,
    progress: Progress | None = None,
    workers: Executor | None = None,
) -> Operated:
    """Decompose what ``plan`` names in ``net`` and rewrite every prototxt in ``nets``.

    ``nets`` are ``net`` itself and the others that describe it; ``jobs`` layers are decomposed at a
    time, or by ``workers`` where there are some.  Raises PlanError when the plan does not fit a
    net, and DecomposeError when a layer's weights cannot be decomposed.
    """
    prepared = {entry.name: prepare(entry, shapes, plan) for entry in plan.layers}
    _check_sharing(net, prepared)
    texts, notes = {}, list(aim_notes(plan))
    if plan.net and plan.net != net.name:
        notes.append(f"the plan was made for the net '{plan.net}', and this one is '{net.name}'")
    for described in nets:
        edits, said = _edits(described, prepared, plan.freeze)
        notes += said
        texts[described.net.doc.path or ""] = described.net.doc.replace(edits)
    done = decompose_all(prepared, weights, plan.seed, jobs, progress, workers)
    new_weights = {name: layers for name, (layers, _) in done.items()}
    replaced = tuple(record for _, record in done.values())
    notes += [f"layer '{one.plan.name}': {one.warning}" for one in replaced if one.warning]
    return Operated(texts, new_weights, replaced, tuple(dict.fromkeys(notes)))


def outline(net: Net, shapes: NetShapes, plan: Plan) -> str:
    """The prototxt of ``net`` as ``plan`` would make it, without touching any weights.

    ``shapes`` are the net's own; PlanError where the plan does not fit.
    """
    prepared = {entry.name: prepare(entry, shapes, plan) for entry in plan.layers}
    edits, _ = _edits(Described(net, {}, {"TEST": shapes}, {}), prepared, plan.freeze)
    return net.doc.replace(edits)


def _check_sharing(net: Net, prepared: Mapping[str, Work]) -> None:
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


def _edits(described: Described, prepared: Mapping[str, Work], freeze: bool):
    """Replacement text for every statement of every planned layer of one prototxt."""
    net, phases = described.net, described.phases.values()
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
        chain = small_layers(found, geometry, work.parts, freeze)
        doc = net.doc
        indent, unit = doc.indent(layer.field), statement_unit(net, layer)
        edits.append((layer.field, statements(chain, layer.dialect, indent, unit, doc.newline)))
        notes += [
            f"{layer.where()}: '{name}' is not carried over to the new layers"
            for name in unmoved_fields(layer)
        ]
    missing = sorted(set(prepared) - met)
    if not met:
        raise PlanError(
            f"{net.doc.path}: has none of the layers that are decomposed "
            f"({', '.join(missing[:5])}), so it is of another net"
        )
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
