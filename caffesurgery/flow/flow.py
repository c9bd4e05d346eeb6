"""The Flow: what is cut, when it is trained and what is done when that goes wrong; a value.

Its file form is the text format of ``proto/flow.proto``, whose comments say what each field means;
``read`` makes the value of it.  Paths are as they were found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Training:
    """How long, and by which solver.

    solver: path of a solver file, or "" with a ``recipe``
    epochs, iterations: None for what the solver says
    """

    solver: str = ""
    recipe: str = ""
    epochs: float | None = None
    iterations: int | None = None
    base_lr: float | None = None
    batch: int | None = None
    images: int | None = None
    snapshot: int | None = None

    @property
    def skipped(self) -> bool:
        """Whether the flow asks for no training here."""
        return self.epochs == 0 or self.iterations == 0

    def with_changes(self, other: Training | None) -> Training:
        """This training with what ``other`` says in its place."""
        if other is None:
            return self
        changes = {name: value for name, value in vars(other).items() if value not in ("", None)}
        made = self
        if other.solver or other.recipe:
            made = replace(made, solver="", recipe="")
        if other.epochs is not None or other.iterations is not None:
            made = replace(made, epochs=None, iterations=None)
        return replace(made, **changes)


@dataclass(frozen=True)
class GroupOf:
    """Layers that are cut together, by names or patterns, and what is their own."""

    layers: tuple[str, ...]
    train: Training | None = None
    where: str = ""


@dataclass(frozen=True)
class Source:
    """A file in the place of what a data layer reads; ``layer`` "" and ``phase`` "" mean any."""

    path: str
    layer: str = ""
    phase: str = ""


@dataclass(frozen=True)
class TrainerChoice:
    """Who trains, and on what."""

    name: str = ""
    caffe: str = ""
    gpus: tuple[int, ...] = ()
    processes: int = 1
    mixed: bool = False


@dataclass(frozen=True)
class Images:
    """Labelled images; without any the net's own TEST data layer counts."""

    images: str = ""
    labels: str = ""
    metric: str = "top1"
    samples: int | None = None
    blob: str = ""
    transform: str = ""
    mean: str = ""
    scale: float | None = None
    bgr: bool = False
    crop: bool = False


@dataclass(frozen=True)
class Stop:
    """When a group has cost too much: ``floor``, or ``max_drop`` below the beginning, in shares."""

    floor: float | None = None
    max_drop: float | None = None
    tries: int = 0
    factor: float = 1.25
    otherwise: str = "leave_dense"

    def least(self, before: float | None) -> float | None:
        """The least that the metric may be, when it began with ``before``; None: anything."""
        if self.max_drop is not None and before is not None:
            return before - self.max_drop
        return self.floor


@dataclass(frozen=True)
class Flow:
    """Everything that a flow file says, with defaults in place; see ``proto/flow.proto``.

    ``said`` is the file's content as JSON, by which two flows are told apart.
    """

    train_val: str
    weights: str
    method: str
    ranks: str
    train: Training
    deploy: str = ""
    inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()
    data: tuple[Source, ...] = ()
    choose_ranks: str = "once"
    layers: tuple[str, ...] = ("*",)
    keep: tuple[str, ...] = ()
    pin: str = ""
    method_for: tuple[str, ...] = ()
    high_effort: bool = False
    max_norm: float | None = None
    allow_growth: bool = False
    profile: str = ""
    measure: Images | None = None
    calibrate: Images | None = None
    scheme: str = "iterative"
    every: int = 1
    order: str = "in_order"
    groups: tuple[GroupOf, ...] = ()
    freeze: str = "none"
    budget: tuple[tuple[str, float], ...] = ()
    optimise: Training | None = None
    finish: Training | None = None
    trainer: TrainerChoice = TrainerChoice()
    evaluate: Images | None = None
    stop: Stop = Stop()
    seed: int = 0
    output: str = ""
    keep_steps: bool = False
    path: str = ""
    said: str = "{}"

    @property
    def nets(self) -> tuple[str, ...]:
        """The prototxts, that of the model first."""
        return (self.deploy, self.train_val) if self.deploy else (self.train_val,)

    @property
    def metric(self) -> str:
        """What groups are judged by."""
        return self.evaluate.metric if self.evaluate else "top1"

    def files(self) -> dict[str, str]:
        """Path of every file that the flow names, by what it is to the flow.

        What data layers name in the nets themselves is not among them.
        """
        found = {name: getattr(self, name) for name in ("train_val", "deploy", "weights")}
        trainings = {"train": self.train, "optimise": self.optimise, "finish": self.finish}
        trainings.update((f"group {k}", one.train) for k, one in enumerate(self.groups, 1))
        found.update((f"solver of {name}", one.solver) for name, one in trainings.items() if one)
        for name in ("evaluate", "measure", "calibrate"):
            if images := getattr(self, name):
                found[f"images of {name}"] = images.images
                found[f"labels of {name}"] = images.labels
        found.update((f"data {k}", one.path) for k, one in enumerate(self.data, 1))
        return {name: path for name, path in found.items() if path}
