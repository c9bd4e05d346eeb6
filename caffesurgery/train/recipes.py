"""Solvers for fine-tuning by recipe: the settings of the papers, for a net and its data.

A recipe speaks of epochs; together with the batch of the net's TRAIN data layer and the number of
images it becomes iterations.  Every setting carries its source.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Union

from ..errors import DataError, TrainError, UsageError, suggest
from ..files.text import quote
from ..net.net import Net

Value = Union[str, int, float, bool]
MODES = ("gpu", "cpu")
_LINES_AN_EPOCH = 50
_MOST_DISPLAY = 20


@dataclass(frozen=True)
class Recipe:
    """Settings of a paper; ``step`` is the epochs between divisions of the rate (0 for none).

    ``sources`` says where a setting is from, by the name of the solver's field.
    """

    name: str
    about: str
    base_lr: float
    epochs: float
    step: float
    sources: dict[str, str]
    gamma: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0005


_ZOO = "not in the paper; as all the nets of its model zoo were trained"

RECIPES = {
    "etri": Recipe(
        "etri",
        "CP and SVD with iterative fine-tuning, paper 000 (ETRI): of each step",
        base_lr=0.001,
        epochs=15,
        step=5,
        sources={
            "base_lr": "Table 3; AlexNet's layers but conv1 and conv2 take 0.002",
            "momentum": "Table 3",
            "weight_decay": "Table 3",
            "gamma": "Table 3: LR * 0.1",
            "stepsize": "Table 3: every 5 epochs",
            "max_iter": "Table 3: 15 epochs in each iteration",
        },
    ),
    "samsung": Recipe(
        "samsung",
        "Tucker-2 of the whole net at once, paper 001 (Samsung), section 3.3",
        base_lr=0.001,
        epochs=15,
        step=5,
        sources={
            "base_lr": "section 3.3: 10^-3",
            "momentum": _ZOO,
            "weight_decay": _ZOO,
            "gamma": "section 3.3: a factor of 10",
            "stepsize": "section 3.3: every 5 epochs",
            "max_iter": "section 3.3 asks for more than 10 epochs; 15 are three steps of the rate",
        },
    ),
    "two-pass": Recipe(
        "two-pass",
        "CP in two passes, paper 002: of each Optimize and each Fine-tune",
        base_lr=0.001,
        epochs=1,
        step=0,
        sources={
            "base_lr": "section 3.1: 10^-3; ResNet-50 takes 10^-5",
            "momentum": _ZOO,
            "weight_decay": _ZOO,
            "lr_policy": "section 2: fine-tuning 'with vanilla parameter setting'",
            "max_iter": "section 3.1: one epoch; up to 8 where accuracy still improves (Table 4)",
        },
    ),
}


@dataclass(frozen=True)
class Counts:
    """What turns epochs into iterations: of training and of tests; None where it is not known.

    ``batch`` images are one forward pass, ``iter_size`` of which are one update.
    """

    images: int
    batch: int
    iter_size: int = 1
    test_images: int | None = None
    test_batch: int | None = None

    @property
    def iterations(self) -> int:
        """Updates in one epoch, rounded up."""
        return math.ceil(self.images / (self.batch * self.iter_size))

    @property
    def test_iter(self) -> int | None:
        """Batches of one test, each test image at least once; None without tests."""
        if not self.test_images or not self.test_batch:
            return None
        return math.ceil(self.test_images / self.test_batch)


@dataclass(frozen=True)
class Setting:
    """One field of a solver, and where its value is from."""

    name: str
    value: Value
    source: str = ""


def recipe(name: str) -> Recipe:
    """The recipe of this name; UsageError with the known ones where there is none."""
    if name not in RECIPES:
        raise UsageError(f"unknown recipe '{name}'; {suggest(name, RECIPES)}")
    return RECIPES[name]


def counts(
    net: Net,
    images: int | None = None,
    batch: int | None = None,
    test_images: int | None = None,
) -> Counts:
    """Batches and numbers of images of a net's data layers, from its text and its data.

    Numbers that are given stand above the data's.  ``batch`` is that of an update: a multiple of
    the TRAIN layer's, reached by iter_size.  TrainError where a number cannot be known.
    """
    found, own = _feed(net, "TRAIN")
    tested, test_batch = _feed(net, "TEST")
    images = images or found
    place = net.doc.path or "the net"
    if own is None:
        raise TrainError(
            f"{place}: no data layer of its TRAIN phase says a batch; a solver is made for a net "
            "to be trained (train_val.prototxt)"
        )
    if not images:
        raise TrainError(
            f"{place}: how many images it trains on is not known, as its data are not here; say "
            "--images"
        )
    batch = batch or own
    if batch % own:
        raise TrainError(
            f"a batch of {batch} images is no multiple of the net's own, {own} ({place}): choose "
            "another, or change batch_size there"
        )
    return Counts(images, own, batch // own, test_images or tested, test_batch)


def _feed(net: Net, phase: str) -> tuple[int | None, int | None]:
    """Number of images and batch of the first data layer of a phase, each None if not known."""
    from ..data.layers import feeds_net, open_feed
    from ..net.layers import lookup

    layer = next((one for one in net.phase(phase) if feeds_net(one)), None)
    if layer is None:
        return None, None
    try:
        feed = open_feed(layer, phase)
        return feed.size, feed.batch
    except DataError:
        entry = lookup(layer.type)
        return None, entry.batch(layer) if entry is not None and hasattr(entry, "batch") else None


def settings(
    chosen: Recipe,
    numbers: Counts,
    net: str,
    prefix: str,
    epochs: float | None = None,
    base_lr: float | None = None,
    mode: str = "gpu",
) -> list[Setting]:
    """The fields of the solver, in their order; ``net`` and ``prefix`` are written as given."""
    if mode not in MODES:
        raise UsageError(f"unknown mode '{mode}'; {suggest(mode, MODES)}")
    given = {"base_lr": base_lr, "epochs": epochs}
    changed = {name: value for name, value in given.items() if value is not None}
    chosen = replace(
        chosen,
        **changed,
        sources={
            **chosen.sources,
            **({"base_lr": "as asked"} if base_lr is not None else {}),
            **({"max_iter": f"{epochs:g} epochs, as asked"} if epochs is not None else {}),
        },
    )
    if chosen.epochs <= 0 or chosen.base_lr <= 0:
        raise UsageError("epochs and the learning rate must be above 0")
    each = numbers.iterations
    of_images = f"{numbers.images:,} images, {numbers.batch * numbers.iter_size} at a time"
    rows = [Setting("net", net), *_tests(numbers)]
    rows += _rates(chosen, each)
    rows += [
        Setting("momentum", chosen.momentum),
        Setting("weight_decay", chosen.weight_decay),
        Setting("max_iter", max(1, math.ceil(chosen.epochs * each))),
    ]
    if numbers.iter_size > 1:
        rows.append(Setting("iter_size", numbers.iter_size, "batches of one update"))
    display = max(1, min(_MOST_DISPLAY, each // _LINES_AN_EPOCH))
    rows += [
        Setting("display", display),
        Setting("snapshot", each, f"every epoch: {of_images}"),
        Setting("snapshot_prefix", prefix),
        Setting("solver_mode", mode.upper()),
    ]
    sources = chosen.sources
    return [replace(row, source=sources.get(row.name, row.source)) for row in rows]


def _tests(numbers: Counts) -> list[Setting]:
    if numbers.test_iter is None:
        return []
    about = f"{numbers.test_images:,} test images, {numbers.test_batch} at a time"
    return [
        Setting("test_iter", numbers.test_iter, about),
        Setting("test_interval", numbers.iterations, "once an epoch"),
    ]


def _rates(chosen: Recipe, each: int) -> list[Setting]:
    base = Setting("base_lr", chosen.base_lr)
    if not chosen.step:
        return [base, Setting("lr_policy", "fixed")]
    return [
        base,
        Setting("lr_policy", "step"),
        Setting("gamma", chosen.gamma),
        Setting("stepsize", max(1, math.ceil(chosen.step * each))),
    ]


def solver_text(chosen: Recipe, rows: list[Setting]) -> str:
    """The prototxt of a solver, with the source of each setting as a comment behind it."""
    words = {"solver_mode"}
    lines = [f"# Recipe {chosen.name}: {chosen.about}."]
    for row in rows:
        value = row.value
        if isinstance(value, float):
            value = f"{value:.9g}"
        elif isinstance(value, str) and row.name not in words:
            value = quote(value)
        lines.append(f"{row.name}: {value}" + (f"  # {row.source}" if row.source else ""))
    return "\n".join(lines) + "\n"
