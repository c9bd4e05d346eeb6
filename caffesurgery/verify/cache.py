"""Measured metrics on disk, by the hash of all that they depend on.

One small JSON file for each case; what cannot be read is measured again.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from .. import __version__
from ..errors import FileError
from ..files.atomic import write_bytes
from .decomposed import Case
from .evaluate import Outcome
from .scores import Metrics

_FORMAT = 1


def default_folder() -> Path:
    """CAFFESURGERY_CACHE, or else ``caffesurgery`` where this user's programs keep such files."""
    if os.environ.get("CAFFESURGERY_CACHE"):
        return Path(os.environ["CAFFESURGERY_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "caffesurgery"


class MetricsCache:
    """Outcomes by subject and case; keeps nothing where ``folder`` is None."""

    def __init__(self, folder: str | os.PathLike | None):
        self.folder = None if folder is None else Path(folder, "metrics")

    def check(self, required: bool = True) -> None:
        """See that something can be written, before the work.

        Where nothing can, nothing is kept; or FileError says so if it is ``required``.
        """
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            reason = "" if os.access(self.folder, os.W_OK) else "it may not be written to"
        except OSError as error:
            reason = error.strerror or str(error)
        if reason and required:
            raise FileError(
                f"{self.folder}: measured metrics cannot be kept there ({reason}); choose another "
                "folder with --cache, or say --no-cache"
            )
        if reason:
            self.folder = None

    def get(self, digest: str, case: Case) -> Outcome | None:
        """What was measured before; None where nothing was, or what is there makes no sense."""
        if self.folder is None:
            return None
        try:
            found = json.loads(self._path(digest, case).read_text(encoding="utf-8"))
            predicted = np.array(found["predicted"], np.int64)
            return Outcome(Metrics(**found["metrics"]), predicted)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, digest: str, case: Case, outcome: Outcome) -> None:
        """Keep an outcome; the predicted classes only for the net as it is, which others need."""
        if self.folder is None:
            return
        predicted = [] if case else outcome.predicted.tolist()
        entry = {
            "metrics": outcome.metrics.as_dict(),
            "case": [cut._asdict() for cut in case],
            "predicted": predicted,
        }
        text = json.dumps(entry, allow_nan=False) + "\n"
        write_bytes(self._path(digest, case), text.encode(), force=True)

    def _path(self, digest: str, case: Case) -> Path:
        import onnxruntime

        depends = (_FORMAT, __version__, onnxruntime.__version__, digest, tuple(map(tuple, case)))
        key = hashlib.sha256(repr(depends).encode("utf-8", "surrogateescape")).hexdigest()
        return self.folder / key[:2] / f"{key}.json"
