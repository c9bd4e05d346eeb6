"""The commands by topic.  Each reads its arguments, calls the public interface, prints the result.

Imports of anything heavy are inside the commands, so that ``--help`` answers at once.
"""

from importlib import import_module

from .group import cli

__all__ = ["cli"]

TOPICS = (
    "nets",
    "cost",
    "time",
    "ranks",
    "surgery",
    "onnx",
    "phones",
    "evaluate",
    "train",
    "flow",
    "catalogue",
)
"""Modules in the order in which ``--help`` lists their commands: that of the job."""

for _topic in TOPICS:
    import_module(f".{_topic}", __name__)
