"""What a person sees: results on stdout as a table or JSON, progress on stderr.

On a terminal progress is a bar; elsewhere (a log file, a pipe) it is a line now and then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from .tables import Table

QUIET_SECONDS = 2.0
"""Without a terminal, at most one line of progress in this time."""
LEAST_WIDTH = 8
"""Characters to which a column of text may be folded on a narrow terminal."""


def show(data: Mapping, table: Table, form: str) -> None:
    """Print a result: the documented JSON (always UTF-8), or a table."""
    from ..report import encode_json

    if form == "json":
        click.echo(encode_json(data), nl=False)
    else:
        print_table(table)


def print_table(table: Table) -> None:
    """Print a table to stdout; nothing is cut off, text is folded on a terminal that is narrow."""
    from rich.console import Console

    made = _rich_table(table)
    console = Console(highlight=False)
    width = console.measure(made, options=console.options.update(width=1 << 20)).maximum
    if _is_terminal(sys.stdout):
        width = max(console.width, _least_width(table))
    console.width = width
    with console.capture() as captured:
        console.print(made)
    click.echo(table.title)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())
    for note in table.notes:
        click.echo(f"  {note}")


def _rich_table(table: Table):
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(box=SIMPLE_HEAD, show_footer=bool(table.footer), pad_edge=False)
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
    return made


def _least_width(table: Table) -> int:
    """The width that the numbers need, which are never folded, with text folded to the least."""
    rows = [table.columns, *table.rows, *([table.footer] if table.footer else [])]
    widths = [max(len(row[index]) for row in rows) for index in range(len(table.columns))]
    return sum(
        3 + (width if column in table.numbers else min(width, LEAST_WIDTH))
        for column, width in zip(table.columns, widths)
    )


def say(message: str) -> None:
    """One line on stderr."""
    click.echo(message, err=True)


def say_written(names: Iterable[str], folder: str) -> None:
    """Say on stderr which files are there now."""
    say(f"wrote {', '.join(sorted(names))} to {folder}")


@contextmanager
def progress_bar() -> Iterator:
    """Yields a callback (stage, item, share done) that keeps a bar, or lines, on stderr."""
    if _is_terminal(sys.stderr):
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
        TextColumn("{task.fields[item]}", markup=False),
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


def _is_terminal(stream) -> bool:
    """Whether a person reads along; a stream may be closed (`>&-`), and is None then."""
    return stream is not None and stream.isatty()
