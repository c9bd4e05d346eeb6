"""Opens .npy and .npz files, or says why they are none."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from ..errors import DataError


def open_numpy(path: str | os.PathLike, expected: str):
    """A memory-mapped array, or the archive of a .npz, to be closed; DataError for other files."""
    path = Path(path)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected {expected} as .npy or .npz") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = "it is no NumPy file" if "pickle" in str(error) else error
        raise DataError(
            f"{path}: cannot be read as {expected} ({reason}); expected a .npy or .npz file, as "
            "numpy.save and numpy.savez write them"
        ) from None


def is_numpy(path) -> bool:
    """Whether a path is that of a NumPy file, by its name."""
    return Path(path).suffix.lower() in (".npy", ".npz")
