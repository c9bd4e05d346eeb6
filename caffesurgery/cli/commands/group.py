"""The group that every command joins: ``@cli.command()``."""

from __future__ import annotations

import click

from ... import __version__
from ...errors import UsageError, suggest
from .. import options


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
        from ..version import version_lines

        click.echo("\n".join(version_lines() if verbose else [f"caffesurgery {__version__}"]))
        ctx.exit(0)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
