"""What a plan was made from: the files that were read, by name and SHA-256."""

from __future__ import annotations

from pathlib import Path

from ..files.caffemodel import Caffemodel
from ..files.digest import sha256
from ..net.net import Net
from ..ranks import Rule


def sources(net: Net, weights: Caffemodel, rule: Rule) -> tuple[tuple[str, str], ...]:
    """(Name, hex digest) of the net, its weights, and the files that the rule was told to read."""
    read = rule.given.get("losses")
    paths = [net.doc.path, weights.path, read if isinstance(read, str) else None]
    return tuple((Path(path).name, sha256(path)) for path in paths if path)
