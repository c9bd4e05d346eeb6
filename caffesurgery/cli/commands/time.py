"""The command that runs a net and says how long its layers take: time."""

from __future__ import annotations

import click

from .. import options
from ..console import progress_bar, show
from .group import cli


@cli.command()
@click.argument("net")
@click.argument("weights", required=False)
@click.option("--batch", type=click.IntRange(min=1), help="Replaces the batch size of the inputs.")
@click.option(
    "--iterations",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Runs to measure, after one that does not count.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Threads of the matrix products and of im2col.",
)
@options.INPUT
@options.FORMAT
def time(net, weights, batch, iterations, threads, inputs, form):
    """Run NET here as Caffe does on a CPU, and time its layers.

    The forward pass is im2col and matrix products, layer by layer, on noise; without WEIGHTS these
    are random too, which takes as long.
    """
    from ... import api
    from ..tables import time_table

    model = api.load(net, weights, batch=batch, inputs=options.shapes(inputs))
    with progress_bar() as progress:
        report = api.time_net(model, iterations, threads=threads, progress=progress)
    show(report, time_table(report), form)
