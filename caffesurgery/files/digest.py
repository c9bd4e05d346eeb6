"""The SHA-256 of a file, read in pieces."""

from __future__ import annotations

import hashlib

_CHUNK = 1 << 20


def sha256(path) -> str:
    """The hex digest of what the file holds."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()
