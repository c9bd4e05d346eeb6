"""The report of a flow: what each step did to the net, and what came of it all."""

from __future__ import annotations

from collections.abc import Sequence

from ..report import net_cost
from . import course
from .course import Record
from .flow import Flow
from .steps import Step


def flow_report(flow: Flow, start, final, steps: Sequence[Step], records: Sequence[Record]) -> dict:
    """The documented report; ``start`` and ``final`` are the models before and after."""
    before, after = net_cost(start.shapes), net_cost(final.shapes)
    kept = course.counted(steps, records)
    return {
        **asked_for(flow, start),
        "metric": flow.metric,
        "before": _metrics(records[:1]),
        "after": _metrics(kept),
        "steps": [_step_row(steps[record.index], record) for record in records],
        "layers": list(final_layers(kept).values()),
        "totals": {
            "params": before.params,
            "macs": before.macs,
            "new_params": after.params,
            "new_macs": after.macs,
        },
        "seconds": round(sum(record.seconds for record in records), 1),
        "within_budget": within(flow, before, after),
    }


def asked_for(flow: Flow, start) -> dict:
    """The head of every report: the net that a flow begins with, and what is to be done."""
    return {
        "net": start.name,
        "scheme": flow.scheme,
        "method": flow.method,
        "ranks": flow.ranks,
        "choose_ranks": flow.choose_ranks,
        "freeze": flow.freeze,
        "seed": flow.seed,
    }


def within(flow: Flow, before, after) -> bool | None:
    """Whether a net that costs ``after`` is within the flow's budget; None where it has none."""
    if not flow.budget:
        return None
    return all(
        getattr(after, name) <= (most * getattr(before, name) if most <= 1 else most)
        for name, most in flow.budget
    )


def final_layers(records: Sequence[Record]) -> dict[str, dict]:
    """By name, what was last done to each layer that is decomposed in the end."""
    return {one["name"]: _cut_row(one) for record in records for one in record.layers}


def _step_row(step: Step, record: Record) -> dict:
    return {
        "step": record.index,
        "kind": step.kind,
        "group": step.group,
        "try": record.attempt + 1,
        "of": list(step.layers),
        "moment": step.moment,
        "params": record.params,
        "macs": record.macs,
        "metrics": dict(record.metrics),
        "training": dict(record.training),
        "cut": [_cut_row(one) for one in record.layers],
        "decision": record.decision,
        "why": record.why,
        "seconds": record.seconds,
    }


def _cut_row(one) -> dict:
    return {key: one[key] for key in ("name", "method", "ranks", "error")}


def _metrics(records: Sequence[Record]) -> dict:
    """What the last evaluation among the records found."""
    found = [record.metrics for record in records if record.metrics]
    return dict(found[-1]) if found else {}
