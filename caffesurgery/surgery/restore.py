"""The way back: finds the chains that replaced a layer and composes them to the dense layer again.

A chain is found by its names (`conv2_s`, `conv2_dd`, `conv2_t`) and proved by its structure: each
layer feeds the next one only, and none but the last has a bias.  Nothing else is needed, so a net
that was fine-tuned since is restored as well.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..decompose import SCHEMES, Geometry, Part, compose
from ..errors import PlanError, suggest
from ..files.caffemodel import Caffemodel, NewLayer
from ..files.text import Field
from ..net.layers.window import conv_window
from ..net.net import Layer, Net
from ..net.shapes import LayerShapes, NetShapes
from .apply import Operated, statement_unit
from .chain import extra_statements, filler_statements, rule_statements
from .describe import Described
from .plan import Plan
from .statement import SmallLayer, statements
from .target import TYPES

ONE = (1, 1)


@dataclass(frozen=True)
class Chain:
    """The layers, first to last, that stand for one layer, and the name that the layer had."""

    name: str
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Wanted:
    """Which chains to restore: all, those of a plan's layers, or those whose names match."""

    plan: Plan | None = None
    patterns: tuple[str, ...] = ("*",)


def find_chains(layers: Sequence[Layer]) -> list[Chain]:
    """All chains among the layers of a file, in order."""
    patterns = _suffix_patterns()
    readers: dict[str, set[str]] = {}
    for layer in layers:
        for bottom in layer.bottoms:
            readers.setdefault(bottom, set()).add(layer.name)
    found: list[Chain] = []
    position = 0
    while position < len(layers):
        chain = None
        for suffixes in patterns:
            chain = chain or _chain_at(layers, position, suffixes, readers)
        if chain:
            found.append(chain)
        position += len(chain.layers) if chain else 1
    return found


def _suffix_patterns() -> list[tuple[str, ...]]:
    """The suffixes of the parts of every scheme, the longest first."""
    found = set()
    for scheme in SCHEMES.values():
        kind = sorted(scheme.kinds)[0]
        parts = scheme.chain(Geometry(1, 1, 1, 1, kind=kind), *(1 for _ in scheme.rank_names))
        found.add(tuple(part.suffix for part in parts))
    return sorted(found, key=len, reverse=True)


def _chain_at(layers, position: int, suffixes, readers: dict[str, set[str]]) -> Chain | None:
    run = tuple(layers[position : position + len(suffixes)])
    first = run[0].name
    name = first[: len(first) - len(suffixes[0])]
    if not name or [layer.name for layer in run] != [name + suffix for suffix in suffixes]:
        return None
    if any(layer.type not in TYPES for layer in run):
        return None
    for layer, following in zip(run, run[1:]):
        alone = all(readers.get(top) == {following.name} for top in layer.tops)
        if layer.tops != following.bottoms or not alone or _has_bias(layer):
            return None
    return Chain(name, run)


def restore_net(
    nets: Sequence[Described],
    shapes: NetShapes,
    weights: Caffemodel,
    wanted: Wanted = Wanted(),  # noqa: B008  frozen
    progress: Callable[[str, float], None] | None = None,
) -> tuple[Operated, tuple[Chain, ...]]:
    """Undo the chains of a net that are wanted; PlanError when there is none.

    ``nets`` are the net itself, whose shapes are ``shapes``, and the others that describe it.
    """
    own = nets[0]
    chains = _chosen(find_chains(own.net.layers), own.net, wanted)
    names = {chain.name for chain in chains}
    texts, new, gone, notes = {}, {}, set(), []
    for described in nets:
        net, path = described.net, described.net.doc.path or ""
        found = [chain for chain in find_chains(net.layers) if chain.name in names]
        edits = []
        for chain in found:
            entries = _entries(chain, shapes.layers if described is own else _both(described))
            parts = [_part(entry) for entry in entries]
            dense = _dense_layer(chain, entries, parts)
            edits.append(_edit(net, chain, dense))
            if described is own:
                _check_plan(chain, dense, wanted.plan)
                new.update(_weights(chain, dense, parts, weights))
                gone |= {top for layer in chain.layers[:-1] for top in layer.tops}
                if progress:
                    progress(chain.name, (chains.index(chain) + 1) / len(chains))
        texts[path] = net.doc.replace(edits)
        missing = sorted(names - {chain.name for chain in found})
        if not found:
            raise PlanError(
                f"{path}: has none of the decomposed layers that are restored "
                f"({', '.join(missing[:5])}), so it is of another net"
            )
        if missing:
            notes.append(f"{path}: has no chain of {', '.join(missing)}; nothing to restore there")
    return Operated(texts, new, (), tuple(notes), gone=frozenset(gone)), tuple(chains)


def _chosen(chains: Sequence[Chain], net: Net, wanted: Wanted) -> list[Chain]:
    """The chains that are wanted; PlanError for a name or pattern that means none."""
    where, names = net.doc.path or net.name, {chain.name for chain in chains}
    if not chains:
        raise PlanError(
            f"{where}: holds no chain of layers such as conv2_s, conv2_dd, "
            "conv2_t, so caffesurgery decomposed no layer of it; there is nothing to restore"
        )
    for entry in wanted.plan.layers if wanted.plan else ():
        if entry.name not in names:
            raise PlanError(
                f"{entry.where or wanted.plan.path or 'the plan'}: layer '{entry.name}' is not "
                f"decomposed in {where}, so it cannot be restored; {suggest(entry.name, names)}"
            )
    for pattern in wanted.patterns:
        if not fnmatch.filter(names, pattern):
            raise PlanError(
                f"--layers '{pattern}': no decomposed layer of {where} has that name; "
                f"{suggest(pattern, names)}"
            )
    planned = {entry.name for entry in wanted.plan.layers} if wanted.plan else names
    chosen = [
        chain
        for chain in chains
        if chain.name in planned
        and any(fnmatch.fnmatchcase(chain.name, pattern) for pattern in wanted.patterns)
    ]
    if not chosen:
        raise PlanError(f"{where}: the plan has no layer that --layers names; nothing is restored")
    _check_sharing(chains, chosen)
    return chosen


def _check_sharing(chains: Sequence[Chain], chosen: Sequence[Chain]) -> None:
    """PlanError where layers that share their weights would no longer do so."""
    owners: dict[str, Chain] = {}
    for chain in chosen:
        owners.update((spec.name, chain) for spec in chain.layers[0].specs[:1] if spec.name)
    names = {chain.name for chain in chosen}
    for other in chains:
        for spec in other.layers[0].specs[:1]:
            if spec.name in owners and other.name not in names:
                raise PlanError(
                    f"layer '{owners[spec.name].name}' shares its weights with '{other.name}' "
                    f"(param name '{spec.name}'); restore both"
                )


def _check_plan(chain: Chain, dense: SmallLayer, plan: Plan | None) -> None:
    """PlanError where the layers of a chain are not those that the plan makes."""
    entry = next((one for one in plan.layers if one.name == chain.name), None) if plan else None
    if entry is None:
        return
    scheme = SCHEMES[entry.scheme]
    like = Geometry(dense.num_output, dense.group, 1, 1, dense.group)
    expected = [(part.suffix, part.out) for part in scheme.chain(like, *entry.ranks)]
    met = [(layer.name[len(chain.name) :], _param(layer)["num_output"]) for layer in chain.layers]
    if met != expected:
        raise PlanError(
            f"{entry.where or plan.path or 'the plan'}: layer '{chain.name}': {entry.scheme} at "
            f"rank {'x'.join(map(str, entry.ranks))} makes {_listed(chain.name, expected)}, and "
            f"{chain.layers[0].where()} has {_listed(chain.name, met)}; restore it with the plan "
            "that made it, or without a plan"
        )


def _listed(name: str, layers: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{name}{suffix} ({outputs})" for suffix, outputs in layers)


def _both(described: Described) -> list[LayerShapes]:
    """Layers with their shapes in the phases that have any; those of TEST where both have one."""
    return [entry for shapes in described.phases.values() for entry in shapes.layers]


def _entries(chain: Chain, shapes: Iterable[LayerShapes]) -> list[LayerShapes]:
    """The shapes of a chain's layers; PlanError where they are not known."""
    inferred = {entry.layer.name: entry for entry in shapes}
    entries = [inferred.get(layer.name) for layer in chain.layers]
    if None in entries:
        raise PlanError(
            f"{chain.layers[0].where()}: is not part of the net in the TEST phase, so its "
            "shapes are not known"
        )
    if entries[0].unknown:
        raise PlanError(
            f"{chain.layers[0].where()}: cannot be restored, since the shape of its bottom is "
            f"not known: {entries[0].unknown}"
        )
    return entries


def _param(layer: Layer):
    name = "convolution_param" if layer.type == "Convolution" else "inner_product_param"
    return layer.params(name)


def _has_bias(layer: Layer) -> bool:
    return bool(_param(layer)["bias_term"])


def _part(entry: LayerShapes) -> Part:
    """The geometry of one layer of a chain; an InnerProduct is a kernel over its whole bottom."""
    bottom, weight = entry.bottoms[0], entry.params[0]
    if entry.layer.type == "Convolution":
        group = _param(entry.layer)["group"]
        return Part("", weight[0], bottom[1], weight[2], weight[3], group, "")
    channels, height, width = (*bottom[1:], 1, 1)[:3]
    return Part("", weight[0], channels, height, width, 1, "")


def _dense_layer(chain: Chain, entries, parts) -> SmallLayer:
    """The layer that the chain stands for; on each axis at most one part is more than a point."""
    last, windows = chain.layers[-1], [_window(entry) for entry in entries]
    kernel = tuple(max(sizes) for sizes in zip(*((part.kh, part.kw) for part in parts)))
    return SmallLayer(
        name=chain.name,
        type=last.type,
        bottoms=chain.layers[0].bottoms,
        tops=last.tops,
        num_output=parts[-1].out,
        bias=_has_bias(last),
        kernel=kernel,
        pad=tuple(max(values) for values in zip(*(window[0] for window in windows))),
        stride=tuple(max(values) for values in zip(*(window[1] for window in windows))),
        dilation=tuple(max(values) for values in zip(*(window[2] for window in windows))),
        group=parts[-1].group,
        specs=_specs(last, last.name[len(chain.name) :]),
        fillers=filler_statements(last, bias=True),
        extra=extra_statements(last),
        rules=rule_statements(chain.layers[0]),
    )


def _window(entry: LayerShapes):
    if entry.layer.type != "Convolution":
        return (0, 0), ONE, ONE
    window = conv_window(entry.layer, entry.bottoms[0])[1]
    return window.pad, window.stride, window.dilation


def _specs(layer: Layer, suffix: str):
    return tuple(
        replace(spec, name=spec.name[: -len(suffix)]) if spec.name.endswith(suffix) else spec
        for spec in layer.specs
    )


def _edit(net: Net, chain: Chain, dense: SmallLayer) -> tuple[Field, str]:
    """One statement in the place of all those of the chain."""
    first, last = chain.layers[0], chain.layers[-1]
    doc, field = net.doc, first.field
    whole = Field(field.name, field.start, last.field.end, field.value)
    indent, unit = doc.indent(field), statement_unit(net, first)
    return whole, statements([dense], first.dialect, indent, unit, doc.newline)


def _weights(chain: Chain, dense: SmallLayer, parts, weights: Caffemodel):
    """The dense weights in the place of the first layer's, and nothing in that of the others."""
    blobs = [weights.blobs(layer.name) for layer in chain.layers]
    factors = [blob[0].array().reshape(part.weight_shape) for blob, part in zip(blobs, parts)]
    kernel = compose(factors, parts, dense.group)
    if dense.type == "InnerProduct":
        kernel = kernel.reshape(len(kernel), -1)
    bias = [np.array(blob.array()).reshape(-1) for blob in blobs[-1][1:2]]
    layer = NewLayer(dense.name, dense.type, dense.bottoms, dense.tops, [kernel, *bias])
    replaced = {chain.layers[0].name: (layer,)}
    replaced.update((other.name, ()) for other in chain.layers[1:])
    return replaced
