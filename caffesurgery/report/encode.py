"""Reports as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping


def encode_json(data: Mapping) -> bytes:
    """The report as indented JSON in UTF-8; bytes of names that are not UTF-8 come escaped."""
    text = json.dumps(_finite(data), indent=1, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def _finite(value):
    """JSON has no NaN or Infinity: they become null."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
