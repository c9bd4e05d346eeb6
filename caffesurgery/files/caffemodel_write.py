"""Writes caffemodels: a new one from layers, or an old one with some of its layers replaced.

Both stream: bytes that stay go from the old file to the new piece by piece, and a new layer's
blobs are made when it is their turn, so that memory holds one layer at a time.  New layers are
written as Caffe itself writes that dialect: fields in the order of their numbers, floats packed,
BlobShape in V2 and the four legacy dims in files that are older.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ..errors import WeightsError, suggest
from . import atomic, dialects, wire

if TYPE_CHECKING:
    from .caffemodel import Caffemodel

Progress = Callable[[int], None]

MAX_BYTES = 2**31 - 1  # protobuf, and so Caffe, reads no message that is longer

_PIECE = 1 << 22  # bytes between two reports of progress
_LEGACY, _DATA, _SHAPE = (1, 2, 3, 4), 5, 7  # BlobProto; legacy: num, channels, height, width
_DIM = 1  # BlobShape


@dataclass(frozen=True)
class NewLayer:
    """A layer to be written: ``type`` is its V2 name in every dialect.

    ``blobs`` are arrays (written as float32), or a function that makes them when the layer is
    written and not before.
    """

    name: str
    type: str
    bottoms: Sequence[str]
    tops: Sequence[str]
    blobs: Sequence[np.ndarray] | Callable[[], Sequence[np.ndarray]] = ()


def write(
    target: str | os.PathLike | BinaryIO,
    net_name: str,
    layers: Iterable[NewLayer],
    dialect: str = "V2",
    progress: Progress | None = None,
    force: bool = False,
) -> None:
    """Write a caffemodel of ``layers``, which are taken and written one after the other.

    ``target`` is a path (written whole or not at all, and over an existing file only with
    ``force``) or a binary stream.  ``progress`` is called with the number of bytes written so far.
    Raises FileError, and WeightsError where the dialect cannot say a layer or the file would
    exceed the 2 GiB that Caffe reads.
    """
    with _sink(target, force, progress) as sink:
        sink.write(wire.string(1, net_name))
        for layer in layers:
            sink.layer(layer, dialect, legacy=dialect != "V2")


def rewrite(
    model: Caffemodel,
    replacements: Mapping[str, Sequence[NewLayer]],
    target: str | os.PathLike | BinaryIO,
    progress: Progress | None = None,
    force: bool = False,
) -> None:
    """Write ``model`` with each layer named in ``replacements`` replaced by the layers given there.

    Everything else is copied byte for byte; an empty sequence deletes a layer.  New layers are in
    the dialect of the file, and with legacy dims where the file has them.  Of several layers of
    one name, the last is replaced and the others, which Caffe would overwrite, are left out.
    ``target``, ``progress``, ``force`` and errors are those of ``write``; WeightsError also for a
    name that the file has not.
    """
    for name in replacements:
        if name not in model:
            known = suggest(name, model.names())
            raise WeightsError(f"{model.path}: no layer '{name}' to replace; {known}")
    legacy = model.dialect != "V2" or any(b.legacy_dims for e in model.layers for b in e.blobs)
    with _sink(target, force, progress) as sink:
        position = 0
        for old in model.layers:
            if old.name in replacements:
                sink.copy(model, position, old.start)
                if old is model.layer(old.name):
                    for new in replacements[old.name]:
                        sink.layer(new, model.dialect, legacy)
                model.release(old.start, old.end)
                position = old.end
        sink.copy(model, position, model.size)


@contextlib.contextmanager
def _sink(target, force: bool, progress: Progress | None) -> Iterator[_Sink]:
    if hasattr(target, "write"):
        yield _Sink(target, progress)
    else:
        with atomic.writing(target, force) as stream:
            yield _Sink(stream, progress)


class _Sink:
    """A stream that counts what it takes."""

    def __init__(self, stream: BinaryIO, progress: Progress | None):
        self.stream = stream
        self.progress = progress
        self.written = 0

    def write(self, content: bytes | memoryview | np.ndarray) -> None:
        """Pass on bytes, or an array as float32."""
        if isinstance(content, np.ndarray):
            content = np.ascontiguousarray(content, "<f4").reshape(-1).view(np.uint8)
        view = memoryview(content)
        if self.written + len(view) > MAX_BYTES:
            raise WeightsError(
                f"the caffemodel would be longer than {MAX_BYTES} bytes, and Caffe reads no file "
                "that is; the net must have fewer weights"
            )
        start = 0
        while start < len(view):
            taken = self.stream.write(view[start : start + _PIECE])
            start += taken
            self.written += taken
            if self.progress is not None:
                self.progress(self.written)

    def copy(self, model: Caffemodel, start: int, end: int) -> None:
        """Pass on bytes of an old file."""
        for piece in model.pieces(start, end):
            self.write(piece)

    def layer(self, layer: NewLayer, dialect: str, legacy: bool) -> None:
        """Add a layer to the net."""
        for piece in _layer(layer, dialect, legacy):
            self.write(piece)


def _layer(layer: NewLayer, dialect: str, legacy: bool) -> list[bytes | np.ndarray]:
    """The NetParameter field that holds ``layer``, in pieces."""
    numbers = dialects.DIALECTS[dialect]
    arrays = layer.blobs() if callable(layer.blobs) else layer.blobs
    blobs = [p for a in arrays for p in blob_field(numbers.blobs, np.asarray(a), legacy)]
    name = wire.string(numbers.name, layer.name)
    ends = b"".join(
        [wire.string(numbers.bottom, bottom) for bottom in layer.bottoms]
        + [wire.string(numbers.top, top) for top in layer.tops]
    )
    if dialect == "V2":
        return _nested(
            dialects.LAYER, [name + wire.string(numbers.type, layer.type) + ends, *blobs]
        )
    codes = dialects.type_codes(dialect)
    if layer.type not in codes:
        raise WeightsError(
            f"layer '{layer.name}': the dialect {dialect} of this file has no type "
            f"'{layer.type}'; bring the file up to date with Caffe's upgrade_net_proto_binary first"
        )
    code = codes[layer.type]
    if dialect == "V1":
        return _nested(dialects.LAYERS, [ends + name + wire.integer(numbers.type, code), *blobs])
    inner = _nested(dialects.V0_IN_V1, [name + wire.string(numbers.type, code), *blobs])
    return _nested(dialects.LAYERS, [*inner, ends])


def blob_field(number: int, array: np.ndarray, legacy: bool = False) -> list[bytes | np.ndarray]:
    """A field ``number`` with a BlobProto, in pieces.  More than four axes have no legacy form."""
    data = [wire.header(_DATA, 4 * array.size), array] if array.size else []
    if legacy and array.ndim <= 4:
        dims = (1,) * (4 - array.ndim) + array.shape
        return _nested(number, [b"".join(map(wire.integer, _LEGACY, dims)), *data])
    if array.ndim == 0:  # Caffe writes no shape for a blob without axes
        return _nested(number, data)
    return _nested(number, [*data, wire.block(_SHAPE, wire.packed(_DIM, array.shape))])


def _nested(number: int, pieces: list[bytes | np.ndarray]) -> list[bytes | np.ndarray]:
    """``pieces`` as the content of field ``number``; arrays count as float32."""
    size = sum(4 * p.size if isinstance(p, np.ndarray) else len(p) for p in pieces)
    return [wire.header(number, size), *pieces]
