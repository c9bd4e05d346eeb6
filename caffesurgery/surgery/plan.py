"""The Plan: which layers are replaced, how, at which ranks, and why; a value that can be printed.

Its file form is the text format of ``proto/surgery.proto``; reading one checks every field against
that schema, so that a slip in a plan edited by hand is reported with its line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .. import __version__
from ..cost import Cost
from ..decompose import SCHEMES
from ..errors import PlanError, suggest
from ..files import text
from ..net.params import Params
from .aims import check_aims

ASKED = ("keep_layers", "pin", "method_for", "profile")
"""Fields that only note what was asked for."""
RANK_FIELDS = {"rank": "rank", "in": "rank_in", "out": "rank_out", "core": "rank_core"}


@dataclass(frozen=True)
class LayerPlan:
    """One replacement.  ``ranks`` has one entry for each of the scheme's ``rank_names``.

    ``effort`` and ``max_norm`` are the layer's own, where it does not take the plan's;
    ``measured`` is what the rule saw, by name, which a plan file does not keep.
    """

    name: str
    scheme: str
    ranks: tuple[int, ...]
    why: str = ""
    before: Cost | None = None
    after: Cost | None = None
    where: str = ""
    effort: str | None = None
    max_norm: float | None = None
    measured: tuple[tuple[str, float], ...] = field(default=(), compare=False)

    def rank_dict(self) -> dict[str, int]:
        """Ranks by name: {"rank": R}, {"in": R3, "out": R4}, {"in": R3, "out": R4, "core": R}."""
        return dict(zip(SCHEMES[self.scheme].rank_names, self.ranks))


@dataclass(frozen=True)
class Kept:
    """A layer that could have been replaced and was left alone."""

    name: str
    why: str


@dataclass(frozen=True)
class Plan:
    """What is to be done to a net; ``dumps`` writes it, ``read_plan`` reads it.

    ``effort`` and ``max_norm`` are what its decompositions are to reach (``decompose.Aim``);
    with ``freeze`` the new layers are not trained.  ``growth`` and the fields of
    ``asked``, by name, are what else was asked for; ``made_from`` the name and SHA-256 of each
    file that was read.
    """

    layers: tuple[LayerPlan, ...]
    kept: tuple[Kept, ...] = ()
    net: str = ""
    method: str = ""
    rule: str = ""
    pattern: str = ""
    seed: int = 0
    path: str = ""
    effort: str = "normal"
    max_norm: float | None = None
    freeze: bool = False
    growth: bool = False
    asked: tuple[tuple[str, str], ...] = ()
    made_from: tuple[tuple[str, str], ...] = ()

    def dumps(self) -> str:
        """The plan as text, in the form of ``proto/surgery.proto``."""
        return "\n".join(_lines(self)) + "\n"


def _lines(plan: Plan) -> Iterator[str]:
    yield "# A plan: edit it freely; `caffesurgery apply` checks it against its net."
    yield "# Ranks of grouped layers are totals over the groups; see `caffesurgery help plan`."
    yield "version: 1"
    for name, value in (
        ("net", plan.net),
        ("method", plan.method),
        ("ranks", plan.rule),
        ("layers", plan.pattern),
        *plan.asked,
    ):
        if value:
            yield f"{name}: {text.quote(value)}"
    yield f"seed: {plan.seed}"
    yield from _aim_lines(plan.effort, plan.max_norm, "")
    if plan.freeze:
        yield "freeze: true"
    if plan.growth:
        yield "allow_growth: true"
    yield f'writer: "caffesurgery {__version__}"'
    for name, sha256 in plan.made_from:
        yield f'made_from {{ name: {text.quote(name)} sha256: "{sha256}" }}'
    for layer in plan.layers:
        yield "layer {"
        yield f"  name: {text.quote(layer.name)}"
        yield f'  method: "{layer.scheme}"'
        for name, rank in layer.rank_dict().items():
            yield f"  {RANK_FIELDS[name]}: {rank}"
        yield from _aim_lines(layer.effort, layer.max_norm, "  ")
        if layer.why:
            yield f"  why: {text.quote(layer.why)}"
        for name, cost in (("before", layer.before), ("after", layer.after)):
            if cost:
                yield f"  {name} {{ params: {cost.params} macs: {cost.macs} }}"
        yield "}"
    for kept in plan.kept:
        yield f"keep {{ name: {text.quote(kept.name)} why: {text.quote(kept.why)} }}"


def _aim_lines(effort: str | None, max_norm: float | None, indent: str) -> Iterator[str]:
    if effort:
        yield f"{indent}effort: {effort.upper()}"
    if max_norm is not None:
        yield f"{indent}max_norm: {max_norm!r}"


def read_plan(path) -> Plan:
    """Read and check a plan file; PlanError names the line of what is wrong."""
    return _plan(text.read(path))


def parse_plan(source: str | bytes, path: str | None = None) -> Plan:
    """The plan in ``source``; ``path`` is only used in messages."""
    return _plan(text.parse(source, path))


def _plan(doc) -> Plan:
    root, where = _root(doc), doc.path or "the plan"
    if root["seed"] < 0:
        raise PlanError(f"{where}: seed {root['seed']}, expected 0 or more")
    layers = tuple(_layer(entry) for entry in root["layer"])
    if not layers:
        raise PlanError(
            f"{where}: plans no layer, expected at least one 'layer {{ ... }}'; "
            "make the plan anew with `caffesurgery plan`"
        )
    _refuse_duplicates(layers)
    plan = Plan(
        layers=layers,
        kept=tuple(Kept(entry["name"], entry["why"]) for entry in root["keep"]),
        net=root["net"],
        method=root["method"],
        rule=root["ranks"],
        pattern=root["layers"],
        seed=root["seed"],
        path=doc.path or "",
        freeze=root["freeze"],
        growth=root["allow_growth"],
        asked=tuple((name, root[name]) for name in ASKED if root[name]),
        made_from=tuple((entry["name"], entry["sha256"]) for entry in root["made_from"]),
        **_aim(root),
    )
    check_aims(plan)
    return plan


def _root(doc) -> Params:
    """The whole file as a SurgeryPlan of a version that can be read; else PlanError."""
    names, where = set(doc.root.names()), doc.path or "the plan"
    if names & {"input", "input_dim", "input_shape", "state"} or "bottom" in _layer_names(doc):
        raise PlanError(
            f"{where}: this is a net, expected a plan (made by `caffesurgery "
            "plan`); perhaps the arguments are swapped: NET WEIGHTS PLAN"
        )
    root = Params(doc.root, "SurgeryPlan", doc.where, "surgery")
    if names and not names.intersection(("version", "layer")):
        raise PlanError(
            f"{where}: this is no plan, it has {', '.join(sorted(names)[:5])}; "
            "expected one made by `caffesurgery plan`"
        )
    root.check_fields()
    if root["version"] != 1:
        raise PlanError(
            f"{where}: version {root['version']}, this program reads version 1; make the "
            "plan anew with `caffesurgery plan`"
        )
    return root


def _layer_names(doc) -> set[str]:
    found: set[str] = set()
    for message in doc.root.all("layer") + doc.root.all("layers"):
        if isinstance(message, text.Message):
            found.update(message.names())
    return found


def _layer(entry: Params) -> LayerPlan:
    where, name, method = entry.where(), entry["name"], entry["method"]
    if not name or not method:
        raise PlanError(f"{where}: a layer of a plan needs a name and a method")
    if method not in SCHEMES:
        raise PlanError(
            f"{where}: layer '{name}': unknown method '{method}'; {suggest(method, SCHEMES)}"
        )
    wanted = SCHEMES[method].rank_names
    given = {short: entry[long] for short, long in RANK_FIELDS.items() if entry.has(long)}
    if set(given) != set(wanted):
        raise PlanError(
            f"{where}: layer '{name}': {method} takes "
            f"{' and '.join(RANK_FIELDS[short] for short in wanted)}, met "
            f"{' and '.join(RANK_FIELDS[short] for short in given) or 'no rank'}"
        )
    return LayerPlan(
        name,
        method,
        tuple(given[short] for short in wanted),
        entry["why"],
        _cost(entry, "before"),
        _cost(entry, "after"),
        where,
        **_aim(entry),
    )


def _aim(entry: Params) -> dict:
    """What the entry itself says of effort and max_norm."""
    found = {}
    if entry.has("effort"):
        found["effort"] = entry["effort"].lower()
    if entry.has("max_norm"):
        found["max_norm"] = entry["max_norm"]
    return found


def _cost(entry: Params, name: str) -> Cost | None:
    return Cost(entry[name]["params"], entry[name]["macs"]) if entry.has(name) else None


def _refuse_duplicates(layers: tuple[LayerPlan, ...]) -> None:
    seen: dict[str, str] = {}
    for layer in layers:
        if layer.name in seen:
            raise PlanError(
                f"{layer.where}: layer '{layer.name}' is planned twice, first at "
                f"{seen[layer.name]}; keep one of them"
            )
        seen[layer.name] = layer.where
