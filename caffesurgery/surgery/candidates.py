"""The layers of a net that a method can replace, as the rank rules see them.

Layers that share their weights stand for each other: a rule that counts costs sees one of them,
with the others as its twins, and what it gets they all get.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..cost import Cost
from ..decompose.metric import Metric
from ..decompose.outputs import OutputMetric, suits
from ..errors import PlanError, RankError, suggest
from ..files.caffemodel import Caffemodel
from ..net.shapes import NetShapes
from ..ranks import Candidate, Choice, Skip
from ..ranks.context import Ranks
from ..timing import Profile, predict
from .methods import AUTO, choose
from .plan import Kept
from .target import TYPES, Target, target
from .wishes import Wishes


def find_candidates(
    shapes: NetShapes,
    weights: Caffemodel,
    method: str,
    patterns: Sequence[str],
    wishes: Wishes = Wishes(),  # noqa: B008  frozen
    metrics: Mapping[str, Metric | OutputMetric] | None = None,
) -> tuple[list[Candidate], list[Kept]]:
    """The layers that ``method`` can replace, and those it cannot, each with the reason.

    ``metrics``, by layer, is what images say of the inputs of those that it has.
    """
    named = [entry for entry in shapes.layers if entry.layer.type in TYPES]
    names = [entry.layer.name for entry in named]
    _check_patterns(patterns, names, shapes)
    wishes.check(names)
    candidates, kept = [], []
    for entry in named:
        name = entry.layer.name
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            continue
        keeper = wishes.keeper(name, names)
        if keeper:
            kept.append(Kept(name, f"--keep {keeper}"))
            continue
        found = target(entry)
        wanted = wishes.method(name, names) or method
        chosen = found if isinstance(found, str) else choose(wanted, found.flat, found.spatial)
        if isinstance(chosen, str):
            kept.append(Kept(name, chosen))
            continue
        candidate = _candidate(name, *chosen, found, weights)
        candidates.append(_with_metric(candidate, (metrics or {}).get(name), method))
    return candidates, kept


def _with_metric(
    candidate: Candidate, metric: Metric | OutputMetric | None, method: str
) -> Candidate:
    """The candidate with what images say of it, where that is of use for its chain; where chains of
    all kinds are compared, what outputs say is not."""
    if isinstance(metric, OutputMetric):
        parts = candidate.scheme.parts(candidate.geometry, candidate.scaled(0, 1))
        if method == AUTO or not suits(metric, parts):
            metric = None
    return replace(candidate, metric=metric)


def _candidate(name, scheme, geometry, found: Target, weights: Caffemodel) -> Candidate:
    return Candidate(
        name,
        scheme,
        geometry,
        found.sizes_of(geometry),
        found.bias,
        lambda: found.kernel(weights.blobs(name)[0].array(), geometry),
    )


def _check_patterns(patterns: Sequence[str], names: Sequence[str], shapes: NetShapes) -> None:
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


def sharing(candidates: Sequence[Candidate], shapes: NetShapes) -> list[list[Candidate]]:
    """The candidates, those that share their weights together, in the order of the net.

    Raises PlanError where they were given different methods.
    """
    names = {
        entry.layer.name: entry.layer.specs[0].name
        for entry in shapes.layers
        if entry.layer.specs and entry.layer.specs[0].name
    }
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in candidates:
        shared = names.get(candidate.name)
        key = ("shared", shared) if shared else ("own", candidate.name)
        groups.setdefault(key, []).append(candidate)
    for group in groups.values():
        if len({each.scheme.name for each in group}) > 1:
            raise PlanError(
                f"layers {', '.join(each.name for each in group)} share their weights, so they "
                f"need one method; met {', '.join(each.scheme.name for each in group)}"
            )
    return list(groups.values())


def with_twins(group: Sequence[Candidate]) -> Candidate:
    """The first of the candidates that share their weights, the others as its twins."""
    first, *others = group
    return replace(first, twins=tuple((other.name, other.sizes) for other in others))


def rest_of(
    shapes: NetShapes, free: Sequence[Candidate], pinned: Sequence[tuple[Candidate, Ranks]]
) -> Cost:
    """Cost, for one image, of all that a rule does not decide.

    That is the net as it is, with the ``pinned`` layers at their ranks, without those of ``free``.
    """
    saved = [(each.before, each.after(ranks)) for each, ranks in pinned]
    return Cost(
        shapes.parameters
        - sum(each.before.params for each in free)
        - sum(before.params - after.params for before, after in saved),
        shapes.macs // shapes.images
        - sum(each.before.macs for each in free)
        - sum(before.macs - after.macs for before, after in saved),
    )


def rest_ms_of(
    shapes: NetShapes,
    free: Sequence[Candidate],
    pinned: Sequence[tuple[Candidate, Ranks]],
    profile: Profile,
) -> float:
    """The same in milliseconds that ``profile`` predicts, for the batch that the net takes."""
    images = shapes.images
    total = sum(layer.ms or 0.0 for layer in predict(shapes, profile))
    total -= sum(each.milliseconds(None, profile, images) for each in free)
    for each, ranks in pinned:
        total += each.milliseconds(ranks, profile, images)
        total -= each.milliseconds(None, profile, images)
    return total


def spread(
    allocated: Mapping[str, Choice | Skip], groups: Sequence[Sequence[Candidate]]
) -> dict[str, Choice | Skip]:
    """What each candidate gets: layers that share their weights what the first with ranks got.

    Raises RankError where a rule that names ranks gave them different ones.
    """
    found: dict[str, Choice | Skip] = {}
    for group in groups:
        given = {one.name: allocated[one.name] for one in group if one.name in allocated}
        chosen = {name: each for name, each in given.items() if isinstance(each, Choice)}
        if len({choice.ranks for choice in chosen.values()}) > 1:
            raise RankError(
                f"layers {', '.join(chosen)} share their weights, so they need equal ranks; met "
                + ", ".join("x".join(map(str, choice.ranks)) for choice in chosen.values())
            )
        first = next(iter((chosen or given).values()))
        found.update((one.name, first) for one in group)
    return found
