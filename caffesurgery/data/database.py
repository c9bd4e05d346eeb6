"""LMDB of Datum, in the order of its keys, as Caffe's Data layer reads it.

Records are found by their number: a cursor walks from the nearest of some keys that are kept.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ..errors import DataError, UsageError
from .datum import DatumReader, label_of

_STEP = 256  # records between two kept keys
_SPARE = 16  # pages
DATA_FILE = "data.mdb"
_LEVELDB_FILE = "CURRENT"

_open: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
_opening = threading.Lock()


def is_lmdb(path: str | os.PathLike) -> bool:
    """Whether a folder is an LMDB."""
    return (Path(path) / DATA_FILE).is_file()


def is_leveldb(path: str | os.PathLike) -> bool:
    """Whether a folder is a LevelDB."""
    return (Path(path) / _LEVELDB_FILE).is_file()


def open_database(path: str | os.PathLike, colour: bool | None = None) -> Database:
    """The database in a folder; ``colour`` as ``decode`` takes it, for encoded records.

    Raises DataError for what is no LMDB or has no records, UsageError without the lmdb package.
    """
    return Database(_environment(Path(path)), str(path), colour)


class Database:
    """The records of an LMDB as ``pictures.Pictures``."""

    labelled = True

    def __init__(self, environment: _Environment, path: str, colour: bool | None):
        self._environment, self._path, self._colour = environment, path, colour
        self._parse = DatumReader()
        self.size = environment.size

    def __reduce__(self):
        return open_database, (self._path, self._colour)

    def name(self, place: int) -> str:
        """The path and the record's key."""
        ((key, _),) = self._environment.records(np.array([place]))
        return self._named(key)

    def take(self, places: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Images C x H x W and labels of the records at these places."""
        for key, datum in self._read(places, self._parse):
            yield datum.image(self._colour, self._named(key)), datum.label

    def labels(self, places: np.ndarray) -> np.ndarray:
        """The labels of the records at these places; of the data, nothing is even copied."""
        return np.array([label for _, label in self._read(places, label_of, True)], np.int64)

    def _read(self, places: np.ndarray, parse: Callable, views: bool = False) -> Iterator:
        """(Key, what ``parse`` makes of the record) at these places."""
        for key, record in self._environment.records(places, views):
            try:
                found = parse(record)
            except DataError as error:
                raise DataError(f"{self._named(bytes(key))}: {error}") from None
            yield key, found

    def _named(self, key: bytes) -> str:
        return f"{self._path}: record {key.decode('utf-8', 'backslashreplace')}"


class _Environment:
    """An open LMDB and the keys of every ``_STEP``-th record; shared by all who read it."""

    def __init__(self, path: Path, lmdb):
        self._path, self._lmdb = path, lmdb
        self._keys: list[bytes] = []
        self._indexing = threading.Lock()
        try:
            self._env = lmdb.open(str(path), readonly=True, lock=False, readahead=True)
            self.size = self._env.stat()["entries"]
        except lmdb.Error as error:
            raise DataError(f"{path}: cannot be read as LMDB ({error})") from None
        self._check_whole()
        if not self.size:
            raise DataError(f"{path}: holds no record; expected at least one image")

    def _check_whole(self) -> None:
        """Refuse a file that was cut off: reading what is mapped behind its end kills the process.

        Its very last pages may rightly be missing, where they were freed before they were written.
        """
        page = self._env.stat()["psize"]
        expected = (self._env.info()["last_pgno"] + 1) * page
        met = os.path.getsize(self._path / DATA_FILE)
        if met < expected - _SPARE * page:
            raise DataError(
                f"{self._path}: {DATA_FILE} is cut off: {met} bytes of {expected}; copy it again"
            )

    def records(self, places: np.ndarray, views: bool = False) -> Iterator[tuple]:
        """Key and value of the records at these places (numbers in the order of the keys).

        They are bytes, or ``views`` that hold until the next one is asked for.
        """
        keys = self._index()
        try:
            with self._env.begin(buffers=views) as begun, begun.cursor() as cursor:
                at = None
                for place in places.tolist():
                    kept = place // _STEP
                    if at is None or not at <= place < at + _STEP:
                        cursor.set_key(keys[kept])
                        at = kept * _STEP
                    for _ in range(place - at):
                        cursor.next()
                    at = place
                    yield cursor.item()
        except self._lmdb.Error as error:
            raise DataError(f"{self._path}: cannot be read as LMDB ({error})") from None

    def _index(self) -> list[bytes]:
        with self._indexing:
            if not self._keys:
                with self._env.begin() as transaction, transaction.cursor() as cursor:
                    for place, key in enumerate(cursor.iternext(keys=True, values=False)):
                        if place % _STEP == 0:
                            self._keys.append(key)
            return self._keys


def _environment(path: Path) -> _Environment:
    """The environment in a folder; LMDB lets a process open each one once."""
    if not is_lmdb(path):
        raise DataError(f"{path}: is no LMDB (it has no {DATA_FILE}); expected the folder of one")
    lmdb = _lmdb()
    key = os.getpid(), os.path.realpath(path)
    with _opening:
        found = _open.get(key)
        if found is None:
            found = _open[key] = _Environment(path, lmdb)
        return found


def _lmdb():
    try:
        import lmdb
    except ImportError:
        raise UsageError(
            "LMDB needs the package lmdb, which is not installed; `pip install "
            "'caffesurgery[data]'`"
        ) from None
    return lmdb
