"""Names in an ONNX graph, each given once."""

from __future__ import annotations


def unique(hint: str, taken: set[str]) -> str:
    """``hint``, or ``hint_2``, ``hint_3`` ... where that is taken; the name then is taken too."""
    name, count = hint, 1
    while name in taken:
        count += 1
        name = f"{hint}_{count}"
    taken.add(name)
    return name
