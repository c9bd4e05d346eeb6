"""Tables of flows: the steps that they would take, and what came of them."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import some
from ...report import MACS_NOTE
from .table import Table, count


def steps_table(data: Mapping) -> Table:
    """The steps of a flow that is only looked at."""
    columns = ("step", "what", "layers", "how", "params", "MACs", "x", "ms")
    whole = data["totals"]["macs"]
    rows = tuple(
        (
            str(step["step"] + 1),
            _what(step),
            some(step["of"], 6),
            _how(step),
            count(step["params"]),
            count(step["macs"]),
            f"{whole / step['macs']:.2f}" if step["macs"] else "-",
            "" if step["ms"] is None else f"{step['ms']:.3f}",
        )
        for step in data["steps"]
        if step["kind"] != "evaluate"
    )
    kept = [f"kept {one['name']}: {one['why']}" for one in data["kept"]]
    evaluations = sum(step["kind"] == "evaluate" for step in data["steps"])
    notes = (
        f"and {evaluations} evaluations: before, and after each cut and training",
        *kept,
        *data["notes"],
        _budget(data),
        f"nothing was written; the outcome would come to {data['output']}",
        MACS_NOTE,
    )
    return Table(_title(data), columns, rows, (), tuple(filter(None, notes)), _NUMBERS)


_NUMBERS = frozenset(("step", "params", "MACs", "x", "ms", "after cut", "trained", "loss"))


def _title(data: Mapping) -> str:
    return f"{data['net']}: {data['scheme']}, {data['method']}, {data['ranks']}"


def _what(step: Mapping) -> str:
    if step["kind"] == "train":
        return {"finish": "train to the end", "restored": "train restored"}.get(
            step["moment"], "train"
        )
    return step["kind"]


def _how(step: Mapping) -> str:
    if step["cut"]:
        return some([f"{one['method']} {_ranks(one)}" for one in step["cut"]], 6)
    training = step["training"]
    if not training:
        return ""
    length = "as the solver says"
    for name in ("epochs", "iterations"):
        if training[name] is not None:
            length = f"{training[name]:g} {name}"
    frozen = "" if training["freeze"] == "none" else f", frozen: {training['freeze']}"
    return f"{training['recipe'] or training['solver']}, {length}{frozen}"


def _ranks(one: Mapping) -> str:
    return "x".join(map(str, one["ranks"].values()))


def flow_table(data: Mapping) -> Table:
    """What came of a flow: a row for each try of each group."""
    metric, whole = data["metric"], data["totals"]["macs"]
    columns = ("layers", "how", "MACs", "x", "after cut", "trained", "loss", "then")
    rows = []
    for steps in _tries(data["steps"]):
        cuts = [step for step in steps if step["cut"]]
        found = {step["moment"]: step["metrics"] for step in steps if step["metrics"]}
        last = steps[-1]
        rows.append(
            (
                some(last["of"], 6) or "whole net",
                some([f"{one['method']} {_ranks(one)}" for c in cuts[-1:] for one in c["cut"]], 6),
                count(last["macs"]),
                f"{whole / last['macs']:.2f}" if last["macs"] else "-",
                _share(found.get("cut", {}).get(metric)),
                _share(found.get("trained", {}).get(metric)),
                _share(found.get("trained", {}).get("loss")),
                "" if last["decision"] == "go on" else last["decision"],
            )
        )
    before, after = data["before"].get(metric), data["after"].get(metric)
    notes = [f"{step['decision']}: {step['why']}" for step in data["steps"] if step["why"]]
    title = f"{_title(data)}: {metric} {_share(before)} before, {_share(after)} after"
    notes = (*notes, _budget(data), f"{data['seconds']:.0f} s", MACS_NOTE)
    return Table(title, columns, tuple(rows), (), tuple(filter(None, notes)), _NUMBERS)


def losses_table(data: Mapping, metric: str) -> Table:
    """What each layer costs when it alone is cut."""
    rows = tuple((name, _share(loss)) for name, loss in data.items())
    columns = ("layer", "lost")
    return Table(f"{metric} lost with one layer cut", columns, rows, (), (), frozenset(["lost"]))


def _tries(steps):
    """The steps of each try of each group, without the beginning."""
    tries: dict[tuple[int, int], list] = {}
    for step in steps:
        if step["group"]:
            tries.setdefault((step["group"], step["try"]), []).append(step)
    return tries.values()


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _budget(data: Mapping) -> str:
    if data["within_budget"] is None:
        return ""
    return f"the net is {'' if data['within_budget'] else 'not '}within its budget"
