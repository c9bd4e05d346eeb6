"""The commands around ONNX: export, compare."""

from __future__ import annotations

from pathlib import Path

import click

from ...errors import VerifyError
from .. import options
from ..console import print_table, progress_bar, say, say_written, show
from ..graph_options import chosen, with_graph_options
from ..phone_options import wishes, with_phone_options
from .group import cli


def _list_types(ctx, param, value):
    """Show every layer type and what becomes of it, and end."""
    if not value:
        return
    from ...export.catalogue import layer_catalogue
    from ..tables import layers_table

    found = layer_catalogue()
    show(found, layers_table(found), ctx.params.get("form", "table"))
    ctx.exit(0)


@cli.command()
@click.argument("net")
@click.argument("weights")
@options.file_option("ONNX", "ONNX file to write.")
@with_graph_options
@with_phone_options
@options.INPUT
@options.FORCE
@options.FORMAT_FIRST
@click.option(
    "--list-ops",
    is_flag=True,
    expose_value=False,
    callback=_list_types,  # not eager: after --format, before what is missing, in any order
    help="List the layer types and what becomes of each, and end.",
)
def export(net, weights, path, inputs, force, form, **given):
    """Write NET with WEIGHTS as ONNX."""
    from ... import api
    from ..tables import export_table, mobile_table, variants_table

    model = api.load(net, weights, inputs=options.shapes(inputs))
    graph = chosen(given)
    wanted = wishes(model, given)
    with progress_bar() as progress:
        report = api.export_for_phones(
            model, path, force=force, progress=progress, **graph, **wanted
        )
    show(report, export_table(report), form)
    if form == "table" and report["variants"]:
        print_table(variants_table(report))
    if form == "table" and report["mobile"]:
        print_table(mobile_table(report))
    if len(report["files"]) == 1:
        say(f"wrote {path}")
    else:
        say_written(report["files"], str(Path(path).parent))


@cli.command()
@click.argument("net1")
@click.argument("weights1")
@click.argument("net2")
@click.argument("weights2")
@click.option(
    "--images",
    help="Images: .npy, .npz (key images), a folder, an LMDB, or a prototxt; random ones without.",
)
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
    from ... import api
    from ..tables import comparison_table

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
