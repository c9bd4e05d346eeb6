"""The commands that list and explain: methods, zoo, help, demo."""

from __future__ import annotations

from pathlib import Path

import click

from .. import options
from ..console import progress_bar, show
from .group import Commands, cli


@cli.command()
@options.FORMAT
def methods(form):
    """List what --method takes: chains, equations, cost and source."""
    from ...surgery.methods import catalogue
    from ..tables import methods_table

    found = catalogue()
    show(found, methods_table(found), form)


@cli.group(cls=Commands, no_args_is_help=False)
def zoo():
    """The architectures of the model zoo, with seeded weights."""


@zoo.command("list")
@options.FORMAT
def zoo_list(form):
    """List the architectures."""
    from ... import zoo as nets
    from ..tables import zoo_table

    report = nets.catalogue()
    show(report, zoo_table(report), form)


@zoo.command("write")
@click.argument("name")
@options.FOLDER
@options.SEED
@options.FORCE
def zoo_write(name, folder, seed, force):
    """Write NAME's prototxts and seeded (not trained) weights."""
    from ... import zoo as nets

    with progress_bar() as progress:
        files = nets.write(name, folder, seed=seed, force=force, progress=progress)
    for path in files:
        click.echo(path)


@cli.command("help")
@click.argument("topic", required=False)
def help_command(topic):
    """Show the documentation: the list of topics, or one TOPIC."""
    from ..help import show_topic

    show_topic(topic)


@cli.command()
@click.option(
    "-o",
    "folder",
    type=options.NotEmpty(),
    metavar="DIR",
    help="Keep the files here; else they are deleted.",
)
@options.FORCE
def demo(folder, force):
    """The main job on a zoo AlexNet, with nothing to download."""
    import tempfile

    from ..demo import run_demo

    if folder:
        run_demo(Path(folder), force)
        return
    with tempfile.TemporaryDirectory(prefix="caffesurgery-demo-") as temporary:
        run_demo(Path(temporary), force)
