"""A table as a value, and the words for numbers in it; ``console`` prints it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; the columns named in ``numbers`` are set to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    footer: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    numbers: frozenset[str] = frozenset()


def count(number: int | None) -> str:
    """A whole number with commas; ? where it is not known, nothing for zero."""
    if number is None:
        return "?"
    return f"{number:,}" if number else ""
