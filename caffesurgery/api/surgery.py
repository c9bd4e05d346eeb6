"""What cuts and puts together again: ``plan``, ``apply``, ``restore``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import PlanError
from ..net.net import read_net
from ..timing import DEFAULT, Profile, load_profile
from ..workers import open_workers
from .evaluate import plan_evaluator, plan_workers
from .model import Model, Progress, stage_of

if TYPE_CHECKING:  # surgery brings SciPy, which looking at a net does not need
    from ..decompose.metric import Metric
    from ..decompose.outputs import OutputMetric
    from ..surgery.apply import Operated
    from ..surgery.explain import Explained
    from ..surgery.plan import Plan
    from ..surgery.restore import Chain


@dataclass(frozen=True)
class Result:
    """What ``apply`` and ``restore`` return, and ``save`` writes: the old model and the outcome.

    ``plan`` is what ``apply`` carried out, ``chains`` what ``restore`` undid.
    """

    model: Model
    operated: Operated
    plan: Plan | None = None
    chains: tuple[Chain, ...] = ()


def plan(
    model: Model,
    method: str = "cp",
    ranks: str = "ratio=0.5",
    layers: str | Sequence[str] = "*",
    *,
    seed: int = 0,
    allow_growth: bool = False,
    effort: str = "normal",
    max_norm: float | None = None,
    freeze: bool = False,
    keep: str | Sequence[str] = (),
    pin: str = "",
    method_for: Mapping[str, str] | None = None,
    profile: str | Profile | None = None,
    evaluate=None,
    jobs: int | None = None,
    dask: str | None = None,
    may_be_empty: bool = False,
    metrics: Mapping[str, Metric | OutputMetric] | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Choose what to decompose, and at which ranks.

    method: a scheme ('cp3', 'tucker2', 'svd' ...) or a policy ('cp', 'tucker2')
    ranks: a rule ('ratio=0.25', 'energy=0.9', 'error=0.3') or explicit ranks 'conv2=154,fc6=365'
    layers: a name, a glob pattern, several with commas, or a list of them
    allow_growth: do not leave alone the layers that would need more multiply-adds than before
    effort: 'normal', or 'high' for a little less error in about twice the time
    max_norm: bound on the sum of the norms of CP components over the norm of the kernel
    freeze: the new layers get learning rates of 0
    keep: names or patterns of layers to leave as they are; 'first' and 'last' are those of the net
    pin: ranks that no rule changes, as explicit ones: 'conv2=100,fc*=max'
    method_for: another method for some layers, by name or pattern, of which the first that matches
        counts: {'fc*': 'svd'}
    profile: of the machine, for method 'auto' and for budgets in ms: a Profile, the path of one, or
        the name of a shipped one, by default Caffe's
    evaluate: for rules that measure, an Evaluator, or a function from a model to its score
    jobs, dask: worker processes for rules that decompose, by default one for each processor, or the
        address of a Dask scheduler; an Evaluator brings its own
    metrics: by layer, what images say of its inputs, which rules then go by
    Returns a Plan, whose ``dumps()`` is the text of a plan file; PlanError when no layer is left to
    decompose, unless the plan ``may_be_empty``.
    """
    from ..decompose import Aim
    from ..surgery.planner import make_plan
    from ..surgery.wishes import Wishes

    scores = plan_evaluator(model, evaluate, progress)
    with plan_workers(evaluate, jobs, dask) as workers:
        made = make_plan(
            model.net,
            model.shapes,
            model.require_weights(),
            method,
            ranks,
            _patterns(layers),
            seed,
            allow_growth,
            stage_of(progress, "plan"),
            aim=Aim(effort, max_norm),
            freeze=freeze,
            wishes=Wishes(tuple(_patterns(keep)), pin, tuple((method_for or {}).items())),
            profile=_profile(profile, method, ranks),
            evaluate=scores,
            workers=workers,
            metrics=metrics,
        )
    measured_on = getattr(scores, "made_from", tuple)()  # a user's own function says nothing
    made = replace(made, made_from=(*made.made_from, *measured_on))
    if not may_be_empty:
        _require_layers(made)
    return made


def explain(model: Model, plan: Plan, *, progress: Progress | None = None) -> tuple[Explained, ...]:
    """For each layer of a plan, what its ranks and the next ones cost, and lose at least."""
    from ..surgery.explain import explain as explain_plan

    weights = model.require_weights()
    return explain_plan(model.shapes, weights, plan, stage_of(progress, "explain"))


def _profile(profile: str | Profile | None, method: str, ranks: str) -> Profile | None:
    """The profile to predict with, where one is asked for or needed."""
    if isinstance(profile, Profile) or (
        profile is None and method != "auto" and "ms=" not in ranks
    ):
        return profile
    return load_profile(profile or DEFAULT)


def read_plan(path) -> Plan:
    """Read a plan file; PlanError or ParseError names the line of what is wrong."""
    from ..surgery.plan import read_plan as read

    return read(path)


def apply(
    model: Model,
    plan: Plan,
    also: Sequence = (),
    *,
    jobs: int | None = None,
    dask: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Carry out a plan on a model, and on the prototxts in ``also`` that describe the same net.

    Decomposes the weights, rewrites every prototxt, and proves that Caffe will load the outcome in
    the TRAIN and TEST phase of each.  Writes nothing: see ``save``.  ``jobs`` layers are decomposed
    at a time, by default one for each processor; that is fastest with OPENBLAS_NUM_THREADS=1 in the
    environment, as the command line sets it.  ``dask`` is the address of a Dask scheduler whose
    workers decompose instead.
    """
    from ..surgery.apply import apply_plan
    from ..surgery.describe import describe_all
    from ..surgery.prove import prove

    weights = model.require_weights()
    others = [read_net(path) for path in also]
    described = describe_all(model.net, model.shapes, model.inputs, others)
    with open_workers(jobs, dask) if dask else nullcontext() as workers:
        operated = apply_plan(
            model.net,
            model.shapes,
            weights,
            plan,
            described,
            jobs,
            stage_of(progress, "decompose"),
            workers,
        )
    notes = operated.notes + prove(described, weights, operated)
    return Result(model, _with_notes(operated, notes), plan)


def restore(
    model: Model,
    plan: Plan | None = None,
    layers: str | Sequence[str] = "*",
    also: Sequence = (),
    *,
    progress: Progress | None = None,
) -> Result:
    """Turn decomposed layers of a model back into the dense layers that they stand for.

    plan: restores only the layers that it names, which must be decomposed as it says
    layers: names or glob patterns of the layers as they were called before
    also: other prototxts of the same net, rewritten the same way
    PlanError when there is nothing to restore, or not what the plan says.
    """
    from ..surgery.describe import describe_all
    from ..surgery.prove import prove
    from ..surgery.restore import Wanted, restore_net

    weights = model.require_weights()
    others = [read_net(path) for path in also]
    described = describe_all(model.net, model.shapes, model.inputs, others)
    wanted = Wanted(plan, tuple(_patterns(layers)))
    operated, chains = restore_net(
        described, model.shapes, weights, wanted, stage_of(progress, "restore")
    )
    notes = operated.notes + prove(described, weights, operated)
    return Result(model, _with_notes(operated, notes), None, chains)


def _patterns(layers: str | Sequence[str]) -> list[str]:
    listed = layers.split(",") if isinstance(layers, str) else layers
    return [pattern.strip() for pattern in listed]


def _require_layers(made: Plan) -> None:
    if not made.layers:
        reasons = "\n".join(f"  {kept.name}: {kept.why}" for kept in made.kept[:10])
        raise PlanError(
            f"{made.method} at {made.rule} replaces no layer of {made.net or 'the net'}:\n"
            f"{reasons}\ntry another method, smaller ranks, or --allow-growth"
        )


def _with_notes(operated: Operated, notes: tuple[str, ...]) -> Operated:
    return replace(operated, notes=tuple(dict.fromkeys(notes)))
