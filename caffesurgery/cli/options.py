"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import click

from ..errors import UsageError


class NotEmpty(click.ParamType):
    """Text that says something: an empty `-o "$OUT"` would otherwise mean the current folder."""

    name = "text"

    def convert(self, value, param, ctx):
        """The text as it is."""
        if not value.strip():
            self.fail("it is empty", param, ctx)
        return value


class ManyValues(click.Command):
    """A command whose repeatable options also take several values at once: ``--also A B C``.

    Words behind such an option belong to it as far as the command has no place for them among its
    arguments, so ``--also A NET WEIGHTS`` means what it says.
    """

    def parse_args(self, ctx, args):
        """Repeat the option before each of its further values, then parse as usual."""
        return super().parse_args(ctx, self._spread(list(args)))

    def _spread(self, args: list[str]) -> list[str]:
        options = {word: param for param in self.params for word in param.opts if word[:1] == "-"}
        words, run, follower, skip = [], [], None, False
        for index, word in enumerate(args):
            param = options.get(word)
            if skip:
                skip = False
            elif param is not None:
                flag = param.is_flag or param.count
                follower, skip = word if param.multiple else None, not flag
            elif word.startswith("-"):
                follower = None
            else:
                words.append(index)
                if follower:
                    run.append((index, follower))
        places = sum(isinstance(param, click.Argument) for param in self.params)
        spare = dict(run[: max(len(words) - places, 0)])
        return [
            part for i, word in enumerate(args) for part in (*filter(None, [spare.get(i)]), word)
        ]


class Shape(click.ParamType):
    """``NAME=DIMS`` with dimensions separated by commas or x, e.g. ``data=3,32,32``."""

    name = "NAME=DIMS"

    def convert(self, value, param, ctx):
        """(name, dimensions) of the text."""
        name, separator, dims = value.rpartition("=")
        try:
            shape = tuple(int(dim) for dim in dims.replace("x", ",").split(","))
        except ValueError:
            shape = ()
        if not separator or not name or not shape or min(shape) < 1:
            self.fail(f"met {value!r}, expected for example data=3,227,227", param, ctx)
        return name, shape


FORMAT = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print the result.",
)
FORCE = click.option("--force", is_flag=True, help="Overwrite files that are already there.")
FOLDER = click.option(
    "-o",
    "folder",
    type=NotEmpty(),
    metavar="DIR",
    required=True,
    help="Folder to write to; made if need be.",
)
INPUT = click.option(
    "--input",
    "inputs",
    type=Shape(),
    multiple=True,
    help="Shape of data that the prototxt does not describe, e.g. data=3,32,32.",
)


def file_option(metavar: str, about: str):
    """The option ``-o`` of a command that writes one file."""
    return click.option("-o", "path", type=NotEmpty(), metavar=metavar, required=True, help=about)


METHOD = click.option(
    "--method", required=True, help="How to decompose; `caffesurgery help methods` lists them."
)
RANKS = click.option(
    "--ranks",
    required=True,
    help="Rank rule: ratio=0.25, energy=0.9, error=0.3, or by layer: conv2=154,conv3=105x112.",
)
LAYERS = click.option(
    "--layers",
    type=NotEmpty(),
    default="*",
    show_default=True,
    metavar="PATTERN",
    help="Names or glob patterns of the layers to decompose, separated by commas.",
)
GROWTH = click.option(
    "--allow-growth",
    is_flag=True,
    help="Also decompose layers that will need more multiply-adds than before.",
)
SEED = click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="Seed of everything random.",
)
EFFORT = click.option(
    "--effort",
    type=click.Choice(["normal", "high"]),
    default="normal",
    show_default=True,
    help="Of joint CP and Tucker-2: high takes about twice as long for a little less error.",
)
MAX_NORM = click.option(
    "--max-norm",
    type=float,
    metavar="BOUND",
    help="Bound on the sum of the norms of CP components over the norm of the kernel, e.g. 20.",
)
JOBS = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Layers to decompose at a time; by default one for each processor.",
)
ALSO = click.option(
    "--also",
    multiple=True,
    metavar="PROTOTXT",
    help="Another prototxt of the same net (train_val), rewritten the same way; repeatable.",
)


PROFILE = click.option(
    "--profile",
    type=NotEmpty(),
    default="caffe-cpu-avx512",
    show_default=True,
    help="Profile of the machine to predict for: a file that calibrate wrote, or a shipped name.",
)


def shapes(inputs) -> dict[str, tuple[int, ...]] | None:
    """The --input options as a dict; None without any."""
    names = [name for name, _ in inputs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--input {name} is given twice; keep one of them")
    return dict(inputs) or None
