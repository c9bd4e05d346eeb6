"""What a plan was made from: the files that were read, by name and SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..files.caffemodel import Caffemodel
from ..net.net import Net
from ..ranks import Rule

_CHUNK = 1 << 20


def sources(net: Net, weights: Caffemodel, rule: Rule) -> tuple[tuple[str, str], ...]:
    """(Name, hex digest) of the net, its weights, and the files that the rule was told to read."""
    read = rule.given.get("losses")
    paths = [net.doc.path, weights.path, read if isinstance(read, str) else None]
    return tuple((Path(path).name, sha256(path)) for path in paths if path)


def sha256(path) -> str:
    """The digest of a file, read in pieces."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()
