"""The commands that choose ranks: ranks shows them with their reasons, plan writes them down."""

from __future__ import annotations

import click

from .. import options
from ..console import print_table, progress_bar, say, show
from .group import cli


def _choosing(command):
    """What both commands take behind the net, its weights, the method and the rule."""
    for option in reversed(
        (
            options.LAYERS,
            options.wishes,
            options.measuring,
            options.JOBS,
            options.SEED,
            options.GROWTH,
            options.EFFORT,
            options.MAX_NORM,
            options.PLAN_PROFILE,
            options.INPUT,
        )
    ):
        command = option(command)
    return command


def _made(net, weights, given: dict, **more):
    """(Model, plan) of what a command was given; what it does not take itself goes to the plan."""
    from ... import api

    model = api.load(net, weights, inputs=options.shapes(given.pop("inputs")))
    wishes, jobs = options.wished(given), given.pop("jobs")
    chosen = ("method", "ranks", "layers", "seed", "allow_growth", "effort", "max_norm",
              "profile")  # fmt: skip
    chosen = {name: given.pop(name) for name in chosen}
    with progress_bar() as progress, options.measured(given, jobs) as evaluator:
        made = api.plan(
            model,
            **chosen,
            **wishes,
            evaluate=evaluator,
            jobs=jobs,
            dask=given["dask"],
            progress=progress,
            **more,
        )
    return model, made


@cli.command()
@click.argument("net")
@click.argument("weights")
@options.METHOD
@click.option(
    "--rule",
    "--ranks",
    "ranks",
    required=True,
    help="Rank rule; `caffesurgery help ranks` lists them.",
)
@_choosing
@options.FORMAT
def ranks(net, weights, form, **given):
    """Show the ranks that a rule chooses, and why."""
    from ...report import ranks_report
    from ..tables import ranks_table

    model, made = _made(net, weights, given, may_be_empty=True)
    report = ranks_report(model, made)
    show(report, ranks_table(report), form)


@cli.command()
@click.argument("net")
@click.argument("weights")
@options.METHOD
@options.RANKS
@options.file_option("PLAN", "Plan file to write.")
@click.option(
    "--explain",
    is_flag=True,
    help="Show for each layer what the next higher and lower ranks would cost and lose.",
)
@_choosing
@options.FREEZE
@options.FORCE
@options.FORMAT
def plan(net, weights, path, explain, freeze, force, form, **given):
    """Choose layers, schemes and ranks: write a plan to be edited."""
    from ... import api
    from ...files.atomic import refuse_existing, write_bytes
    from ...report import plan_report
    from ..tables import explanation_table, operation_table

    refuse_existing([path], force)
    model, made = _made(net, weights, given, freeze=freeze)
    explained = None
    if explain:
        with progress_bar() as progress:
            explained = api.explain(model, made, progress=progress)
    write_bytes(path, made.dumps().encode(), force)
    report = plan_report(model, made, explained)
    show(report, operation_table(report), form)
    if explain and form == "table":
        print_table(explanation_table(report))
    say(f"wrote {path}")
