"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import contextlib

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


def _format(**how):
    return click.option(
        "--format",
        "form",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="How to print the result.",
        **how,
    )


FORMAT = _format()
FORMAT_FIRST = _format(is_eager=True)
"""The same where another option prints a result and ends."""
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
    help="Rank rule, e.g. ratio=0.25, vbmf, enc-model:macs=0.25, or by layer: conv2=154,"
    "conv3=105x112; `caffesurgery help ranks` lists them.",
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
FREEZE = click.option(
    "--freeze",
    is_flag=True,
    help="Write the new layers with learning rates of 0, to train only the others.",
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
    help="Layers, or nets to be evaluated, at a time; by default one for each processor.",
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


_WISHES = (
    click.option(
        "--keep",
        multiple=True,
        metavar="PATTERN",
        help="Leave these layers as they are: names, patterns, first or last; repeatable.",
    ),
    click.option(
        "--pin",
        multiple=True,
        metavar="LAYER=RANK",
        help="Ranks that no rule changes, by name or pattern: conv2=100; repeatable.",
    ),
    click.option(
        "--method-for",
        multiple=True,
        metavar="PATTERN=METHOD",
        help="Another method for some layers: fc*=svd; repeatable.",
    ),
)


def wishes(command):
    """The options that say what is wanted of single layers."""
    for option in reversed(_WISHES):
        command = option(command)
    return command


def wished(given: dict) -> dict:
    """Takes the options of ``wishes`` out of ``given``: what ``api.plan`` is told of them."""
    from ..surgery.wishes import parse_methods

    return {
        "keep": ",".join(given.pop("keep")) or (),
        "pin": ",".join(given.pop("pin")),
        "method_for": dict(parse_methods(given.pop("method_for"))),
    }


class Size(click.ParamType):
    """``HxW``, or one number for a square."""

    name = "HxW"

    def convert(self, value, param, ctx):
        """(height, width) of the text."""
        try:
            sides = [int(side) for side in value.split("x")]
        except ValueError:
            sides = []
        if not 1 <= len(sides) <= 2 or min(sides) < 1:
            self.fail(f"met {value!r}, expected for example 256 or 256x320", param, ctx)
        return sides[0], sides[-1]


_DATA = (
    click.option(
        "--images",
        help="Images: a .npy or .npz (key images), a folder of image files, an LMDB, or a prototxt "
        "with a data layer.",
    ),
    click.option(
        "--labels", help="Their classes: .npy, .npz (key labels), or a list 'path class'."
    ),
    click.option("--blob", default="", help="The output with a score for each class."),
    click.option("--mean", help="Subtract: numbers with commas, or a .npy or .binaryproto file."),
    click.option("--scale", type=float, help="Multiply, after --mean."),
    click.option("--bgr", is_flag=True, help="Swap the channels: images RGB, the net BGR."),
    click.option("--crop", is_flag=True, help="Cut the centre out of images that are larger."),
    click.option(
        "--transform",
        metavar="PROTOTXT",
        help="Prepare images as this net's data layer does; by default as NET's own does.",
    ),
    click.option("--resize", type=Size(), help="Bring images to this size first."),
    click.option("--samples", type=click.IntRange(min=1), help="Only the first so many images."),
    click.option("--cache", type=NotEmpty(), metavar="DIR", help="Keep what was measured here."),
    click.option("--no-cache", is_flag=True, help="Keep nothing, and measure anew."),
)
DASK = click.option(
    "--dask", metavar="ADDRESS", help="Work on this Dask cluster, e.g. tcp://host:8786."
)
_MEASURE = (
    click.option(
        "--metric",
        type=click.Choice(["top1", "top5", "loss", "agreement"]),
        default="top1",
        show_default=True,
        help="What rules that need images look at.",
    ),
    DASK,
)


def data(command):
    """The options that say which images a net is evaluated on, and how."""
    for option in reversed(_DATA):
        command = option(command)
    return command


def measuring(command):
    """The options of commands whose rank rules may evaluate nets: ``data`` and what goes on top."""
    for option in reversed(_MEASURE):
        command = option(command)
    return data(command)


def evaluator(given, jobs=None, own: bool = False):
    """The Evaluator that the options of ``data`` or ``measuring`` describe; None without images.

    With ``own`` it takes the images of each net's own TEST data layer, where none are given.
    Without it, it is for rank rules, which see the TRAIN data layer of a prototxt.
    UsageError for options that say nothing without ``--images``.
    """
    from .. import api

    given = dict(given)
    no_cache = given.pop("no_cache")
    if not given["images"] and not own:
        rest = {**given, "metric": None, "dask": None}
        idle = [name for name, value in rest.items() if value not in (None, False, "")]
        if idle:
            raise UsageError(f"--{idle[0]} says nothing without --images; give the images too")
        return None
    cache = given.pop("cache") or True
    given["phase"] = "TEST" if own else "TRAIN"
    return api.Evaluator(**given, jobs=jobs, cache=None if no_cache else cache)


def measured(given, jobs):
    """The evaluator with its workers, as a context; None inside where no images are given."""
    found = evaluator(given, jobs)
    return contextlib.nullcontext() if found is None else found


PLAN_PROFILE = click.option(
    "--profile",
    type=NotEmpty(),
    help="Profile of the machine, for --method auto and budgets in ms; by default Caffe's.",
)


def shapes(inputs) -> dict[str, tuple[int, ...]] | None:
    """The --input options as a dict; None without any."""
    names = [name for name, _ in inputs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--input {name} is given twice; keep one of them")
    return dict(inputs) or None
