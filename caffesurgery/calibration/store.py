"""Activations of many batches: in memory as long as they fit, then in a temporary folder.

What is in the folder goes with it when the store is closed, whatever happens in between.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Hashable
from pathlib import Path
from threading import Lock

import numpy as np

from ..errors import FileError


class Store:
    """Arrays by key; ``limit`` bytes of them stay in memory, the rest goes to ``folder``.

    folder: by default the system's folder for temporary files
    May be used by several threads, each with keys of its own.
    """

    def __init__(self, limit: int = 1 << 30, folder: str | None = None):
        self._limit = limit
        self._held: dict[Hashable, np.ndarray | Path] = {}
        self._bytes = 0
        self._lock = Lock()
        self._numbers = itertools.count()
        self._folder: tempfile.TemporaryDirectory | None = None
        self._place = folder
        self.spilled = 0

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error) -> None:
        self._held.clear()
        if self._folder:
            self._folder.cleanup()

    def put(self, key: Hashable, array: np.ndarray) -> None:
        """Keep an array under a new key; FileError where there is no room on the disk."""
        with self._lock:
            fits = self._bytes + array.nbytes <= self._limit
            if fits:
                self._bytes += array.nbytes
                self._held[key] = array
        if not fits:
            path = self._write(array)
            with self._lock:
                self._held[key] = path
                self.spilled += array.nbytes

    def get(self, key: Hashable) -> np.ndarray:
        """The array of a key; what the caller writes into it may or may not stay."""
        found = self._held[key]
        return np.load(found) if isinstance(found, Path) else found

    def drop(self, key: Hashable) -> None:
        """Forget a key."""
        with self._lock:
            found = self._held.pop(key)
            if not isinstance(found, Path):
                self._bytes -= found.nbytes
        if isinstance(found, Path):
            found.unlink()

    def _write(self, array: np.ndarray) -> Path:
        try:
            with self._lock:
                if self._folder is None:
                    self._folder = tempfile.TemporaryDirectory("", "caffesurgery-", self._place)
                path = Path(self._folder.name, f"{next(self._numbers)}.npy")
            np.save(path, array)
        except OSError as error:
            raise FileError(
                f"{self._place or tempfile.gettempdir()}: no room for the activations of the "
                f"images ({error.strerror or error}); free some space, set TMPDIR to another "
                "place, or give fewer images"
            ) from error
        return path
