"""Lines of a glog log, which Caffe writes: the mark in front of a line, and what the line says."""

from __future__ import annotations

import re

_PREFIX = re.compile(r"^([IWEF])\d{4,8} [\d:.]+ +\d+ [\w.+-]+:\d+\] ?")


def split(line: str) -> tuple[str, str]:
    """The severity (I, W, E, F) and what is said; '' and the line where it has no mark of glog."""
    prefix = _PREFIX.match(line)
    return (prefix[1], line[prefix.end() :]) if prefix else ("", line)
