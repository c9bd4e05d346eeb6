"""The commands that cut: apply, compress, restore."""

from __future__ import annotations

import click

from .. import calibration_options, options
from ..console import print_table, progress_bar, say, say_written, show
from .group import cli


@cli.command()
@click.argument("net")
@click.argument("weights")
@click.argument("plan")
@options.FOLDER
@options.ALSO
@options.FREEZE
@options.JOBS
@options.DASK
@options.INPUT
@options.FORCE
@options.FORMAT
def apply(net, weights, plan, folder, also, freeze, jobs, dask, inputs, force, form):
    """Carry out a PLAN: write smaller prototxts and caffemodel."""
    from dataclasses import replace

    from ... import api
    from ...files.atomic import refuse_folder
    from ...report import operation_report
    from ..tables import operation_table

    files = api.file_names([net, *also], weights, True)
    refuse_folder(folder, files, force)
    wanted = api.read_plan(plan)
    wanted = replace(wanted, freeze=wanted.freeze or freeze)
    model = api.load(net, weights, inputs=options.shapes(inputs))
    with progress_bar() as progress:
        result = api.apply(model, wanted, also, jobs=jobs, dask=dask, progress=progress)
        smaller = api.save(result, folder, force=force, progress=progress)
    report = operation_report(result, smaller)
    show(report, operation_table(report), form)
    say_written(files, folder)


@cli.command()
@click.argument("net")
@click.argument("weights")
@options.METHOD
@options.RANKS
@options.LAYERS
@options.FOLDER
@options.ALSO
@click.option("--no-onnx", is_flag=True, help="Write no net.onnx, and compare nothing.")
@options.wishes
@calibration_options.calibrating
@options.measuring
@options.SEED
@options.GROWTH
@options.EFFORT
@options.MAX_NORM
@options.FREEZE
@options.PLAN_PROFILE
@options.JOBS
@options.INPUT
@options.FORCE
@options.FORMAT
def compress(
    net, weights, method, ranks, layers, folder, also, no_onnx, seed, allow_growth, effort,
    max_norm, freeze, profile, jobs, inputs, force, form, calibrate, count, **data,
):  # fmt: skip
    """The whole job: plan, apply, export to ONNX, compare.

    With --calibrate the smaller net is fitted to images, without labels and without training.
    """
    from ... import api

    model = api.load(net, weights, inputs=options.shapes(inputs))
    wishes = options.wished(data)
    calibrator = calibration_options.calibrator(data, calibrate, count, seed, jobs)
    with progress_bar() as progress, options.measured(data, jobs) as evaluator:
        report = api.compress(
            model,
            folder,
            method,
            ranks,
            layers,
            also,
            onnx=not no_onnx,
            seed=seed,
            allow_growth=allow_growth,
            effort=effort,
            max_norm=max_norm,
            freeze=freeze,
            **wishes,
            profile=profile,
            force=force,
            jobs=jobs,
            evaluate=evaluator,
            dask=data["dask"],
            calibrate=calibrator,
            progress=progress,
        )
    _show_compression(report, form)
    if not no_onnx and not report["comparison"]:
        say(report["notes"][-1])
    say_written([*report["files"], "report.json"], folder)


def _show_compression(report, form):
    from ..tables import calibration_table, comparison_table, operation_table

    show(report, operation_table(report), form)
    if form == "table" and report["calibration"]:
        print_table(calibration_table(report["calibration"]))
    if form == "table" and report["comparison"]:
        print_table(comparison_table(report["comparison"]))


@cli.command()
@click.argument("net")
@click.argument("weights")
@click.option(
    "--plan",
    type=options.NotEmpty(),
    metavar="PLAN",
    help="Restore only the layers that this plan decomposed.",
)
@click.option(
    "--layers",
    type=options.NotEmpty(),
    default="*",
    show_default=True,
    metavar="PATTERN",
    help="Names or glob patterns, as before the cut, of the layers to restore, with commas.",
)
@options.FOLDER
@options.ALSO
@options.INPUT
@options.FORCE
@options.FORMAT
def restore(net, weights, plan, layers, folder, also, inputs, force, form):
    """Turn a decomposed net back into its dense form.

    With --plan only the layers that the plan decomposed, with --layers those that it names.
    """
    from ... import api
    from ...files.atomic import refuse_folder
    from ...report import restoration_report
    from ..tables import restoration_table

    files = api.file_names([net, *also], weights, False)
    refuse_folder(folder, files, force)
    wanted = api.read_plan(plan) if plan else None
    model = api.load(net, weights, inputs=options.shapes(inputs))
    with progress_bar() as progress:
        result = api.restore(model, wanted, layers, also, progress=progress)
        dense = api.save(result, folder, force=force, progress=progress)
    report = restoration_report(result, dense)
    show(report, restoration_table(report), form)
    say_written(files, folder)
