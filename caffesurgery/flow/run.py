"""Carries out a flow: step after step, each written to the journal before the next begins.

A process that is stopped or killed leaves the journal and the folders of the steps that it names;
going on reads them, removes what is not named, and takes the same course to the same net.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from .. import api
from ..api.train import tick_text
from ..errors import FlowError, TrainError, some
from ..report import encode_json, net_cost
from ..surgery.plan import Plan, parse_plan
from ..train import job as trainers
from . import course, cutting, evaluation, journal, training
from .course import Next, Record
from .flow import Flow
from .journal import Journal
from .places import Places
from .report import final_layers, flow_report, within
from .steps import CUT, EVALUATE, RESTORE, TRAIN, Step, make_steps


def finetune(
    flow: Flow,
    folder=None,
    *,
    resume: bool = False,
    trainer: trainers.Trainer | None = None,
    progress: api.Progress | None = None,
    tell: Callable[[Step, Record, int], None] | None = None,
) -> dict:
    """Carry out a flow, or go on with it, and return its report.

    folder: for the outcome and everything on the way, by default the flow's own
    trainer: trains instead of the one that the flow names
    tell: called after each step with it, its record, and the number of steps
    Raises FlowError where the folder holds another flow, or this one and ``resume`` is not asked
    for; TrainError where a training ended badly.  What was done by then stays for ``resume``.
    """
    places = Places(flow, Path(folder or flow.output))
    places.names()
    begun = _open(flow, places.folder, resume)
    return _Run(places, begun, trainer, progress, tell).all()


def _open(flow: Flow, folder: Path, resume: bool) -> Journal:
    """The journal to go on with, or a new one."""
    found = journal.read(folder)
    if found is not None:
        if not resume:
            raise FlowError(
                f"{folder}: a flow was begun here; go on with it with --resume, or choose another "
                "folder with -o"
            )
        journal.check_same(found, flow, folder)
        return found
    if resume:
        raise FlowError(
            f"{folder / journal.NAME}: no such file, so no flow was begun here; leave --resume out"
        )
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FlowError(f"{folder}: is not empty; expected a new folder for the flow, or -o")
    return journal.begin(flow)


class _Run:
    """One process's work on a flow."""

    def __init__(self, places: Places, begun: Journal, trainer, progress, tell):
        self.places, self.flow, self.journal = places, places.flow, begun
        self.given, self.progress, self.tell = trainer, progress, tell
        self.start = places.load(course.START)
        self.planner = cutting.Planner(self.flow, self.start, progress)

    def all(self) -> dict:
        """Every step that is left, and the outcome."""
        try:
            plan = self._plan()
            steps = self._steps(plan)
            if (over := self._over(steps)) is not None:
                return over
            with self.places.alone():
                self._all(steps, plan)
                return self._deliver(steps, plan)
        except KeyboardInterrupt:
            raise self._interrupted() from None

    def _all(self, steps, plan: Plan) -> None:
        self._tidy(steps)
        while (now := course.following(steps, self.journal.records)) is not None:
            self._announce(steps, now)
            record = self._do(steps, now, plan)
            self._keep(self.journal.with_record(record))
            if self.tell:
                self.tell(steps[now.index], record, len(steps))
            self._tidy(steps)

    def _over(self, steps) -> dict | None:
        """The report of a flow that has come to its end before; None where something is left."""
        records, report = self.journal.records, self.places.folder / "report.json"
        if course.following(steps, records) is not None or not report.is_file():
            return None
        model = course.outcome(records)
        if model != course.START and self.places.steps(model).is_dir():
            return None
        return json.loads(report.read_text(encoding="utf-8"))

    def _require_trainer(self) -> None:
        """The trainer that the flow names, or the one that there is."""
        if self.given is None:
            wanted = self.flow.trainer
            options = {"caffe": wanted.caffe} if wanted.caffe else {}
            self.given = trainers.choose(wanted.name or None, **options)

    def _plan(self) -> Plan:
        """The first plan; as it may take long, only where somebody can train, and on something."""
        if not self.journal.plan:
            training.check_solvers(self.flow)
            if self.flow.trainer.name != "torch":
                self._require_trainer()
            if self.given is None or self.given.name != "caffe":  # it reads its data itself
                training.check_data(self.flow)
            self._require_trainer()
            made = self.planner.first()
            fitness = None
            if self.flow.order == "fitness":
                fitness = cutting.fitness_of(self.start, made, self.progress)
            self._keep(replace(self.journal, plan=made.dumps(), fitness=fitness))
        return parse_plan(self.journal.plan, str(self.places.folder / journal.NAME))

    def _steps(self, plan: Plan) -> tuple[Step, ...]:
        layers = cutting.layers_of(plan, self.start, self.journal.fitness)
        return make_steps(self.flow, layers)

    def _keep(self, changed: Journal) -> None:
        journal.write(changed, self.places.folder)
        self.journal = changed

    def _tidy(self, steps) -> None:
        records = self.journal.records
        needed = {course.outcome(records)}
        if (now := course.following(steps, records)) is not None:
            name = self.places.name(steps[now.index], now)
            needed |= {now.start, now.model, self.places.work(name).name}
        self.places.tidy(needed)

    def _announce(self, steps, now: Next) -> None:
        if self.progress:
            step = steps[now.index]
            what = f"{step.kind} {some(step.layers, 4)}".strip()
            self.progress("step", what, now.index / len(steps))

    def _do(self, steps, now: Next, plan: Plan) -> Record:
        """Do one step; its record, with what is decided after it."""
        step, begun = steps[now.index], time.monotonic()
        does: dict[str, Callable] = {
            EVALUATE: self._evaluate,
            CUT: self._cut,
            RESTORE: self._restore,
            TRAIN: self._train,
        }
        record = does[step.kind](steps, step, now, plan)
        cost = net_cost(self.places.load(record.model).shapes)
        record = replace(record, params=cost.params, macs=cost.macs)
        if step.last and step.layers and record.decision == course.ON:
            before = self.journal.records[0].metrics.get(self.flow.metric)
            metric = record.metrics.get(self.flow.metric)
            enough = bool(within(self.flow, net_cost(self.start.shapes), cost))
            judged = course.judge(self.flow, now.attempt, metric, before, enough)
            record = replace(record, decision=judged[0], why=judged[1])
        return replace(record, seconds=round(time.monotonic() - begun, 3))

    def _evaluate(self, steps, step: Step, now: Next, plan: Plan) -> Record:
        model = self.places.load(now.model)
        return now.record(metrics=evaluation.evaluate(self.flow, model, self.progress))

    def _cut(self, steps, step: Step, now: Next, plan: Plan) -> Record:
        model, name = self.places.load(now.model), self.places.name(step, now)
        wanted = self._planned(steps, step, now, plan, model)
        if not wanted.layers:
            why = "; ".join(f"{kept.name}: {kept.why}" for kept in wanted.kept[:5])
            return now.record(decision=course.DENSE, why=why or "the layers would need more MACs")
        folder = self.places.fresh(name)
        fitted, also = evaluation.calibrator(self.flow), self.places.nets(now.model)[1:]
        done = cutting.cut(model, wanted, also, folder, fitted, self.progress)
        return now.record(model=name, layers=tuple(done))

    def _planned(self, steps, step: Step, now: Next, plan: Plan, model: api.Model) -> Plan:
        """The plan of one cut, at the ranks of its time and try."""
        if step.again:
            mine = course.attempt_of(steps, self.journal.records, now)
            return cutting.as_planned(plan, _cut_of(mine), "as in the first pass")
        if self.flow.choose_ranks == "each_step":
            wanted = self.planner.again(plan, model, step.layers)
        else:
            wanted = cutting.only(plan, step.layers)
        return cutting.raised(wanted, model, self.flow.stop.factor**now.attempt)

    def _restore(self, steps, step: Step, now: Next, plan: Plan) -> Record:
        model, name = self.places.load(now.model), self.places.name(step, now)
        mine = course.attempt_of(steps, self.journal.records, now)
        undone = cutting.as_planned(plan, _cut_of(mine), "as in the first pass")
        also = self.places.nets(now.model)[1:]
        cutting.restore(model, undone, also, self.places.fresh(name), self.progress)
        return now.record(model=name)

    def _train(self, steps, step: Step, now: Next, plan: Plan) -> Record:
        self._require_trainer()
        name = self.places.name(step, now)
        ended = training.train(self.places, step, now, self.given, self._ticker(step))
        said = {"trainer": self.given.name, "iterations": ended.iteration, "loss": ended.loss}
        if ended.ending == "interrupted":
            raise self._interrupted()
        if ended.ending == "diverged":
            decided = course.diverged(self.flow, now.attempt, ended.message or "training diverged")
            if decided:
                shutil.rmtree(self.places.work(name), ignore_errors=True)
                return now.record(decision=decided[0], why=decided[1], training=said)
        if ended.ending != "done" or ended.weights is None:
            raise TrainError(self._failed(step, ended))
        self.places.keep_trained(name, now.model, ended.weights)
        return now.record(model=name, training=said)

    def _ticker(self, step: Step):
        if self.progress is None:
            return None

        def tick(now: trainers.Tick) -> None:
            share = now.iteration / max(now.max_iterations, 1)
            self.progress("train", tick_text(now), min(share, 1.0))

        return tick

    def _failed(self, step: Step, ended: trainers.Outcome) -> str:
        layers = f" of {some(step.layers, 4)}" if step.layers else ""
        advice = again = ""
        if ended.ending == "diverged":
            advice = (
                "; in the flow, a smaller base_lr, max_norm: 20, freeze: decomposed or stop { "
                "max_drop: 0.05 tries: 2 }, which takes higher ranks by itself, may help"
            )
        else:
            again = f"; once that is mended go on with {self._command()}"
        return (
            f"the training{layers} ended as '{ended.ending}' at iteration {ended.iteration}: "
            f"{ended.message or 'the trainer says no more'}{advice}; the last good net is "
            f"{self.places.weights(course.outcome(self.journal.records))}{again}"
        )

    def _interrupted(self) -> FlowError:
        return FlowError(f"interrupted; go on with {self._command()}")

    def _command(self) -> str:
        """What takes up this flow where it is."""
        flow = self.flow.path or "flow.prototxt"
        other = f" -o {self.places.folder}" if str(self.places.folder) != self.flow.output else ""
        return f"`caffesurgery finetune {flow}{other} --resume`"

    def _deliver(self, steps, plan: Plan) -> dict:
        """Write the outcome and the report."""
        records = self.journal.records
        model = course.outcome(records)
        final = self.places.load(model)
        done = final_layers(course.counted(steps, records)).values()
        carried_out = cutting.as_planned(plan, list(done), "as the flow has cut it")
        report = flow_report(self.flow, self.start, final, steps, records)
        report["files"] = sorted([*self.places.names(), "plan.prototxt", "report.json"])
        files = {
            "plan.prototxt": carried_out.dumps().encode("utf-8", "surrogateescape"),
            "report.json": encode_json(report),
        }
        self.places.deliver(model, files)
        self.places.tidy(set())
        return report


def _cut_of(records) -> tuple:
    """The layers that were cut first among the records."""
    return next(record.layers for record in records if record.layers)
