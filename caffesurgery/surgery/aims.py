"""What each decomposition of a plan is to reach: effort and bound, from the plan and its layers.

A layer's own words count before the plan's.  A bound is on the norms of CP components, so it says
nothing to a scheme without any: for a whole plan that is a note, for a single layer a mistake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..decompose import SCHEMES, Aim
from ..decompose.check import check_aim
from ..errors import DecomposeError, PlanError

if TYPE_CHECKING:
    from .plan import LayerPlan, Plan


def aim_of(layer: LayerPlan, plan: Plan) -> Aim:
    """The aim of one layer's decomposition."""
    bound = plan.max_norm if layer.max_norm is None else layer.max_norm
    return SCHEMES[layer.scheme].suited(Aim(layer.effort or plan.effort, bound))


def check_aims(plan: Plan) -> None:
    """PlanError for an effort or bound that does not exist, and for a bound that bounds nothing."""
    _check(Aim(plan.effort, plan.max_norm), plan.path or "the plan")
    for layer in plan.layers:
        where = f"{layer.where or plan.path or 'the plan'}: layer '{layer.name}'"
        _check(Aim(layer.effort or "normal", layer.max_norm), where)
        if layer.max_norm is not None and not SCHEMES[layer.scheme].takes_max_norm:
            raise PlanError(
                f"{where}: max_norm {layer.max_norm:g} bounds the norms of CP components, and "
                f"{layer.scheme} has none; delete it"
            )
    unbound = _without_components(plan)
    if plan.max_norm is not None and plan.layers and len(unbound) == len(plan.layers):
        raise PlanError(
            f"{plan.path or 'the plan'}: max_norm {plan.max_norm:g} bounds the norms of CP "
            f"components, and no planned layer has any ({', '.join(unbound[:5])}); leave it out or "
            "choose a CP method"
        )


def aim_notes(plan: Plan) -> tuple[str, ...]:
    """What a user should know of a bound: the layers that it does not concern."""
    unbound = _without_components(plan)
    if plan.max_norm is None or not unbound:
        return ()
    return (
        f"max_norm {plan.max_norm:g} bounds CP components; it does not concern "
        f"{', '.join(unbound)}",
    )


def _without_components(plan: Plan) -> list[str]:
    return [
        f"{layer.name} ({layer.scheme})"
        for layer in plan.layers
        if not SCHEMES[layer.scheme].takes_max_norm
    ]


def _check(aim: Aim, where: str) -> None:
    try:
        check_aim(aim)
    except DecomposeError as error:
        raise PlanError(f"{where}: {error}") from error
