"""The C extensions, each of which Python can do without."""

from __future__ import annotations

import importlib
import os


def extension(name: str):
    """The C extension of this name; None where it was not built, cannot be used, or is not wanted:
    with ``CAFFESURGERY_PURE=1`` in the environment."""
    if os.environ.get("CAFFESURGERY_PURE", "") not in ("", "0"):
        return None
    try:
        return importlib.import_module(f"{__package__}.{name}")
    except ImportError:
        return None
