"""``caffesurgery help TOPIC``: the pages of caffesurgery/docs."""

from __future__ import annotations

import sys

import click

from ..errors import UsageError, suggest
from ..files.resources import resource


def topics() -> dict[str, str]:
    """Name and first heading of every page."""
    found = {}
    for path in sorted(resource("docs").glob("*.md")):
        with path.open(encoding="utf-8") as page:
            found[path.stem] = page.readline().lstrip("# ").strip()
    return found


def show_topic(topic: str | None) -> None:
    """Print a page, or the list of pages."""
    known = topics()
    if topic is None:
        click.echo("caffesurgery help TOPIC, where TOPIC is one of\n")
        width = max(map(len, known))
        for name, title in known.items():
            click.echo(f"  {name:<{width}}  {title}")
        click.echo("\n`caffesurgery COMMAND --help` shows the options of a command.")
        return
    if topic not in known:
        raise UsageError(f"no help on '{topic}'; {suggest(topic, known)}")
    text = resource("docs", f"{topic}.md").read_text(encoding="utf-8")
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        click.echo(text, nl=False)
