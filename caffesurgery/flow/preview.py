"""What a flow would do: its steps, the nets on the way and their costs, with nothing written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import api
from ..net.net import parse_net
from ..net.shapes import infer
from ..report import net_cost
from ..surgery.apply import outline
from ..surgery.plan import Plan
from . import cutting
from .course import START
from .flow import Flow, Training
from .places import Places
from .report import asked_for, within
from .steps import CUT, RESTORE, TRAIN, Step, make_steps


def preview(flow: Flow, progress: api.Progress | None = None) -> dict:
    """The documented report of the steps of a flow; ms only where the flow names a profile.

    Ranks are those of the net to start from; with choose_ranks: each_step they will differ.
    """
    start = Places(flow, Path(flow.output)).load(START)
    plan = cutting.Planner(flow, start, progress).first()
    fitness = cutting.fitness_of(start, plan, progress) if flow.order == "fitness" else None
    steps = make_steps(flow, cutting.layers_of(plan, start, fitness))
    before, rows, models = net_cost(start.shapes), [], {(): start}
    cut: tuple[str, ...] = ()
    for index, step in enumerate(steps):
        if step.kind == CUT:
            cut = (*cut, *step.layers)
        elif step.kind == RESTORE:
            cut = tuple(name for name in cut if name not in step.layers)
        if cut not in models:
            models[cut] = _cut_model(start, cutting.only(plan, cut))
        rows.append(_row(index, step, plan, models[cut], fitness, flow))
    after = net_cost(models[cut].shapes)
    return {
        **asked_for(flow, start),
        "steps": rows,
        "kept": [{"name": kept.name, "why": kept.why} for kept in plan.kept],
        "totals": {
            "params": before.params,
            "macs": before.macs,
            "new_params": after.params,
            "new_macs": after.macs,
            "ms": rows[0]["ms"],
            "new_ms": rows[-1]["ms"],
        },
        "within_budget": within(flow, before, after),
        "output": flow.output,
        "notes": _notes(flow),
    }


def _cut_model(start: api.Model, plan: Plan) -> api.Model:
    """The net as a plan would make it, without its weights."""
    text = outline(start.net, start.shapes, plan) if plan.layers else start.net.doc.text
    net = parse_net(text, start.net.doc.path)
    return api.Model(net, infer(net, start.phase, start.inputs), None, start.inputs)


def _row(index: int, step: Step, plan: Plan, model: api.Model, fitness, flow: Flow) -> dict:
    cost = net_cost(model.shapes)
    ms = api.estimate(model, flow.profile)["totals"]["ms"] if flow.profile else None
    chosen = cutting.only(plan, step.layers).layers if step.kind == CUT else ()
    return {
        "step": index,
        "kind": step.kind,
        "group": step.group,
        "of": list(step.layers),
        "moment": step.moment,
        "params": cost.params,
        "macs": cost.macs,
        "ms": ms,
        "cut": [
            {
                "name": one.name,
                "method": one.scheme,
                "ranks": one.rank_dict(),
                "fitness": (fitness or {}).get(one.name),
            }
            for one in chosen
        ],
        "training": _training(step.training, step.freeze) if step.kind == TRAIN else None,
    }


def _training(training: Training, freeze: str) -> dict:
    said = {
        name: getattr(training, name)
        for name in ("solver", "recipe", "epochs", "iterations", "base_lr", "batch")
    }
    return {**said, "freeze": freeze}


def _notes(flow: Flow) -> Sequence[str]:
    notes = []
    if flow.choose_ranks == "each_step":
        notes.append("ranks will be chosen again before each cut; those shown are of the net now")
    if flow.stop.least(1.0) is not None:
        bound = (
            f"{flow.stop.floor:g}"
            if flow.stop.max_drop is None
            else f"{flow.stop.max_drop:g} less than before"
        )
        notes.append(
            f"a group that ends under {flow.metric} {bound} is tried {flow.stop.tries} more "
            f"time(s) at ranks times {flow.stop.factor:g}, then: {flow.stop.otherwise}"
        )
    if flow.budget:
        said = ", ".join(f"{name} {most:g}" for name, most in flow.budget)
        notes.append(f"the flow is over once the net is within {said}")
    return notes
