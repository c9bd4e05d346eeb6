"""The steps of a flow: from what is asked for and the layers of a plan, a list that can be printed.

Nothing is read, cut or trained here.  The schemes are those of papers 000 (iterative, one-shot and
hybrid: section 2.6 and Algorithm 2), 002 (two-pass: section 2.1.3) and 003.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import FlowError, suggest
from .flow import Flow, Training

EVALUATE, CUT, RESTORE, TRAIN = "evaluate", "cut", "restore", "train"


@dataclass(frozen=True)
class Layer:
    """What grouping needs to know of a layer that a plan decomposes.

    flat: fully connected; fitness: what its decomposition keeps, 0 to 1, where that is asked for
    shared: the name under which it shares its weights with others, or ""
    """

    name: str
    flat: bool = False
    fitness: float | None = None
    shared: str = ""


@dataclass(frozen=True)
class Step:
    """One thing to do.

    group: which group it belongs to, from 1; 0 is the beginning, and after the last group comes the
        training that finishes
    layers: the group's; moment: what has just happened to them, or what a training is for
    again: of a cut, that the ranks are those of the first pass
    freeze: what does not learn: none, decomposed (earlier groups), all (and this one), others
    last: whether the group ends here, and is judged
    """

    kind: str
    group: int
    layers: tuple[str, ...] = ()
    moment: str = ""
    again: bool = False
    training: Training | None = None
    freeze: str = "none"
    last: bool = False


def make_steps(flow: Flow, layers: Sequence[Layer]) -> tuple[Step, ...]:
    """Every step of the flow for these layers, which are in the order of the net.

    FlowError where a group names no layer, or the flow decomposes none.
    """
    steps = [Step(EVALUATE, 0, moment="before")]
    groups = _groups(flow, layers)
    for index, (names, training) in enumerate(groups, 1):
        made = _two_pass(flow, training) if flow.scheme == "two_pass" else _one_pass(flow, training)
        made = [replace(step, group=index, layers=names) for step in made]
        steps += [*made[:-1], replace(made[-1], last=True)]
    if flow.finish and not flow.finish.skipped:
        end = len(groups) + 1
        steps.append(Step(TRAIN, end, moment="finish", training=flow.finish))
        steps.append(Step(EVALUATE, end, moment="trained", last=True))
    return tuple(steps)


def _one_pass(flow: Flow, training: Training) -> list[Step]:
    freeze = flow.freeze
    return [*_cut(), *_train(training, freeze, "cut")]


def _two_pass(flow: Flow, training: Training) -> list[Step]:
    """Decompose, restore, optimise, decompose, fine-tune around it (002, figure 6)."""
    optimise = training if flow.optimise is None else flow.optimise
    frozen = "all" if flow.freeze == "decomposed" else flow.freeze
    return [
        *_cut(),
        Step(RESTORE, 0),
        *_train(optimise, flow.freeze, "restored"),
        *_cut(again=True),
        *_train(training, frozen, "cut"),
    ]


def _cut(again: bool = False) -> list[Step]:
    return [Step(CUT, 0, again=again), Step(EVALUATE, 0, moment="cut")]


def _train(training: Training, freeze: str, moment: str) -> list[Step]:
    if training.skipped:
        return []
    return [
        Step(TRAIN, 0, moment=moment, training=training, freeze=freeze),
        Step(EVALUATE, 0, moment="trained"),
    ]


def _groups(flow: Flow, layers: Sequence[Layer]) -> list[tuple[tuple[str, ...], Training]]:
    """Names of the layers of each group, and its training."""
    if not layers:
        raise FlowError(f"{flow.path or 'the flow'}: the plan decomposes no layer; nothing to do")
    units = _units(layers)
    if flow.scheme == "one_shot":
        return [(tuple(name for unit in units for name in _names(unit)), flow.train)]
    found, rest = _named(flow, units)
    if flow.order == "fitness":
        rest = sorted(rest, key=lambda unit: min(one.fitness for one in unit))
    flat = [unit for unit in rest if unit[0].flat] if flow.scheme == "hybrid" else []
    rest = [unit for unit in rest if unit not in flat]
    chunks = [rest[start : start + flow.every] for start in range(0, len(rest), flow.every)]
    if flat:
        chunks.append(flat)
    found += [(tuple(n for unit in chunk for n in _names(unit)), flow.train) for chunk in chunks]
    return found


def _named(flow: Flow, units: list[list[Layer]]):
    """The groups that the flow names, and the layers that are left."""
    found, rest = [], list(units)
    for group in flow.groups:
        mine = [
            unit
            for unit in rest
            if any(fnmatch.fnmatchcase(one.name, p) for one in unit for p in group.layers)
        ]
        rest = [unit for unit in rest if unit not in mine]
        if not mine:
            names = [one.name for unit in units for one in unit]
            raise FlowError(
                f"{group.where}: group '{','.join(group.layers)}' has no layer that the plan "
                f"decomposes and that no group before it has; {suggest(group.layers[0], names)}"
            )
        training = flow.train.with_changes(group.train)
        found.append((tuple(name for unit in mine for name in _names(unit)), training))
    return found, rest


def _units(layers: Sequence[Layer]) -> list[list[Layer]]:
    """The layers, those that share their weights together, since they are cut together."""
    units: dict[tuple[str, str], list[Layer]] = {}
    for layer in layers:
        key = ("shared", layer.shared) if layer.shared else ("own", layer.name)
        units.setdefault(key, []).append(layer)
    return list(units.values())


def _names(unit: Sequence[Layer]) -> list[str]:
    return [one.name for one in unit]
