"""Method ``auto``: for each layer the scheme that a machine's profile predicts to be fastest.

The candidates are the layer as it is and every scheme that takes it, each at the smallest ranks
with the same relative error; a layer is replaced only where that saves time.  Error comes from the
rank rule: ``error=0.3`` names it, of any other rule it is what the policy ``cp`` reaches.  Schemes
whose ranks are a search are searched only where they could still win: no chain is shorter than the
ranks of the kernel's unfoldings make it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..decompose import SCHEMES
from ..files.caffemodel import Caffemodel
from ..net.shapes import NetShapes
from ..ranks import Candidate, Choice, Rule, RuleContext, Skip
from ..ranks.error import Error
from ..timing import Profile
from .methods import fit
from .plan import Kept, LayerPlan
from .target import Target, target

KNOWN_AT_ONCE = ("cp2", "svd", "channel", "spatial")
"""Schemes whose ranks for an error are read off one spectrum."""
SEARCHED = ("tucker2", "cp3", "cp4")


class SameError(Rule):
    """Stands in for ``error=``: every layer gets that error, its ranks are found per scheme."""

    def allocate(self, candidates, context):
        error = self.argument
        return {each.name: Choice((), f"error={error:g}", {"error": error}) for each in candidates}


def told(rule: Rule) -> Rule:
    """The rule that the planner is to ask for ``auto``."""
    return SameError(rule.text, rule.argument) if isinstance(rule, Error) else rule


@dataclass(frozen=True)
class Option:
    """A scheme at the ranks for an error, and its predicted time; without ranks a lower bound."""

    method: str
    ms: float
    candidate: Candidate
    ranks: tuple[int, ...] | None

    def words(self) -> str:
        """As it stands among the runners-up."""
        ranks = " " + "x".join(map(str, self.ranks)) if self.ranks else ""
        return f"{self.method}{ranks} {'' if self.ranks else 'over '}{self.ms:.3g} ms"


@dataclass(frozen=True)
class Chooser:
    """Picks schemes for the layers of one net by predicted time."""

    shapes: NetShapes
    weights: Caffemodel
    profile: Profile
    context: RuleContext

    def decide_all(
        self, bases: Sequence[Candidate], choices: Mapping[str, Choice | Skip]
    ) -> dict[str, LayerPlan | Kept]:
        """What becomes of layers and their twins, by name; the rule chose ranks for ``bases``."""
        found = {}
        for index, base in enumerate(bases):
            self.context.tell(base.name, index / len(bases))
            found.update((one.name, one) for one in self.decide(base, choices[base.name]))
        return found

    def decide(self, base: Candidate, choice: Choice | Skip) -> list[LayerPlan | Kept]:
        """What becomes of one layer, and of its twins."""
        names = [base.name, *(name for name, _ in base.twins)]
        if isinstance(choice, Skip):
            return [Kept(name, choice.why) for name in names]
        error, reason = choice.measured.get("error"), choice.why
        if error is None:
            how = self._how(base)
            group = base.geometry.group
            error = base.scheme.error_for_rank(base.seen(), group, choice.ranks, **how)
            reason = f"{choice.why}, which {base.scheme.name} keeps to error {error:.3g}"
        dense = base.milliseconds(None, self.profile, self.shapes.images)
        options = sorted(self._options(base, error, dense), key=lambda one: one.ms)
        others = ", ".join(one.words() for one in options[1:])
        before = f"{dense:.3g} ms as it is"
        best = options[0] if options else None
        if best is None or best.ms >= dense:
            fastest = f"; fastest: {', '.join(one.words() for one in options)}" if best else ""
            why = f"{reason}: no scheme is faster, {before}{fastest}"
            return [Kept(name, why) for name in names]
        why = f"{reason}: {before}, now {best.ms:.3g}" + (f"; then {others}" if others else "")
        sizes = [(base.name, best.candidate.sizes), *best.candidate.twins]
        alone = [(name, replace(best.candidate, sizes=its, twins=())) for name, its in sizes]
        return [
            LayerPlan(name, best.method, best.ranks, why, each.before, each.after(best.ranks))
            for name, each in alone
        ]

    def _options(self, base: Candidate, error: float, dense: float) -> Iterator[Option]:
        """Every scheme that takes the layer: found ranks, or a bound that rules it out."""
        seen, best, chains = self._target(base.name), dense, set()
        for method in KNOWN_AT_ONCE:
            each = self._candidate(base, seen, method)
            found = self._at_error(each, error) if each else None
            chain = found and _shape(found.candidate, found.ranks)
            if found and chain not in chains:
                chains.add(chain)
                best = min(best, found.ms)
                yield found
        bounds = self._unfoldings(base, seen, error)
        searched = [self._bounded(base, seen, method, bounds) for method in SEARCHED]
        for lower in sorted(filter(None, searched), key=lambda one: one.ms):
            if lower.ms >= best:
                yield replace(lower, ranks=None)
                continue
            found = self._at_error(lower.candidate, error, best)
            best = min(best, found.ms)
            yield found

    def _at_error(self, each: Candidate, error: float, best: float | None = None) -> Option:
        """The smallest ranks with the error, not looked for where they are slower than ``best``."""
        group, limit = each.geometry.group, None
        if best is not None and len(each.max_ranks) == 1:
            limit = self._first_slower(each, best)
        ranks = each.scheme.ranks_for_error(each.seen(), group, error, limit, **self._how(each))
        ms = self._ms(each, ranks)
        slower = limit is not None and ranks[0] >= limit
        return Option(each.scheme.name, ms, each, None if slower and ms >= best else ranks)

    def _first_slower(self, each: Candidate, ms: float) -> int:
        """The smallest rank that takes ``ms`` or more; the largest possible where none does."""
        group, low, high = each.geometry.group, 1, each.max_ranks[0] // each.geometry.group
        while low < high:
            middle = (low + high) // 2
            slower = self._ms(each, (middle * group,)) >= ms
            low, high = (low, middle) if slower else (middle + 1, high)
        return low * group

    def _unfoldings(self, base: Candidate, seen: Target, error: float) -> dict[str, int]:
        """Ranks (totals) of the channel unfoldings for the error: no chain gets by with less."""
        found = {}
        for side, method in (("in", "tucker1-in"), ("out", "tucker1-out")):
            each = self._candidate(base, seen, method)
            found[side] = self._at_error(each, error).ranks[0] if each else base.geometry.group
        return found

    def _bounded(self, base, seen: Target, method: str, bounds: dict[str, int]) -> Option | None:
        """A scheme at ranks that are surely not enough: its time is a lower bound."""
        each = self._candidate(base, seen, method)
        if each is None:
            return None
        both = bounds["in"], bounds["out"]
        wanted = both if len(each.max_ranks) == 2 else (max(both),)
        ranks = tuple(min(rank, most) for rank, most in zip(wanted, each.max_ranks))
        return Option(method, self._ms(each, ranks), each, ranks)

    def _ms(self, each: Candidate, ranks: tuple[int, ...]) -> float:
        return each.milliseconds(ranks, self.profile, self.shapes.images)

    def _how(self, each: Candidate) -> dict:
        aim = each.scheme.suited(self.context.aim)
        return {"seed": self.context.seed, "effort": aim.effort, "max_norm": aim.max_norm}

    def _target(self, name: str) -> Target:
        return target(self.shapes.layer(name))

    def _candidate(self, base: Candidate, seen: Target, method: str) -> Candidate | None:
        """The layer as a candidate of another scheme; None where that does not take it."""
        geometry = fit(SCHEMES[method], seen.flat, seen.spatial)
        if isinstance(geometry, str):
            return None
        blob = self.weights.blobs(base.name)[0]
        twins = tuple((n, self._target(n).sizes_of(geometry)) for n, _ in base.twins)
        return Candidate(
            base.name,
            SCHEMES[method],
            geometry,
            seen.sizes_of(geometry),
            seen.bias,
            lambda: seen.kernel(blob.array(), geometry),
            twins,
            base.metric,
        )


def _shape(each: Candidate, ranks: Sequence[int]) -> tuple:
    """What a chain is but for its layers' names: two schemes may come to the same."""
    return tuple(replace(part, suffix="") for part in each.scheme.parts(each.geometry, ranks))
