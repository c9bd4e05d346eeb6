"""What a person sees: results on stdout as a table or JSON, progress on stderr.

On a terminal progress is a bar; elsewhere (a log file, a pipe) it is a line now and then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import click

from ..report import Table, dump_json

QUIET_SECONDS = 2.0
"""Without a terminal, at most one line of progress in this time."""


def show(data: Mapping, table: Table, form: str) -> None:
    """Print a result: the documented JSON, or a table."""
    if form == "json":
        click.echo(dump_json(data), nl=False)
    else:
        print_table(table)


def print_table(table: Table) -> None:
    """Print a table to stdout; wide enough for its text where the output is not a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(
        title=Text(table.title),
        title_justify="left",
        box=SIMPLE_HEAD,
        show_footer=bool(table.footer),
        pad_edge=False,
    )
    for index, column in enumerate(table.columns):
        number = column in table.numbers
        made.add_column(
            column,
            footer=Text(table.footer[index]) if table.footer else "",
            justify="right" if number else "left",
            no_wrap=number,
            overflow="fold",
        )
    for row in table.rows:
        made.add_row(*(Text(cell) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, soft_wrap=False)
    console.print(made)
    for note in table.notes:
        click.echo(f"  {note}")


def say(message: str) -> None:
    """One line on stderr."""
    click.echo(message, err=True)


@contextmanager
def progress_bar() -> Iterator:
    """Yields a callback (stage, item, share done) that keeps a bar, or lines, on stderr."""
    if sys.stderr.isatty():
        with _rich_bar() as report:
            yield report
    else:
        yield _lines()


@contextmanager
def _rich_bar():
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[item]}"),
    )
    tasks: dict[str, int] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def report(stage: str, item: str, share: float) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=1.0, item=item)
            bars.update(tasks[stage], completed=share, item=item)

        yield report


def _lines():
    started = said = time.monotonic()

    def report(stage: str, item: str, share: float) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= QUIET_SECONDS:
            said = now
            say(f"{now - started:6.1f} s  {stage} {item} {100 * share:.0f}%")

    return report
