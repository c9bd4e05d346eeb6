"""The one error family of caffesurgery.

Every error that a user can cause is a ``SurgeryError``: one message that says what was met, where
(file, line, layer), what was expected and what to do.  The command line prints it without a
traceback and exits with ``exit_code``; a subclass only says which stage refused.
"""

from __future__ import annotations

from collections.abc import Sequence


class SurgeryError(Exception):
    """Base of all errors that caffesurgery raises on purpose."""

    exit_code = 1


class UsageError(SurgeryError):
    """What was asked for does not exist or cannot be read: an unknown method, a malformed rule."""

    exit_code = 2


class FileError(SurgeryError):
    """A file is missing, unreadable, of another kind, or would be overwritten."""


class ParseError(FileError):
    """A prototxt that is not well formed; ``line`` and ``column`` count from 1."""

    def __init__(self, message: str, line: int = 0, column: int = 0):
        super().__init__(message)
        self.line = line
        self.column = column


class WeightsError(FileError):
    """A caffemodel that is truncated, corrupt, or does not hold what was asked for."""


class NetError(SurgeryError):
    """A net that Caffe would refuse, or that lacks what a stage needs to know."""


class DataError(SurgeryError):
    """Images, labels or a data layer's source that are not there, or do not fit."""


class DecomposeError(SurgeryError):
    """A tensor or rank that a decomposition cannot take."""


class RankError(SurgeryError):
    """A rank rule that is unknown, malformed, or cannot be met."""


class PlanError(SurgeryError):
    """A plan that does not fit its net, or cannot be carried out."""


class ExportError(SurgeryError):
    """A layer or net that cannot be written as ONNX."""


class VerifyError(SurgeryError):
    """Two nets that cannot be compared, or inputs that do not fit."""


class SolverError(SurgeryError):
    """A solver that Caffe would refuse, or that names a net that is not there."""


class TrainError(SurgeryError):
    """Training that cannot begin, or that ended otherwise than by being done."""


class FlowError(SurgeryError):
    """A flow that cannot be carried out, or that no longer is the one that was begun."""


class WorkerError(SurgeryError):
    """Work that could not be shared out: workers that cannot be reached, or that keep dying."""


def suggest(word: str, known, most: int = 24) -> str:
    """The end of an error about an unknown word: the nearest name, then all, or the first ones."""
    import difflib

    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}known: {some(names, most) or 'none'}"


def some(names: Sequence[str], most: int = 8) -> str:
    """The first names, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
