"""HDF5Data: data sets of the files that a list names, one for each top, of any shape.

As BVLC Caffe's layer: files one after the other, float or integer data sets with as many rows,
nothing transformed; with ``shuffle`` the files and the rows of each in another order every round.
"""

from __future__ import annotations

import functools
import threading
from pathlib import Path

import numpy as np

from ..errors import DataError, UsageError
from ..net.net import Layer
from .order import permutation
from .places import find

Rows = tuple[np.ndarray, ...]


class HDF5Source:
    """The rows of HDF5 files as items (see ``feed.Source``)."""

    def __init__(self, layer: Layer, folder: Path | None):
        params = layer.params("hdf5_data_param")
        self._where, self._tops, self._shuffle = layer.where(), layer.tops, params["shuffle"]
        source = find(params["source"], folder, self._where, "source")
        self._files = [find(name, source.parent, str(source), "file") for name in _names(source)]
        self._h5py = _h5py()
        found = [self._shapes(path) for path in self._files]
        self.shapes = tuple(shape[1:] for shape in found[0])
        for path, shapes in zip(self._files, found):
            if tuple(shape[1:] for shape in shapes) != self.shapes:
                raise DataError(
                    f"{path}: rows of {shapes}, and those of {self._files[0]} are {found[0]}; "
                    "expected files with the same shapes"
                )
        self._counts = np.array([shapes[0][0] for shapes in found])
        self.size = int(self._counts.sum())
        self._held = functools.lru_cache(maxsize=2)(self._load)  # whole files, as Caffe does
        self._loading = threading.Lock()

    def read(self, items: np.ndarray, seed: int) -> Rows:
        """The rows of these numbers, for each top."""
        out = tuple(np.empty((len(items), *shape), np.float32) for shape in self.shapes)
        for epoch in np.unique(items // self.size):
            order = self._order(int(epoch), seed)
            ends = np.cumsum(self._counts[order])
            mine = np.flatnonzero(items // self.size == epoch)
            inside = items[mine] % self.size
            turns = np.searchsorted(ends, inside, side="right")
            for turn in np.unique(turns):
                chosen = turns == turn
                rows = inside[chosen] - (ends[turn] - self._counts[order[turn]])
                if self._shuffle:
                    shuffled = permutation(int(self._counts[order[turn]]), seed, epoch, turn + 1)
                    rows = shuffled[rows]
                for made, held in zip(out, self._rows(int(order[turn]))):
                    made[mine[chosen]] = held[rows]
        return out

    def _order(self, epoch: int, seed: int) -> np.ndarray:
        count = len(self._files)
        return permutation(count, seed, epoch, 0) if self._shuffle else np.arange(count)

    def _shapes(self, path: Path) -> list[tuple[int, ...]]:
        """Shapes of the data sets of all tops, rows in front."""
        with self._open(path) as file:
            shapes = [self._data_set(file, top, path).shape for top in self._tops]
        if len({shape[0] for shape in shapes}) != 1 or not shapes[0][0]:
            told = ", ".join(f"{top} {shape[0]}" for top, shape in zip(self._tops, shapes))
            raise DataError(f"{path}: rows of {told}; expected as many of each, and at least one")
        return shapes

    def _rows(self, number: int) -> Rows:
        with self._loading:
            return self._held(number)

    def _load(self, number: int) -> Rows:
        path = self._files[number]
        with self._open(path) as file:
            return tuple(
                np.asarray(self._data_set(file, top, path)[()], np.float32) for top in self._tops
            )

    def _open(self, path: Path):
        try:
            return self._h5py.File(path, "r")
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read as HDF5 ({error}); expected a file of data sets "
                f"{', '.join(self._tops)}"
            ) from None

    def _data_set(self, file, top: str, path: Path):
        found = file.get(top)
        if not isinstance(found, self._h5py.Dataset):
            raise DataError(
                f"{path}: has no data set '{top}', which {self._where} takes; it has "
                f"{', '.join(sorted(file)) or 'none'}"
            )
        if found.dtype.kind not in "uif" or not found.ndim:
            raise DataError(
                f"{path}: '{top}' holds {found.dtype} of shape {found.shape}; expected numbers, "
                "a row for each item"
            )
        return found


def _names(source: Path) -> list[str]:
    """The words of a list of files."""
    try:
        names = source.read_text(encoding="utf-8", errors="surrogateescape").split()
    except OSError as error:
        raise DataError(
            f"{source}: cannot be read ({error.strerror}); expected a list of HDF5 files"
        ) from None
    if not names:
        raise DataError(f"{source}: lists no file; expected the names of HDF5 files")
    if any("\0" in name for name in names):
        raise DataError(f"{source}: is no text; expected a list of the names of HDF5 files")
    return names


def _h5py():
    try:
        import h5py
    except ImportError:
        raise UsageError(
            "HDF5 files need h5py, which is not installed; `pip install 'caffesurgery[data]'`"
        ) from None
    return h5py
