"""The command that measures: evaluate."""

from __future__ import annotations

import click

from .. import options
from ..console import progress_bar, show
from .group import cli


@cli.command()
@click.argument("net")
@click.argument("weights")
@options.data
@options.INPUT
@options.FORMAT
def evaluate(net, weights, inputs, form, **given):
    """Accuracy and loss of NET with WEIGHTS on labelled images.

    Without --images they come from NET's own data layer of the TEST phase.
    """
    from ... import api
    from ..tables import evaluation_table

    evaluator = options.evaluator(given, own=True)
    shapes = options.shapes(inputs)
    if shapes is None and given["images"] is None:
        shapes = api.data_shapes(net) or None
    model = api.load(net, weights, inputs=shapes)
    with progress_bar() as progress:
        found = evaluator(model, progress)
    show(found, evaluation_table(found), form)
