"""Reports of plans, of what was done to a net, and of what was restored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .. import __version__
from ..cost import Cost
from .nets import macs, net_cost

if TYPE_CHECKING:  # only for annotations: surgery brings SciPy
    from ..surgery.explain import Explained
    from ..surgery.plan import Plan


def plan_report(model, plan: Plan, explained: Sequence[Explained] | None = None) -> dict:
    """Report of a plan for ``model``: each layer before and after, and the whole net.

    With ``explained`` each layer tells what the next ranks would cost and lose.
    """
    from ..surgery.aims import aim_notes

    types = {entry.layer.name: entry.layer.type for entry in model.shapes.layers}
    layers = [_planned_row(layer, types) for layer in plan.layers]
    for row, layer, each in zip(layers, plan.layers, explained or ()):
        row["explain"] = {"measured": dict(layer.measured), **_explanation(each)}
    return {
        "net": plan.net,
        "method": plan.method,
        "ranks": plan.rule,
        "seed": plan.seed,
        "effort": plan.effort,
        "max_norm": plan.max_norm,
        "layers": layers,
        "kept": [{"name": kept.name, "why": kept.why} for kept in plan.kept],
        "totals": _totals(net_cost(model.shapes), layers),
        "notes": [*model.net.warnings, *model.shapes.notes, *aim_notes(plan)],
    }


def _explanation(explained: Explained) -> dict:
    """What the ranks of a layer, and those beside them, cost and lose."""

    def step(found) -> dict | None:
        if found is None:
            return None
        return {
            "ranks": list(found.ranks),
            "params": found.cost.params,
            "macs": found.cost.macs,
            "least_error": round(found.least_error, 6),
        }

    return {
        "full": list(explained.full),
        "lower": step(explained.lower),
        "here": step(explained.here),
        "higher": step(explained.higher),
    }


def ranks_report(model, plan: Plan) -> dict:
    """Report of the ranks alone: of every layer that could be replaced, in the net's order."""
    order = {entry.layer.name: k for k, entry in enumerate(model.shapes.layers)}
    types = {entry.layer.name: entry.layer.type for entry in model.shapes.layers}
    planned = [
        {**_planned_row(layer, types), "measured": dict(layer.measured)} for layer in plan.layers
    ]
    kept = [
        {"name": kept.name, "type": types[kept.name], "method": None, "ranks": None,
         "measured": {}, "why": kept.why}
        for kept in plan.kept
    ]  # fmt: skip
    return {
        "net": plan.net,
        "method": plan.method,
        "rule": plan.rule,
        "seed": plan.seed,
        "layers": sorted([*planned, *kept], key=lambda row: order[row["name"]]),
        "totals": _totals(net_cost(model.shapes), planned),
        "notes": [*model.net.warnings, *model.shapes.notes],
    }


def _planned_row(layer, types: Mapping[str, str]) -> dict:
    return {
        "name": layer.name,
        "type": types.get(layer.name, ""),
        "method": layer.scheme,
        "ranks": layer.rank_dict(),
        "params": layer.before.params,
        "macs": layer.before.macs,
        "new_params": layer.after.params,
        "new_macs": layer.after.macs,
        "why": layer.why,
    }


def _totals(whole: Cost, layers: Sequence[Mapping]) -> dict:
    """Parameters and MACs of the whole net before and after."""
    return {
        "params": whole.params,
        "macs": whole.macs,
        "new_params": whole.params - sum(row["params"] - row["new_params"] for row in layers),
        "new_macs": whole.macs - sum(row["macs"] - row["new_macs"] for row in layers),
    }


def operation_report(result, smaller) -> dict:
    """Report of what ``apply`` did: each layer with its error, and the net's totals.

    ``smaller`` is the model read back from what was written; the totals are counted on it.
    """
    layers = [
        {
            "name": done.plan.name,
            "type": done.target.layer.type,
            "method": done.plan.scheme,
            "ranks": done.plan.rank_dict(),
            "error": round(done.error, 6),
            "fitness": round(1 - done.error, 6),
            "curve": None if done.curve is None else [round(e, 6) for e in done.curve.tolist()],
            "effort": done.aim.effort,
            "max_norm": done.aim.max_norm,
            "norm_ratio": None if done.norm_ratio is None else round(done.norm_ratio, 4),
            "sensitivity": float(f"{done.sensitivity:.6g}"),
            "warning": done.warning,
            "params": done.before.params,
            "macs": done.before.macs,
            "new_params": done.after.params,
            "new_macs": done.after.macs,
            "new_layers": [done.plan.name + part.suffix for part in done.parts],
        }
        for done in result.operated.replaced
    ]
    kept = result.plan.kept if result.plan else ()
    return {
        "writer": f"caffesurgery {__version__}",
        "net": result.model.name,
        "method": result.plan.method if result.plan else "",
        "ranks": result.plan.rule if result.plan else "",
        "effort": result.plan.effort if result.plan else "normal",
        "max_norm": result.plan.max_norm if result.plan else None,
        "layers": layers,
        "kept": [{"name": one.name, "why": one.why} for one in kept],
        "totals": _before_after_totals(result.model, smaller),
        "notes": [*result.model.net.warnings, *result.operated.notes],
    }


def _before_after_totals(old, new) -> dict:
    before, after = net_cost(old.shapes), net_cost(new.shapes)
    return {
        "params": before.params,
        "macs": before.macs,
        "new_params": after.params,
        "new_macs": after.macs,
    }


def restoration_report(result, dense) -> dict:
    """Report of ``restore``: each chain that became one layer again, and the net's totals."""
    old = {entry.layer.name: entry for entry in result.model.shapes.layers}
    new = {entry.layer.name: entry for entry in dense.shapes.layers}
    layers = []
    for chain in result.chains:
        entries, restored = [old[layer.name] for layer in chain.layers], new[chain.name]
        layers.append(
            {
                "name": chain.name,
                "type": restored.layer.type,
                "from": [layer.name for layer in chain.layers],
                "params": sum(entry.parameters for entry in entries),
                "macs": sum(macs(entry, result.model.shapes) for entry in entries),
                "new_params": restored.parameters,
                "new_macs": macs(restored, dense.shapes),
            }
        )
    return {
        "net": dense.name,
        "layers": layers,
        "totals": _before_after_totals(result.model, dense),
        "notes": list(result.operated.notes),
    }
