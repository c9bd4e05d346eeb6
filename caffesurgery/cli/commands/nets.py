"""The command that looks at a net: inspect."""

from __future__ import annotations

import click

from .. import options
from ..console import show
from .group import cli


@cli.command()
@click.argument("net")
@click.argument("weights", required=False)
@click.option("--phase", type=click.Choice(["test", "train"]), default="test", show_default=True)
@click.option("--batch", type=click.IntRange(min=1), help="Replaces the batch size of the inputs.")
@options.INPUT
@options.FORMAT
def inspect(net, weights, phase, batch, inputs, form):
    """Show the layers of NET: shapes, parameters, multiply-adds.

    With WEIGHTS, also check that they belong to NET.
    """
    from ... import api
    from ..tables import inspection_table

    model = api.load(net, weights, phase=phase.upper(), batch=batch, inputs=options.shapes(inputs))
    report = api.inspect(model)
    show(report, inspection_table(report), form)
