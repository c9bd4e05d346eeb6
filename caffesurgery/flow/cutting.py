"""Cuts and restores the nets of a flow, and chooses the ranks: once, or again before each cut."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from glob import escape
from math import ceil

from .. import api
from ..api.calibrated import calibrated
from ..ranks import parse_rule
from ..ranks.explicit import best_match
from ..report import net_cost, operation_report
from ..surgery.candidates import find_candidates
from ..surgery.plan import LayerPlan, Plan
from ..surgery.target import TYPES
from ..surgery.wishes import Wishes, parse_methods
from .evaluation import evaluator
from .flow import Flow
from .steps import Layer

ALONE = ("ratio", "energy", "error", "vbmf")
"""Rules that look at each layer by itself, so that only a group's layers need be looked at."""
_SHARE = re.compile(r"\b(macs|params|bytes)=([\d.eE+-]+)(?=,|$)")


class Planner:
    """Plans what a flow cuts.  ``model`` is the net that the flow starts from."""

    def __init__(self, flow: Flow, model: api.Model, progress: api.Progress | None = None):
        self.flow, self.start, self.progress = flow, model, progress

    def first(self) -> Plan:
        """The plan for the net to start from."""
        flow = self.flow
        return self._plan(
            self.start,
            flow.ranks,
            flow.layers,
            keep=flow.keep,
            pin=flow.pin,
            method_for=dict(parse_methods(flow.method_for)),
        )

    def again(self, base: Plan, model: api.Model, names: Sequence[str]) -> Plan:
        """The plan for some layers of the net as it is now; schemes and pins are the first plan's.

        Rules that share out a budget see all layers that are still to be cut, and the budget that
        the first plan had.
        """
        pins = self._pinned([entry.name for entry in base.layers])
        schemes = {entry.name: entry.scheme for entry in base.layers}
        alone = parse_rule(self.flow.ranks).name in ALONE
        there = {entry.layer.name for entry in model.shapes.layers}
        wanted = [name for name in (names if alone else schemes) if name in there]
        free = [name for name in wanted if name not in pins]
        made = replace(base, layers=(), kept=())
        if free:
            methods = {escape(name): schemes[name] for name in free}
            rule = absolute(self.flow.ranks, self.start)
            made = self._plan(model, rule, [*map(escape, free)], method_for=methods)
        fixed = [entry for entry in base.layers if entry.name in pins]
        return replace(made, layers=_only((*fixed, *made.layers), names))

    def _plan(self, model: api.Model, ranks: str, layers: Sequence[str], **wishes) -> Plan:
        flow = self.flow
        measuring = flow.measure and evaluator(flow, flow.measure)
        return api.plan(
            model,
            flow.method,
            ranks,
            layers,
            seed=flow.seed,
            allow_growth=flow.allow_growth,
            effort="high" if flow.high_effort else "normal",
            max_norm=flow.max_norm,
            profile=flow.profile or None,
            evaluate=measuring or None,
            may_be_empty=True,
            progress=self.progress,
            **wishes,
        )

    def _pinned(self, names: Sequence[str]) -> set[str]:
        """Of some layers, those whose ranks the flow or an explicit rule gives."""
        if parse_rule(self.flow.ranks).name == "explicit":
            return set(names)
        every = [e.layer.name for e in self.start.shapes.layers if e.layer.type in TYPES]
        pins = Wishes(pin=self.flow.pin).pins(every)
        patterns = pins.patterns() if pins else {}
        return {name for name in names if best_match(name, patterns) is not None}


def absolute(rule: str, start: api.Model) -> str:
    """The rule with budgets that are shares of the net turned into amounts, for smaller nets."""
    if "of=layers" in rule:
        return rule
    cost = net_cost(start.shapes)
    whole = {"macs": cost.macs, "params": cost.params, "bytes": 4 * cost.params}

    def amount(match: re.Match) -> str:
        share = float(match[2])
        return match[0] if share > 1 else f"{match[1]}={max(2, int(share * whole[match[1]]))}"

    return _SHARE.sub(amount, rule)


def only(plan: Plan, names: Sequence[str]) -> Plan:
    """The part of a plan that is about some layers."""
    return replace(plan, layers=_only(plan.layers, names))


def _only(layers: Sequence[LayerPlan], names: Sequence[str]) -> tuple[LayerPlan, ...]:
    return tuple(entry for entry in layers if entry.name in names)


def raised(plan: Plan, model: api.Model, factor: float) -> Plan:
    """The plan at ranks times ``factor``; layers that would then grow are left out, and kept."""
    if factor == 1:
        return plan
    layers = []
    for entry in plan.layers:
        found, _ = find_candidates(
            model.shapes, model.require_weights(), entry.scheme, [escape(entry.name)]
        )
        each, group = found[0], found[0].geometry.group
        ranks = tuple(
            min(most, ceil(rank * factor / group) * group)
            for rank, most in zip(entry.ranks, each.max_ranks)
        )
        after = each.after(ranks)
        if after.macs < each.before.macs or plan.growth:
            why = f"{entry.why}; ranks times {factor:.3g}"
            layers.append(replace(entry, ranks=ranks, after=after, why=why))
    return replace(plan, layers=tuple(layers))


def cut(
    model: api.Model,
    plan: Plan,
    also: Sequence,
    folder,
    calibrator: api.Calibrator | None = None,
    progress: api.Progress | None = None,
) -> list[dict]:
    """Carry out a plan, write the net to ``folder``; what became of each layer, as reports say.

    With a calibrator the net is fitted to its images, so that it answers as ``model`` does.
    """
    result = api.apply(model, plan, also, progress=progress)
    if calibrator is not None:
        result, _ = calibrated(model, calibrator, lambda: plan, lambda _: result, progress)
    smaller = api.save(result, folder, progress=progress)
    return operation_report(result, smaller)["layers"]


def restore(model: api.Model, plan: Plan, also: Sequence, folder, progress=None) -> None:
    """Make the layers of a plan dense again and write the net to ``folder``."""
    api.save(api.restore(model, plan, also=also, progress=progress), folder, progress=progress)


def as_planned(base: Plan, done: Sequence[Mapping], why: str) -> Plan:
    """The plan that cuts layers as reports say that they were cut."""
    layers = (
        LayerPlan(one["name"], one["method"], tuple(one["ranks"].values()), why) for one in done
    )
    return replace(base, layers=tuple(layers), kept=())


def fitness_of(model: api.Model, plan: Plan, progress=None) -> dict[str, float]:
    """What the decomposition of each layer keeps: 1 - ||W - What|| / ||W|| (002, equation 12)."""
    result = api.apply(model, plan, progress=progress)
    return {one.plan.name: 1 - float(one.error) for one in result.operated.replaced}


def layers_of(plan: Plan, model: api.Model, fitness: Mapping[str, float] | None) -> list[Layer]:
    """The plan's layers in the order of the net, as the steps want to know them."""
    planned = {entry.name for entry in plan.layers}
    made = []
    for entry in model.shapes.layers:
        layer = entry.layer
        if layer.name in planned:
            kept = (fitness or {}).get(layer.name)
            shared = layer.specs[0].name if layer.specs else ""
            made.append(Layer(layer.name, layer.type == "InnerProduct", kept, shared))
    return made
