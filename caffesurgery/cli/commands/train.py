"""The commands that train: solver writes a solver by a paper's recipe, train carries one out."""

from __future__ import annotations

import click

from ...errors import TrainError, UsageError
from .. import options
from ..console import progress_bar, say, show
from .group import cli


class Numbers(click.ParamType):
    """Whole numbers from 0 with commas: ``0,1``."""

    name = "N,N"

    def convert(self, value, param, ctx):
        """The numbers, each once."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in value.split(","))
        except ValueError:
            numbers = (-1,)
        if min(numbers) < 0 or len(set(numbers)) < len(numbers):
            self.fail(f"met {value!r}, expected numbers of GPUs such as 0 or 0,1", param, ctx)
        return numbers


@cli.command()
@click.argument("net")
@click.option("--recipe", default="etri", show_default=True, help="etri, samsung or two-pass.")
@click.option("--epochs", type=click.FloatRange(min=0, min_open=True), help="Instead of its own.")
@click.option("--images", type=click.IntRange(min=1), help="Training images; else the data's own.")
@click.option("--test-images", type=click.IntRange(min=1), help="Likewise for the tests.")
@click.option(
    "--batch", type=click.IntRange(min=1), help="Images an update; a multiple of the net's own."
)
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Learning rate to begin.")
@click.option(
    "--mode",
    type=click.Choice(["gpu", "cpu"]),
    default="gpu",
    show_default=True,
    help="What Caffe trains on.",
)
@options.file_option("FILE", "Solver to write.")
@options.FORCE
@options.FORMAT
def solver(net, recipe, epochs, images, test_images, batch, lr, mode, path, force, form):
    """Write a solver that trains NET as a paper does.

    NET is a train_val.prototxt. Epochs become iterations by the batch of its data layer and the
    number of its images.
    """
    from ... import api
    from ..tables import solver_table

    report = api.make_solver(
        net, path, recipe, epochs=epochs, images=images, batch=batch, test_images=test_images,
        base_lr=lr, mode=mode, force=force,
    )  # fmt: skip
    show(report, solver_table(report), form)
    say(f"wrote {path}")


@cli.command()
@click.option("--solver", required=True, metavar="FILE", help="What to train, and how.")
@click.option("--weights", metavar="FILE", help="Caffemodel to begin with.")
@click.option("--trainer", help="caffe or torch; by default the first that can train here.")
@click.option("--caffe", metavar="PATH", help="Caffe's binary; else $CAFFE_BIN, else on the PATH.")
@click.option("--gpu", "gpus", type=Numbers(), default=(), help="GPUs to train on, e.g. 0,1.")
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Processes that share every batch (torch).",
)
@click.option("--mixed", is_flag=True, help="Mixed precision on a GPU (torch).")
@click.option("--resume", metavar="STATE", help="Go on from a .solverstate, or a folder's last.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Instead of the solver's own.")
@click.option(
    "--data",
    multiple=True,
    metavar="LAYER=PATH",
    help="Other data for a data layer: .npz, .npy, LMDB or folder (torch).",
)
@options.FOLDER
@options.FORCE
@options.FORMAT
def train(solver, folder, data, form, **given):
    """Train by a solver, with your own Caffe or with torch.

    Everything is written to DIR: snapshots, trained.caffemodel, report.json. Ctrl-C leaves a
    snapshot, and --resume goes on from it. Exits with 0 when training is done.
    """
    from ... import api
    from ..tables import training_table

    with progress_bar() as progress:
        report = api.train_net(solver, folder, data=_named(data), progress=progress, **given)
    show(report, training_table(report), form)
    if report["ending"] != "done":
        more = f"; go on with --resume {report['state']}" if report["state"] else ""
        raise TrainError(f"training {report['ending']}: {report['message']}{more}")


def _named(data) -> dict[str, str]:
    found = {}
    for text in data:
        name, separator, path = text.partition("=")
        if not separator or not name or not path:
            raise UsageError(f"--data: met '{text}', expected the name of a data layer: LAYER=PATH")
        found[name] = path
    return found
