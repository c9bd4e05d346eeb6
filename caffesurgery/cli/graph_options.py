"""Options of `export` for the graph itself: what folds, what stays open, where weights go."""

from __future__ import annotations

import click

_OPTIONS = (
    click.option("--opset", type=int, default=13, show_default=True, help="ONNX operator set."),
    click.option("--batch", type=click.IntRange(min=1), help="Fix the batch, which is left open."),
    click.option("--dynamic-size", is_flag=True, help="Leave height and width open too."),
    click.option("--blob", "blobs", multiple=True, help="Make a blob in between an output too."),
    click.option("--no-fold", is_flag=True,
                 help="Keep BatchNorm and Scale apart from the layers before them."),
    click.option("--custom-op-domain", "domain", metavar="DOMAIN", default="",
                 help="Write layers that ONNX cannot hold as operators of this domain."),
    click.option("--external-data", "external", is_flag=True,
                 help="Keep the weights in a file of their own, as beyond 2 GiB they always are."),
)  # fmt: skip


def with_graph_options(command):
    """``command`` with the options, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def chosen(given: dict) -> dict:
    """Takes the options out of ``given``: keywords of the public interface."""
    apart = {"one_file_up_to": 0} if given.pop("external") else {}
    return {
        "opset": given.pop("opset"),
        "batch": given.pop("batch"),
        "dynamic_size": given.pop("dynamic_size"),
        "keep_blobs": given.pop("blobs"),
        "fold": not given.pop("no_fold"),
        "domain": given.pop("domain"),
        **apart,
    }
