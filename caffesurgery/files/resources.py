"""Finds the data that ships with the package: the ``.proto`` schemas and the zoo's prototxts.

In a checkout they live in ``proto/`` and ``models/`` at the top; a wheel carries them inside the
package under the same names.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def resource(*parts: str) -> Path:
    """Path of a shipped file or folder, e.g. ``resource("proto", "caffe.proto")``."""
    inside = _PACKAGE.joinpath(*parts)
    return inside if inside.exists() else _PACKAGE.parent.joinpath(*parts)
