"""Reads a caffemodel: the weights of a net, as views on the memory-mapped file.

In goes a path, out comes a ``Caffemodel``: every layer of the file with its name, its type and its
blobs, in any of Caffe's dialects (V2 ``layer``, V1 ``layers``, V0 inside V1).  Blobs of a name are
found as Caffe's CopyTrainedLayersFrom finds them.  ``rewrite`` and ``write`` (caffemodel_write.py)
make files again.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import FileError, WeightsError, suggest
from . import dialects, wire
from .blob import Blob, read_blob
from .caffemodel_write import NewLayer, rewrite, write
from .filekind import foreign_kind, how_damaged, other_message

__all__ = [
    "Blob",
    "Caffemodel",
    "LayerWeights",
    "NewLayer",
    "read",
    "read_mean",
    "rewrite",
    "write",
]

MAX_GATHERED = 1 << 18  # layers, names, types and blobs of one file: a bound on memory

_NET_NAME = 1  # NetParameter.name
_PIECE = 1 << 22  # bytes in memory at a time while a file is copied


@dataclass(frozen=True)
class LayerWeights:
    """One layer of a file.

    ``type`` is the V2 name in every dialect ("" where Caffe knows none); ``start`` and ``end`` are
    the offsets of the whole field in the file, its tag included.
    """

    name: str
    type: str
    blobs: tuple[Blob, ...]
    dialect: str
    start: int
    end: int


class Caffemodel:
    """The layers of a caffemodel, all of them, in the order of the file.

    ``dialect`` is 'V0', 'V1', 'V2', or 'none' for a net without layers; ``size`` is that of the
    file in bytes.  The file stays mapped while the model or an array from it is in use: it may be
    replaced or deleted meanwhile, but not shortened.
    """

    def __init__(self, path: str, data: mmap.mmap):
        """The net in ``data``; WeightsError, without the path, where there is none."""
        self.path = path
        self.size = len(data)
        self._data = data
        self.net_name, self.layers = _Walk(path, data).net()
        # Caffe upgrades a file with `layers` from these alone, and one with V0 from that alone.
        self.dialect = min((layer.dialect for layer in self.layers), default="none")
        self._used = {layer.name: layer for layer in self.layers if layer.dialect == self.dialect}

    def names(self) -> list[str]:
        """Names of the layers that Caffe would look at, each once."""
        return list(self._used)

    def __contains__(self, name: str) -> bool:
        return name in self._used

    def layer(self, name: str) -> LayerWeights:
        """The layer of that name; of several the last, whose blobs Caffe copies over the others."""
        if name not in self._used:
            raise WeightsError(f"{self.path}: no layer '{name}'; {suggest(name, self._used)}")
        return self._used[name]

    def blobs(self, name: str) -> list[Blob]:
        """The blobs of the layer of that name."""
        return list(self.layer(name).blobs)

    def parameters(self) -> int:
        """How many numbers the blobs hold, counting layers of one name once."""
        return sum(blob.count for layer in self._used.values() for blob in layer.blobs)

    def pieces(self, start: int, end: int) -> Iterator[memoryview]:
        """The file's bytes from ``start`` to ``end`` in pieces, each of which leaves memory again
        when the next is asked for."""
        view = memoryview(self._data)
        for begin in range(start, end, _PIECE):
            stop = min(begin + _PIECE, end)
            yield view[begin:stop]
            self.release(begin, stop)

    def release(self, start: int, end: int) -> None:
        """Let go of the memory that holds these bytes; who touches them again reads them anew."""
        if hasattr(mmap, "MADV_DONTNEED"):
            start -= start % mmap.PAGESIZE
            self._data.madvise(mmap.MADV_DONTNEED, start, end - start)


def read(path: str | os.PathLike) -> Caffemodel:
    """The layers of a caffemodel.

    Raises FileError where there is no such file, and WeightsError, which says what the file seems
    to be or at which byte it breaks off, where it is empty, damaged or of another kind.
    """
    data = _map(path, "a caffemodel")
    try:
        model = Caffemodel(os.fspath(path), data)
    except WeightsError as error:
        problem = foreign_kind(data) or other_message(data) or f"{error}; {how_damaged(data)}"
        raise WeightsError(f"{path}: {problem}") from None
    if not model.layers and (problem := other_message(data)):
        raise WeightsError(f"{path}: {problem}")
    return model


def read_mean(path: str | os.PathLike) -> np.ndarray:
    """The array of a binaryproto: a mean image, 1 x C x H x W as compute_image_mean writes it.

    Raises FileError or WeightsError as ``read`` does.
    """
    data = _map(path, "a binaryproto")
    try:
        blob = read_blob(data, 0, len(data), os.fspath(path), "the blob")
    except WeightsError as error:
        problem = foreign_kind(data) or f"{error}; expected a single blob (mean.binaryproto)"
        raise WeightsError(f"{path}: {problem}") from None
    if not blob.readable:
        raise WeightsError(f"{path}: no numbers here; expected a single blob (mean.binaryproto)")
    return blob.array()


def _map(path: str | os.PathLike, expected: str) -> mmap.mmap:
    try:
        with open(path, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FileError(
                    f"{path}: this is a pipe or a device, and {expected} is mapped, not streamed; "
                    "save it to a file first"
                )
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise FileError(f"{path}: no such file; expected {expected}") from None
    except IsADirectoryError:
        raise FileError(f"{path}: this is a folder; name {expected} in it") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise WeightsError(
            f"{path}: the file is empty (0 bytes), a net without layers; expected {expected}: "
            "copy or download it again"
        ) from None


class _Walk:
    """One walk over the fields of a NetParameter, which gathers its layers."""

    def __init__(self, path: str, data: mmap.mmap):
        self.path = path
        self.data = data
        self.gathered = 0

    def net(self) -> tuple[str, list[LayerWeights]]:
        """The net's name and its layers."""
        dialect = {dialects.LAYER: "V2", dialects.LAYERS: "V1"}
        names, layers, previous = [], [], 0
        for number, kind, start, stop in wire.fields(self.data, 0, len(self.data)):
            if kind == wire.BYTES and number == _NET_NAME:
                names = [(start, stop)]
            elif kind == wire.BYTES and number in dialect:
                layers.append(self.layer(dialect[number], [(start, stop)], previous, stop))
            previous = stop
        return self.text(names), layers

    def layer(self, dialect: str, parts: list, start: int, end: int) -> LayerWeights:
        """The layer whose message is in ``parts``; V1 turns into the V0 that it holds."""
        self.count(start)
        numbers = dialects.DIALECTS[dialect]
        wanted = {numbers.name: wire.BYTES, numbers.type: wire.BYTES, numbers.blobs: wire.BYTES}
        if dialect == "V1":
            wanted.update({numbers.type: wire.VARINT, dialects.V0_IN_V1: wire.BYTES})
        found = self.gather(parts, wanted)
        if dialect == "V1" and found[dialects.V0_IN_V1]:
            return self.layer("V0", found[dialects.V0_IN_V1], start, end)
        name = self.text(found[numbers.name])
        blobs = (
            read_blob(self.data, *span, self.path, f"layer '{name[:80]}', blob {i}")
            for i, span in enumerate(found[numbers.blobs])
        )
        type_name = self.type_name(dialect, found[numbers.type])
        return LayerWeights(name, type_name, tuple(blobs), dialect, start, end)

    def gather(self, parts: list, wanted: dict[int, int]) -> dict[int, list[tuple[int, int]]]:
        """The spans of the ``wanted`` fields (number -> wire type) of a message that may come in
        parts, which protobuf merges: of single fields the last counts, repeated ones add up."""
        found = {number: [] for number in wanted}
        for part in parts:
            for number, kind, start, stop in wire.fields(self.data, *part):
                if wanted.get(number) == kind:
                    self.count(start)
                    found[number].append((start, stop))
        return found

    def count(self, position: int) -> None:
        """Keep what is gathered, and with it memory, within bounds."""
        self.gathered += 1
        if self.gathered > MAX_GATHERED:
            what = f"more than {MAX_GATHERED} layers, names, types and blobs; no net has so many"
            raise wire.damaged(position, what)

    def text(self, spans: list[tuple[int, int]]) -> str:
        """The last of several strings."""
        return self.data[slice(*spans[-1])].decode("utf-8", "surrogateescape") if spans else ""

    def type_name(self, dialect: str, spans: list[tuple[int, int]]) -> str:
        """The layer type under its V2 name."""
        if dialect == "V1":
            names = dialects.v1_type_names()
            values = (wire.varint(self.data, *span)[0] for span in reversed(spans))
            return next((names[value] for value in values if value in names), "")
        text = self.text(spans)
        return dialects.V0_TYPES.get(text, text) if dialect == "V0" else text
