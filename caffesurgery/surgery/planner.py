"""Makes a plan: from a net with weights, a method, a rank rule, layer patterns and wishes.

Every Convolution and InnerProduct that the pattern names is offered to the method; what the method
can replace is offered to the rule, unless it is pinned; what would then need more multiply-adds
than before is left alone, unless growth is allowed.  The plan says for each layer why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from ..decompose import Aim
from ..decompose.check import check_aim
from ..decompose.metric import Metric
from ..decompose.outputs import OutputMetric
from ..errors import DecomposeError, PlanError, UsageError
from ..files.caffemodel import Caffemodel
from ..net.net import Net
from ..net.shapes import NetShapes
from ..ranks import Candidate, Choice, Rule, RuleContext, Skip, parse_rule
from ..ranks.context import Measure, Progress, Ranks
from ..ranks.explicit import Explicit, best_match
from ..timing import Profile, load_profile
from . import auto
from .aims import check_aims
from .candidates import find_candidates, rest_ms_of, rest_of, sharing, spread, with_twins
from .made import sources
from .methods import AUTO, check_method
from .plan import Kept, LayerPlan, Plan
from .wishes import Wishes

Evaluate = Callable[[Sequence[Plan]], Sequence[float]]
"""Scores of the net as each of the plans would make it, higher is better: accuracies as shares.
A plan without layers is the net as it is."""


def make_plan(
    net: Net,
    shapes: NetShapes,
    weights: Caffemodel,
    method: str,
    ranks: str,
    layers: Sequence[str] = ("*",),
    seed: int = 0,
    growth: bool = False,
    progress: Progress | None = None,
    wishes: Wishes = Wishes(),  # noqa: B008  frozen
    evaluate: Evaluate | None = None,
    profile: Profile | None = None,
    aim: Aim = Aim(),  # noqa: B008  frozen
    freeze: bool = False,
    workers: Executor | None = None,
    metrics: Mapping[str, Metric | OutputMetric] | None = None,
) -> Plan:
    """Plan the decomposition of ``net``.

    ``method`` is a scheme or a policy ('cp', 'tucker2'), ``ranks`` a rule such as 'ratio=0.25',
    ``layers`` names or glob patterns, ``wishes`` what is wanted of single layers.  With ``growth``
    a layer may end with more multiply-adds.  ``evaluate`` measures for the rules that need data,
    ``profile`` predicts for budgets in milliseconds, ``aim`` is what decompositions are to reach;
    with ``freeze`` the new layers are not trained; ``workers`` decompose for the rules that ask.
    ``metrics``, by layer, is what images say of their inputs: rules that look at spectra and errors
    then look at those of the outputs.
    Raises PlanError or RankError for what does not exist or cannot be met.
    """
    rule = _asked_rule(method, ranks, seed, aim)
    candidates, kept = find_candidates(shapes, weights, method, layers, wishes, metrics)
    if not candidates:
        reasons = "; ".join(f"{k.name}: {k.why}" for k in kept[:5]) or "it has no such layers"
        raise PlanError(
            f"{net.doc.path or net.name}: method {method} finds no layer to decompose ({reasons})"
        )
    base = Plan(
        layers=(),
        net=net.name,
        method=method,
        rule=ranks,
        pattern=",".join(layers) if tuple(layers) != ("*",) else "",
        seed=seed,
        effort=aim.effort,
        max_norm=aim.max_norm,
        freeze=freeze,
        growth=growth,
        asked=(*wishes.texts(), *([("profile", profile.name)] if profile else [])),
    )
    context = RuleContext(growth, progress, seed, aim, workers=workers)
    problem = _Problem(shapes, candidates, context, base, evaluate, profile)
    decided = problem.decide(rule, method, weights, wishes)
    kept += [entry for entry in decided if isinstance(entry, Kept)]
    order = {entry.layer.name: k for k, entry in enumerate(shapes.layers)}
    made = replace(
        base,
        layers=tuple(entry for entry in decided if isinstance(entry, LayerPlan)),
        kept=tuple(sorted(kept, key=lambda entry: order[entry.name])),
        made_from=sources(net, weights, rule),
    )
    check_aims(made)
    return made


def _asked_rule(method: str, ranks: str, seed: int, aim: Aim) -> Rule:
    """The rule that ``ranks`` names; UsageError for what the options may not be."""
    check_method(method)
    if seed < 0:
        raise UsageError(f"seed {seed}: expected 0 or more")
    try:
        check_aim(aim)
    except DecomposeError as error:
        raise UsageError(str(error)) from error
    rule = parse_rule(ranks)
    return auto.told(rule) if method == AUTO else rule


def _without_wishes(
    candidates: Sequence[Candidate], wishes: Wishes, pins: Explicit | None
) -> list[Candidate]:
    """The candidates of whose scheme and ranks the user says nothing."""
    names, patterns = [each.name for each in candidates], pins.patterns() if pins else {}
    return [
        each
        for each in candidates
        if not wishes.method(each.name, names) and best_match(each.name, patterns) is None
    ]


@dataclass(frozen=True)
class _Problem:
    """What a rule is asked: the candidates, and all that it can be told around them."""

    shapes: NetShapes
    candidates: Sequence[Candidate]
    context: RuleContext
    base: Plan
    evaluate: Evaluate | None
    profile: Profile | None

    def decide(
        self, rule: Rule, method: str, weights: Caffemodel, wishes: Wishes
    ) -> list[LayerPlan | Kept]:
        """What becomes of each candidate, in their order."""
        pins = wishes.pins([each.name for each in self.candidates])
        allocated = self.allocate(rule, pins)
        chosen: dict[str, LayerPlan | Kept] = {}
        if method == AUTO:
            free = _without_wishes(self.candidates, wishes, pins)
            groups = [with_twins(group) for group in sharing(free, self.shapes)]
            profile = self.profile or load_profile()
            chooser = auto.Chooser(self.shapes, weights, profile, self.context)
            chosen = chooser.decide_all(groups, allocated)
        return [
            chosen.get(each.name) or _decide(each, allocated[each.name], self.context.growth)
            for each in self.candidates
        ]

    def allocate(self, rule: Rule, pins: Explicit | None) -> dict[str, Choice | Skip]:
        """What each candidate gets: by the pins, and by the rule where there are none."""
        groups = sharing(self.candidates, self.shapes)
        patterns = pins.patterns() if pins else {}
        held = [each for each in self.candidates if best_match(each.name, patterns) is not None]
        found = dict(pins.allocate(held, self.context)) if pins else {}
        free = [group for group in groups if not any(each.name in found for each in group)]
        if isinstance(rule, Explicit):  # it may name each of those that share their weights
            found.update(rule.allocate([each for group in free for each in group], self.context))
        elif free:
            fixed = [group for group in groups if group not in free]
            pinned = self._pinned(fixed, spread(found, fixed))
            candidates = [with_twins(group) for group in free]
            found.update(rule.allocate(candidates, self._context(candidates, pinned)))
        return spread(found, groups)

    def _pinned(self, groups, found: dict[str, Choice | Skip]) -> list[tuple[Candidate, Ranks]]:
        """The layers, with their twins, that are decomposed as they are pinned, and their ranks."""
        whole = [(with_twins(group), found[group[0].name]) for group in groups]
        return [
            (each, choice.ranks)
            for each, choice in whole
            if isinstance(_decide(each, choice, self.context.growth), LayerPlan)
        ]

    def _context(self, free, pinned: list[tuple[Candidate, Ranks]]) -> RuleContext:
        """The context with the pinned layers, and what does not change, as the rest of the net."""
        rest_ms = rest_ms_of(self.shapes, free, pinned, self.profile) if self.profile else 0.0
        return replace(
            self.context,
            rest=rest_of(self.shapes, free, pinned),
            profile=self.profile,
            rest_ms=rest_ms,
            images=self.shapes.images,
            measure=self._measure(free, pinned) if self.evaluate else None,
        )

    def _measure(self, free, pinned: list[tuple[Candidate, Ranks]]) -> Measure:
        """Scores cases of ranks as plans; pinned layers are part of each of them."""
        by_name = {each.name: each for each in free}

        def plan(case) -> Plan:
            cut = [*pinned, *((by_name[name], ranks) for name, ranks in case.items())]
            return replace(self.base, layers=tuple(_plans(cut)))

        return lambda cases: self.evaluate([plan(case) for case in cases])


def _plans(cut: Iterable[tuple[Candidate, Ranks]]) -> Iterator[LayerPlan]:
    """The plans of layers and their twins at ranks."""
    for each, ranks in cut:
        for name in (each.name, *(name for name, _ in each.twins)):
            yield LayerPlan(name, each.scheme.name, ranks)


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
    measured = tuple(choice.measured.items())
    return LayerPlan(
        candidate.name, scheme, choice.ranks, choice.why, before, after, measured=measured
    )
