"""Makes a plan: from a net with weights, a method, a rank rule and a layer pattern.

Every Convolution and InnerProduct that the pattern names is offered to the method; what the method
can replace is offered to the rule; what would then need more multiply-adds than before is left
alone, unless growth is allowed.  The plan says for each layer why.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence

from ..errors import PlanError, RankError, UsageError, suggest
from ..files.caffemodel import Caffemodel
from ..net.net import Net
from ..net.shapes import NetShapes
from ..ranks import Candidate, Choice, Skip, parse_rule
from .methods import check_method, choose
from .plan import Kept, LayerPlan, Plan
from .target import TYPES, Target, target


def make_plan(
    net: Net,
    shapes: NetShapes,
    weights: Caffemodel,
    method: str,
    ranks: str,
    layers: Sequence[str] = ("*",),
    seed: int = 0,
    growth: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> Plan:
    """Plan the decomposition of ``net``.

    ``method`` is a scheme or a policy ('cp', 'tucker2'), ``ranks`` a rule such as 'ratio=0.25',
    ``layers`` names or glob patterns.  With ``growth`` a layer may end with more multiply-adds.
    Raises PlanError or RankError for what does not exist or cannot be met.
    """
    check_method(method)
    if seed < 0:
        raise UsageError(f"seed {seed}: expected 0 or more")
    rule = parse_rule(ranks)
    candidates, kept = find_candidates(shapes, weights, method, layers)
    if not candidates:
        reasons = "; ".join(f"{k.name}: {k.why}" for k in kept[:5]) or "it has no such layers"
        raise PlanError(
            f"{net.doc.path or net.name}: method {method} finds no layer to decompose ({reasons})"
        )
    allocated = _alike(rule.allocate(candidates, growth, progress), shapes, rule.name == "explicit")
    decided = [_decide(each, allocated[each.name], growth) for each in candidates]
    kept += [entry for entry in decided if isinstance(entry, Kept)]
    order = {entry.layer.name: k for k, entry in enumerate(shapes.layers)}
    return Plan(
        layers=tuple(entry for entry in decided if isinstance(entry, LayerPlan)),
        kept=tuple(sorted(kept, key=lambda entry: order[entry.name])),
        net=net.name,
        method=method,
        rule=ranks,
        pattern=",".join(layers) if tuple(layers) != ("*",) else "",
        seed=seed,
    )


def find_candidates(
    shapes: NetShapes, weights: Caffemodel, method: str, patterns: Sequence[str]
) -> tuple[list[Candidate], list[Kept]]:
    """The layers that ``method`` can replace, and those it cannot, each with the reason."""
    named = [entry for entry in shapes.layers if entry.layer.type in TYPES]
    _check_patterns(patterns, named, shapes)
    candidates, kept = [], []
    for entry in named:
        name = entry.layer.name
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            continue
        found = target(entry)
        chosen = found if isinstance(found, str) else choose(method, found.flat, found.spatial)
        if isinstance(chosen, str):
            kept.append(Kept(name, chosen))
            continue
        scheme, geometry = chosen
        candidates.append(_candidate(name, scheme, geometry, found, weights))
    return candidates, kept


def _alike(allocated: dict, shapes: NetShapes, explicit: bool) -> dict:
    """Layers that share their weights get what the first of them that gets ranks got.

    Raises RankError where a rule that names ranks gave them different ones.
    """
    owners: dict[str, list[str]] = {}
    for entry in shapes.layers:
        name, specs = entry.layer.name, entry.layer.specs
        if name in allocated and specs and specs[0].name:
            owners.setdefault(specs[0].name, []).append(name)
    for names in owners.values():
        chosen = [name for name in names if isinstance(allocated[name], Choice)]
        first = allocated[(chosen or names)[0]]
        if explicit and len({allocated[name].ranks for name in chosen}) > 1:
            raise RankError(
                f"layers {', '.join(chosen)} share their weights, so they need equal ranks; met "
                + ", ".join("x".join(map(str, allocated[name].ranks)) for name in chosen)
            )
        allocated.update(dict.fromkeys(names, first))
    return allocated


def _candidate(name, scheme, geometry, found: Target, weights: Caffemodel) -> Candidate:
    return Candidate(
        name,
        scheme,
        geometry,
        found.sizes_of(geometry),
        found.bias,
        lambda: found.kernel(weights.blobs(name)[0].array(), geometry),
    )


def _check_patterns(patterns: Sequence[str], named, shapes: NetShapes) -> None:
    names = [entry.layer.name for entry in named]
    for pattern in patterns:
        if fnmatch.filter(names, pattern) or pattern == "*":
            continue
        other = next((e.layer for e in shapes.layers if e.layer.name == pattern), None)
        if other is not None:
            raise PlanError(
                f"--layers '{pattern}': it is a {other.type} ({other.where()}); only "
                f"{' and '.join(TYPES)} layers are decomposed"
            )
        raise PlanError(f"--layers '{pattern}': no such layer; {suggest(pattern, names)}")


def _decide(candidate: Candidate, choice: Choice | Skip, growth: bool) -> LayerPlan | Kept:
    """Replace the layer, or keep it where the rule says so or it would need as many MACs."""
    if isinstance(choice, Skip):
        return Kept(candidate.name, choice.why)
    scheme, before, after = candidate.scheme.name, candidate.before, candidate.after(choice.ranks)
    if after.macs >= before.macs and not growth:
        ranks = "x".join(map(str, choice.ranks))
        times = f"{after.macs / max(before.macs, 1):.2f}"
        need = f"{times} times" if times != "1.00" else "no fewer than"
        return Kept(candidate.name, f"{scheme} at rank {ranks} would need {need} its MACs")
    return LayerPlan(candidate.name, scheme, choice.ranks, choice.why, before, after)
