"""Sensitivity with training (000, section 2.5): what each layer costs when it alone is cut.

Each layer is decomposed at one small rank while the others stay as they are, the net is trained as
the flow says (the paper: one epoch), and what it has lost by then is the layer's sensitivity.  Each
layer is a flow of its own, with its own journal, so that what was interrupted goes on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from glob import escape
from pathlib import Path

from .. import api
from ..api.model import stage_of
from ..errors import FlowError
from ..files.atomic import refuse_existing, write_bytes
from ..report import encode_json
from ..surgery.candidates import find_candidates, sharing
from ..surgery.wishes import Wishes, parse_methods
from ..workers import open_workers, run_all
from . import journal
from .course import START
from .flow import Flow, Stop
from .places import Places
from .run import finetune

RANK = 10
"""The paper's for AlexNet; it takes 20 for GoogLeNet and VGG16."""


def sensitivity(
    flow: Flow,
    path,
    *,
    rank: int = RANK,
    jobs: int | None = 1,
    dask: str | None = None,
    force: bool = False,
    trainer=None,
    progress: api.Progress | None = None,
) -> dict[str, float]:
    """Measure every layer that the flow's method takes; losses by name, also written to ``path``.

    A loss is that of the flow's metric, as a share.  ``jobs`` layers at a time, or the workers of
    the Dask cluster at ``dask``, which must see the same files.  Works in the flow's folder.
    Raises FlowError where nothing is evaluated, and what ``finetune`` raises.
    """
    refuse_existing([path], force)
    flows = alone(flow, rank)
    folders = [
        str(Path(flow.output) / f"{index:02d}-{re.sub('[^-.0-9A-Za-z_]', '_', names[0])}")
        for index, (names, _) in enumerate(flows)
    ]
    items = [(each, folder) for (_, each), folder in zip(flows, folders)]
    tell = stage_of(progress, "layer")
    with open_workers(jobs, dask) as workers:
        found = run_all(workers, measured, trainer, items, progress=tell)
    losses = {name: loss for (names, _), loss in zip(flows, found) for name in names}
    write_bytes(path, encode_json(losses), force)
    return losses


def measured(trainer, item: tuple[Flow, str]) -> float:
    """What the net loses by the flow of one layer, which goes on if it was begun."""
    flow, folder = item
    report = finetune(flow, folder, resume=journal.read(folder) is not None, trainer=trainer)
    before, after = (report[key].get(flow.metric) for key in ("before", "after"))
    if before is None or after is None:
        raise FlowError(f"{flow.path or 'the flow'}: its nets have no {flow.metric} to lose")
    return round(max(before - after, 0.0), 12)


def alone(flow: Flow, rank: int) -> list[tuple[tuple[str, ...], Flow]]:
    """A flow for each layer, with the names of the layers that share its weights."""
    start = Places(flow, Path(flow.output)).load(START)
    wishes = Wishes(flow.keep, "", parse_methods(flow.method_for))
    candidates, _ = find_candidates(
        start.shapes, start.require_weights(), flow.method, flow.layers, wishes
    )
    if not candidates:
        raise FlowError(f"{flow.path or 'the flow'}: method {flow.method} finds no layer to cut")
    return [_one(flow, group, rank) for group in sharing(candidates, start.shapes)]


def _one(flow: Flow, group: Sequence, rank: int) -> tuple[tuple[str, ...], Flow]:
    names = tuple(each.name for each in group)
    first, most = group[0], group[0].max_ranks
    step = first.geometry.group
    small = "x".join(str(min(each, max(step, rank // step * step))) for each in most)
    return names, replace(
        flow,
        method=first.scheme.name,
        method_for=(),
        ranks=",".join(f"{name}={small}" for name in names),
        layers=tuple(map(escape, names)),
        keep=(),
        pin="",
        choose_ranks="once",
        allow_growth=True,
        scheme="one_shot",
        groups=(),
        order="in_order",
        finish=None,
        budget=(),
        stop=Stop(),
    )
