"""The command that measures ONNX files: bench."""

from __future__ import annotations

import click

from .. import options
from ..console import progress_bar, show
from .group import cli


@cli.command()
@click.argument("models", nargs=-1, required=True, metavar="ONNX...")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads of each process.",
)
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    help="Forward passes of each model.",
)
@click.option(
    "--loads",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Processes in which each model is loaded.",
)
@options.INPUT
@options.FORMAT
def bench(models, threads, runs, loads, inputs, form):  # fmt: skip
    """Measure ONNX files: load and forward time, memory."""
    from ... import api
    from ..tables import bench_table

    with progress_bar() as progress:
        report = api.bench(
            models,
            threads=threads,
            runs=runs,
            loads=loads,
            inputs=options.shapes(inputs),
            progress=progress,
        )
    show(report, bench_table(report), form)
