"""The command that measures: evaluate."""

from __future__ import annotations

import click

from ...errors import UsageError
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
    """Accuracy and loss of NET with WEIGHTS on labelled images."""
    from ... import api
    from ..tables import evaluation_table

    evaluator = options.evaluator(given)
    if evaluator is None:
        raise UsageError("evaluate: expected --images, and their --labels where they have none")
    model = api.load(net, weights, inputs=options.shapes(inputs))
    with progress_bar() as progress:
        found = evaluator(model, progress)
    show(found, evaluation_table(found), form)
