"""``caffesurgery demo``: the main job on a zoo AlexNet with seeded weights, step by step."""

from __future__ import annotations

import time
from pathlib import Path

import click

from .. import api, zoo
from .console import print_table, progress_bar
from .tables import comparison_table, operation_table

RANKS = "conv1=69,conv2=154,conv3=153,conv4=178,conv5=196,fc6=365,fc7=275,fc8=260"
"""Table 2 of paper 000, average rank 150 for convolutions and 300 for fully connected layers."""


def run_demo(folder: Path, force: bool = False) -> None:
    """Write a zoo AlexNet, compress it at the ranks of paper 000, and show what came out."""
    started = time.monotonic()
    original, out = folder / "alexnet", folder / "compressed"
    with progress_bar() as progress:
        _step(f"caffesurgery zoo write alexnet -o {original}")
        zoo.write("alexnet", original, force=force, progress=progress)
        deploy, weights = original / "deploy.prototxt", original / "alexnet.caffemodel"
        also = [original / "train_val.prototxt"]
        _step(
            f"caffesurgery compress {deploy} {weights} --method cp --ranks {RANKS} "
            f"--also {also[0]} -o {out}"
        )
        model = api.load(deploy, weights)
        report = api.compress(model, out, "cp", RANKS, also=also, force=force, progress=progress)
    print_table(operation_table(report))
    print_table(comparison_table(report["comparison"]))
    sizes = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in report["files"].items())
    click.echo(
        f"\n{weights.name} was {weights.stat().st_size / 1e6:.1f} MB; {out} holds {sizes}.\n"
        "The weights are random with falling spectra, so the outputs differ as no trained net's "
        "would;\na trained net at these ranks is fine-tuned with the train_val that was rewritten."
        f"\n{time.monotonic() - started:.1f} seconds."
    )


def _step(command: str) -> None:
    click.echo(f"$ {command}", err=True)
