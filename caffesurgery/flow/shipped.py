"""The flows that ship: those of the papers, and some that run in minutes on one computer."""

from __future__ import annotations

from ..errors import UsageError, suggest
from ..files.resources import resource

_FOLDER = ("flow", "recipes")


def recipes() -> dict[str, str]:
    """Name and first line of each recipe."""
    found = {}
    for path in sorted(resource(*_FOLDER).glob("*.prototxt")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        found[path.stem] = first.lstrip("# ")
    return found


def recipe(name: str) -> str:
    """The text of a recipe; UsageError with the names that there are for any other."""
    known = recipes()
    if name not in known:
        raise UsageError(f"no recipe '{name}'; {suggest(name, known)}")
    return resource(*_FOLDER, f"{name}.prototxt").read_text(encoding="utf-8")
