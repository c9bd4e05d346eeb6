"""The commands that say what a net costs before it runs: cost, calibrate."""

from __future__ import annotations

import click

from .. import options
from ..console import progress_bar, say, show
from .group import cli


@cli.command()
@click.argument("net")
@click.argument("weights", required=False)
@options.PROFILE
@click.option("--batch", type=click.IntRange(min=1), help="Replaces the batch size of the inputs.")
@click.option("--vs", type=options.NotEmpty(), metavar="NET2", help="A second net, to compare.")
@options.INPUT
@options.FORMAT
def cost(net, weights, profile, batch, vs, inputs, form):
    """What the layers of NET will cost, and how long they will take.

    Prints parameters, multiply-adds, bytes moved, im2col elements, activation memory, and the
    milliseconds that a machine's profile predicts.
    """
    from ... import api
    from ..tables import cost_table

    given = options.shapes(inputs)
    model = api.load(net, weights, batch=batch, inputs=given)
    other = api.load(vs, batch=batch, inputs=given) if vs else None
    report = api.estimate(model, profile, other)
    show(report, cost_table(report), form)


@cli.command()
@options.file_option("PROFILE", "Profile to write, a JSON file.")
@click.option(
    "--runtime",
    type=click.Choice(["caffesurgery", "onnxruntime"]),
    default="caffesurgery",
    show_default=True,
    help="What to measure: this program's own forward pass, or ONNX Runtime.",
)
@click.option("--quick", is_flag=True, help="Fewer layers and runs: a few seconds.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads to measure with, or that Caffe used.",
)
@click.option(
    "--from-caffe-log",
    "logs",
    multiple=True,
    metavar="LOG",
    help="Measure nothing: take what `caffe time` printed on a machine; repeatable.",
)
@click.option("--machine", default="", metavar="TEXT", help="What to call the machine.")
@options.FORCE
@options.FORMAT
def calibrate(path, runtime, quick, threads, logs, machine, force, form):
    """Measure this machine, or read Caffe's log of one, for `cost`."""
    from pathlib import Path

    from ... import api
    from ...files.atomic import refuse_existing, write_bytes
    from ...report.cost import profile_row
    from ..tables import profile_table

    refuse_existing([path], force)
    with progress_bar() as progress:
        profile = api.calibrate(
            Path(path).stem,
            logs=logs,
            machine=machine,
            threads=threads,
            quick=quick,
            runtime=runtime,
            progress=progress,
        )
    write_bytes(path, profile.dumps().encode(), force)
    report = profile_row(profile)
    show(report, profile_table(report, profile.terms), form)
    say(f"wrote {path}")
