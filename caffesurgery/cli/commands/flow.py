"""The command that cuts and trains, step after step: finetune."""

from __future__ import annotations

import click

from ...errors import some
from .. import options
from ..console import progress_bar, say, say_written, show
from .group import cli


@cli.command()
@click.argument("flow", required=False)
@click.option(
    "-o",
    "folder",
    type=options.NotEmpty(),
    metavar="DIR",
    help="Folder for the outcome and the journal; by default what the flow says.",
)
@click.option("--resume", is_flag=True, help="Go on with a flow that was stopped, or killed.")
@click.option("--dry-run", is_flag=True, help="Print the steps and what the nets cost, and end.")
@click.option(
    "--recipe",
    is_flag=False,
    flag_value="",
    metavar="[NAME]",
    help="Print a flow that ships, to be changed and used; without NAME list them.",
)
@click.option(
    "--sensitivity",
    "losses",
    type=options.NotEmpty(),
    metavar="JSON",
    help="Cut and train each layer alone instead, and write what that costs, for --ranks "
    "sensitivity.",
)
@click.option(
    "--rank", type=click.IntRange(min=1), help="Of each layer, for --sensitivity; by default 10."
)
@options.JOBS
@options.DASK
@options.FORMAT
def finetune(flow, folder, resume, dry_run, recipe, losses, rank, jobs, dask, form):
    """Cut and train a net, step after step.

    FLOW says which layers, when and how: `caffesurgery help finetune`.
    """
    from ...errors import UsageError

    if recipe is not None:
        _print_recipe(recipe, flow)
        return
    if flow is None:
        raise UsageError(
            "finetune needs a flow file; `caffesurgery finetune --recipe` lists some to begin with"
        )
    if dry_run and resume:
        raise UsageError("--dry-run and --resume do not go together; keep one of them")
    if losses is not None:
        _measure(flow, folder, losses, {"rank": rank, "jobs": jobs, "dask": dask}, form)
        return
    for name, value in (("rank", rank), ("jobs", jobs), ("dask", dask)):
        if value is not None:
            raise UsageError(f"--{name} says nothing without --sensitivity")
    _carry_out(flow, folder, resume, dry_run, form)


def _print_recipe(name: str, flow: str | None) -> None:
    from ...flow.shipped import recipe, recipes

    if name or flow:
        click.echo(recipe(name or flow), nl=False)
        return
    known = recipes()
    width = max(map(len, known))
    for each, about in known.items():
        click.echo(f"{each:<{width}}  {about}")


def _measure(path: str, folder: str | None, losses: str, given: dict, form: str) -> None:
    from dataclasses import replace

    from ...flow.read import read_flow
    from ...flow.sensitivity import sensitivity
    from ..tables import losses_table

    flow = read_flow(path)
    given = {name: value for name, value in given.items() if value is not None}
    with progress_bar() as progress:
        found = sensitivity(
            replace(flow, output=folder or flow.output), losses, progress=progress, **given
        )
    show(found, losses_table(found, flow.metric), form)
    say(f"wrote {losses}; take it with --ranks sensitivity:average=N,losses={losses}")


def _carry_out(path: str, folder: str | None, resume: bool, dry_run: bool, form: str) -> None:
    from dataclasses import replace

    from ...flow.preview import preview
    from ...flow.read import read_flow
    from ...flow.run import finetune as carry_out
    from ..tables import flow_table, steps_table

    flow = read_flow(path)
    if dry_run:
        with progress_bar() as progress:
            report = preview(replace(flow, output=folder or flow.output), progress)
        show(report, steps_table(report), form)
        return
    with progress_bar() as progress:
        report = carry_out(flow, folder, resume=resume, progress=progress, tell=_tell)
    show(report, flow_table(report), form)
    say_written(report["files"], folder or flow.output)


def _tell(step, record, steps: int) -> None:
    """One line on stderr for each step that is done."""
    what = [f"step {record.index + 1} of {steps}: {step.kind}", some(step.layers, 4)]
    what += [f"{name} {value:.4f}" for name, value in record.metrics.items()]
    what += [f"{key} {value}" for key, value in record.training.items() if key == "iterations"]
    if record.decision != "go on":
        what.append(f"{record.decision} ({record.why})" if record.why else record.decision)
    say("  ".join(part for part in what if part))
