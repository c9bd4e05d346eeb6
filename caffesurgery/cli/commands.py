"""The commands.  Each reads its arguments, calls the public interface and prints the result.

Imports of anything heavy are inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

from pathlib import Path

import click

from .. import __version__
from ..errors import UsageError, VerifyError, suggest
from . import options
from .console import print_table, progress_bar, say, say_written, show


class Commands(click.Group):
    """Lists the commands in the order of the job, not of the alphabet."""

    command_class = options.ManyValues

    def list_commands(self, ctx):
        return list(self.commands)

    def resolve_command(self, ctx, args):
        if args[0] not in self.commands and not args[0].startswith("-"):
            raise UsageError(f"no command '{args[0]}'; {suggest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, invoke_without_command=True)
@click.option("--version", is_flag=True, help="Print the version; with -v also what it runs on.")
@click.option("-v", "--verbose", is_flag=True, help="With --version: libraries, C extension.")
@click.pass_context
def cli(ctx, version, verbose):
    """Low-rank surgery on Caffe networks: smaller prototxt and caffemodel, and ONNX.

    `caffesurgery demo` shows the whole job; `caffesurgery help` lists what can be read here.
    """
    if version:
        from .version import version_lines

        click.echo("\n".join(version_lines() if verbose else [f"caffesurgery {__version__}"]))
        ctx.exit(0)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


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
    from .. import api
    from .tables import inspection_table

    model = api.load(net, weights, phase=phase.upper(), batch=batch, inputs=options.shapes(inputs))
    report = api.inspect(model)
    show(report, inspection_table(report), form)


@cli.command()
@click.argument("net")
@click.argument("weights")
@options.METHOD
@options.RANKS
@options.LAYERS
@options.file_option("PLAN", "Plan file to write.")
@options.SEED
@options.GROWTH
@options.INPUT
@options.FORCE
@options.FORMAT
def plan(net, weights, method, ranks, layers, path, seed, allow_growth, inputs, force, form):
    """Choose layers, schemes and ranks: write a plan to be edited."""
    from .. import api
    from ..files.atomic import refuse_existing, write_bytes
    from ..report import plan_report
    from .tables import operation_table

    refuse_existing([path], force)
    model = api.load(net, weights, inputs=options.shapes(inputs))
    with progress_bar() as progress:
        made = api.plan(
            model,
            method,
            ranks,
            layers,
            seed=seed,
            allow_growth=allow_growth,
            progress=progress,
        )
    write_bytes(path, made.dumps().encode(), force)
    report = plan_report(model, made)
    show(report, operation_table(report), form)
    say(f"wrote {path}")


@cli.command()
@click.argument("net")
@click.argument("weights")
@click.argument("plan")
@options.FOLDER
@options.ALSO
@options.JOBS
@options.INPUT
@options.FORCE
@options.FORMAT
def apply(net, weights, plan, folder, also, jobs, inputs, force, form):
    """Carry out a PLAN: write smaller prototxts and caffemodel."""
    from .. import api
    from ..files.atomic import refuse_folder
    from ..report import operation_report
    from .tables import operation_table

    files = api.file_names([net, *also], weights, True)
    refuse_folder(folder, files, force)
    wanted = api.read_plan(plan)
    model = api.load(net, weights, inputs=options.shapes(inputs))
    with progress_bar() as progress:
        result = api.apply(model, wanted, also, jobs=jobs, progress=progress)
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
@options.SEED
@options.GROWTH
@options.JOBS
@options.INPUT
@options.FORCE
@options.FORMAT
def compress(
    net, weights, method, ranks, layers, folder, also, no_onnx, seed, allow_growth, jobs, inputs,
    force, form,
):  # fmt: skip
    """The whole job: plan, apply, export to ONNX, compare."""
    from .. import api

    model = api.load(net, weights, inputs=options.shapes(inputs))
    with progress_bar() as progress:
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
            force=force,
            jobs=jobs,
            progress=progress,
        )
    _show_compression(report, form)
    if not no_onnx and not report["comparison"]:
        say(report["notes"][-1])
    say_written([*report["files"], "report.json"], folder)


def _show_compression(report, form):
    from .tables import comparison_table, operation_table

    show(report, operation_table(report), form)
    if form == "table" and report["comparison"]:
        print_table(comparison_table(report["comparison"]))


@cli.command()
@click.argument("net")
@click.argument("weights")
@options.FOLDER
@options.INPUT
@options.FORCE
@options.FORMAT
def restore(net, weights, folder, inputs, force, form):
    """Turn a decomposed net back into its dense form."""
    from .. import api
    from ..files.atomic import refuse_folder
    from ..report import restoration_report
    from .tables import restoration_table

    files = api.file_names([net], weights, False)
    refuse_folder(folder, files, force)
    model = api.load(net, weights, inputs=options.shapes(inputs))
    with progress_bar() as progress:
        result = api.restore(model, progress=progress)
        dense = api.save(result, folder, force=force, progress=progress)
    report = restoration_report(result, dense)
    show(report, restoration_table(report), form)
    say_written(files, folder)


@cli.command()
@click.argument("net")
@click.argument("weights")
@options.file_option("ONNX", "ONNX file to write.")
@click.option("--opset", type=int, default=13, show_default=True, help="ONNX operator set.")
@click.option("--batch", type=click.IntRange(min=1), help="Fix the batch, which is left open.")
@click.option("--blob", "blobs", multiple=True, help="Make a blob in between an output too.")
@options.INPUT
@options.FORCE
@options.FORMAT
def export(net, weights, path, opset, batch, blobs, inputs, force, form):
    """Write NET with WEIGHTS as ONNX."""
    from .. import api
    from ..report import export_report
    from .tables import export_table

    model = api.load(net, weights, inputs=options.shapes(inputs))
    with progress_bar() as progress:
        done = api.export_onnx(
            model, path, force=force, progress=progress, opset=opset, batch=batch, keep_blobs=blobs
        )
    report = export_report(done)
    show(report, export_table(report), form)
    say(f"wrote {path}")


@cli.command()
@click.argument("net1")
@click.argument("weights1")
@click.argument("net2")
@click.argument("weights2")
@click.option("--images", help=".npy or .npz (key images) with the inputs; random ones without.")
@click.option("--labels", help=".npy, or .npz (key labels), with the class of each image.")
@click.option("--blob", "blobs", multiple=True, help="Compare this blob, not the outputs.")
@click.option("--mean", help="Subtract: numbers with commas, or a .npy or .binaryproto file.")
@click.option("--scale", type=float, default=1.0, show_default=True, help="Multiply, after --mean.")
@click.option("--bgr", is_flag=True, help="Swap the channels: images are RGB, the net takes BGR.")
@click.option("--crop", is_flag=True, help="Cut the centre out of images that are larger.")
@options.SEED
@options.INPUT
@options.FORMAT
def compare(
    net1, weights1, net2, weights2, images, labels, blobs, mean, scale, bgr, crop, seed, inputs,
    form,
):  # fmt: skip
    """Run two nets on the same inputs and compare their outputs."""
    from .. import api
    from .tables import comparison_table

    given = options.shapes(inputs)
    first = api.load(net1, weights1, inputs=given)
    second = api.load(net2, weights2, inputs=given)
    with progress_bar() as progress:
        found = api.compare(
            first,
            second,
            images=images,
            labels=labels,
            blobs=blobs,
            mean=mean,
            scale=scale,
            bgr=bgr,
            crop=crop,
            seed=seed,
            progress=progress,
        ).as_dict()
    if labels and not found["accuracy"]:
        names = ", ".join(blob["name"] for blob in found["blobs"])
        raise VerifyError(
            f"{labels}: no accuracy can be counted, since {names} has no score for each of these "
            "classes; give the labels of this net, or name its scores with --blob"
        )
    show(found, comparison_table(found), form)


@cli.command()
@options.FORMAT
def methods(form):
    """List what --method takes: chains, equations, cost and source."""
    from ..surgery.methods import catalogue
    from .tables import methods_table

    found = catalogue()
    show(found, methods_table(found), form)


@cli.group(cls=Commands, no_args_is_help=False)
def zoo():
    """The architectures of the model zoo, with seeded weights."""


@zoo.command("list")
@options.FORMAT
def zoo_list(form):
    """List the architectures."""
    from .. import zoo as nets
    from .tables import zoo_table

    report = nets.catalogue()
    show(report, zoo_table(report), form)


@zoo.command("write")
@click.argument("name")
@options.FOLDER
@options.SEED
@options.FORCE
def zoo_write(name, folder, seed, force):
    """Write NAME's prototxts and seeded (not trained) weights."""
    from .. import zoo as nets

    with progress_bar() as progress:
        files = nets.write(name, folder, seed=seed, force=force, progress=progress)
    for path in files:
        click.echo(path)


@cli.command("help")
@click.argument("topic", required=False)
def help_command(topic):
    """Show the documentation: the list of topics, or one TOPIC."""
    from .help import show_topic

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

    from .demo import run_demo

    if folder:
        run_demo(Path(folder), force)
        return
    with tempfile.TemporaryDirectory(prefix="caffesurgery-demo-") as temporary:
        run_demo(Path(temporary), force)
