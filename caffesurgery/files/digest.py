"""The SHA-256 of a file, read in pieces."""

from __future__ import annotations

import hashlib

_CHUNK = 1 << 20


def sha256(path, most: int | None = None) -> str:
    """The hex digest of what the file holds, or of its first ``most`` bytes."""
    found, left = hashlib.sha256(), float("inf") if most is None else most
    with open(path, "rb") as file:
        while chunk := file.read(int(min(left, _CHUNK))):
            found.update(chunk)
            left -= len(chunk)
    return found.hexdigest()
