"""Reads one BlobProto: its shape by Caffe's rules, its numbers as a view on the file.

Nothing is copied until ``Blob.array`` has to: numbers that lie in one packed piece, as all Caffes
write them, are a NumPy view.  Unpacked numbers, several pieces and half floats are put together
on demand.  What Caffe's Blob::FromProto would refuse is a WeightsError here, on reading.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..errors import WeightsError
from . import wire

MAX_AXES = 32  # Caffe's kMaxBlobAxes
MAX_COUNT = 2**31 - 1  # Caffe counts elements in an int

_LEGACY = (1, 2, 3, 4)  # num, channels, height, width
_DATA, _DIFF, _SHAPE, _DOUBLE_DATA, _DOUBLE_DIFF = 5, 6, 7, 8, 9
_DIM = 1  # BlobShape.dim
_FLOAT, _DOUBLE, _HALF = np.dtype("<f4"), np.dtype("<f8"), np.dtype("<f2")
_DTYPES = {_DATA: _FLOAT, _DIFF: _FLOAT, _DOUBLE_DATA: _DOUBLE, _DOUBLE_DIFF: _DOUBLE}
# NVIDIA's fork writes half-precision nets as raw bytes, and their type in a field beside them.
_RAW_TYPE, _RAW_DATA = 10, 12
_RAW_DTYPES = {0: _DOUBLE, 1: _FLOAT, 2: _HALF}


@dataclass(frozen=True)
class _Place:
    """Where a blob's numbers are: in field ``number``, at ``offset`` if all in one piece."""

    number: int
    dtype: np.dtype
    offset: int | None


@dataclass(frozen=True)
class Blob:
    """An array of numbers in a file.

    ``shape`` is as the file has it: four axes where ``legacy_dims`` (num, channels, height, width)
    were used, so that an InnerProduct's weights are 1 x 1 x N x M and a bias 1 x 1 x 1 x N.
    ``dtype`` is float64 for double precision, else float32.  ``start`` and ``end`` are the offsets
    of the BlobProto in the file.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    count: int
    legacy_dims: bool
    has_diff: bool
    start: int
    end: int
    _where: str = field(repr=False)
    _data: object = field(repr=False, compare=False)
    _place: _Place | None = field(repr=False)

    @property
    def readable(self) -> bool:
        """False where a fork keeps the numbers in a field of its own that is not understood."""
        return self._place is not None

    def array(self) -> np.ndarray:
        """The numbers, read-only, in ``shape`` and ``dtype``; a view on the file where it can be.

        Raises WeightsError where they are not ``readable``.
        """
        place = self._place
        if place is None:
            raise WeightsError(
                f"{self._where} keeps its {self.count} numbers in a field that a fork of Caffe "
                "invented, and they cannot be read; have that fork save the net in single precision"
            )
        if place.offset is not None:
            array = np.frombuffer(self._data, place.dtype, self.count, place.offset)
        else:
            array = self._assembled(place)
        array = array.astype(self.dtype, copy=False).reshape(self.shape)
        array.flags.writeable = False
        return array

    def _assembled(self, place: _Place) -> np.ndarray:
        """The numbers of a blob that lie in several pieces."""
        array = np.empty(self.count, place.dtype)
        filled = 0
        for number, kind, begin, stop in wire.fields(self._data, self.start, self.end, _DTYPES):
            if number == place.number and _holds_numbers(number, kind):
                piece = wire.numbers(self._data, place.dtype, kind, begin, stop)
                array[filled : filled + len(piece)] = piece
                filled += len(piece)
        return array


@dataclass
class _Found:
    """What the fields of a BlobProto say, before it is made a Blob."""

    legacy: dict[int, int] = field(default_factory=dict)
    dims: list[int] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=lambda: dict.fromkeys(_DTYPES, 0))
    offsets: dict[int, int | None] = field(default_factory=dict)  # None: not in one packed piece
    raw_type: int | None = None
    raw_data: tuple[int, int] | None = None
    foreign: bool = False  # bytes in a field that Caffe does not know

    def place(self, count: int) -> _Place | None:
        """Where the ``count`` numbers are; None if there are not just as many."""
        number = _DOUBLE_DATA if self.counts[_DOUBLE_DATA] else _DATA
        if self.counts[number] == count:
            return _Place(number, _DTYPES[number], self.offsets.get(number, None if count else 0))
        if not self.counts[number] and self.raw_data and self.raw_type in _RAW_DTYPES:
            dtype, (begin, stop) = _RAW_DTYPES[self.raw_type], self.raw_data
            if stop - begin == count * dtype.itemsize:
                return _Place(_RAW_DATA, dtype, begin)
        return None


def read_blob(data, start: int, end: int, path: str, name: str) -> Blob:
    """The BlobProto in ``data[start:end]``; ``path`` and ``name`` say in errors where and which.

    Raises WeightsError for negative extents, more than 32 axes, more than 2^31 - 1 elements, and
    numbers that are more or fewer than the shape has elements.
    """
    where = f"{name} (byte {start})"
    found = _scan(data, start, end, where)
    shape = tuple(found.legacy.get(n, 0) for n in _LEGACY) if found.legacy else tuple(found.dims)
    count = _elements(shape, where)
    place = found.place(count)
    given = found.counts[_DOUBLE_DATA] or found.counts[_DATA]
    if place is None and (given or not found.foreign):
        raise _misfit(where, f"{given} numbers", shape, count)
    diff = found.counts[_DOUBLE_DIFF] or found.counts[_DIFF]
    if diff not in (0, count):
        raise _misfit(where, f"{diff} gradients", shape, count)
    return Blob(
        shape=shape,
        dtype=_DOUBLE if place and place.dtype == _DOUBLE else _FLOAT,
        count=count,
        legacy_dims=bool(found.legacy),
        has_diff=diff > 0,
        start=start,
        end=end,
        _where=f"{path}: {where}",
        _data=data,
        _place=place,
    )


def _scan(data, start: int, end: int, where: str) -> _Found:
    found = _Found()
    for number, kind, begin, stop in wire.fields(data, start, end, runs=_DTYPES):
        if number in _DTYPES and _holds_numbers(number, kind):
            count = _count(number, kind, begin, stop, where)
            if count:
                alone = kind == wire.BYTES and number not in found.offsets
                found.offsets[number] = begin if alone else None
            found.counts[number] += count
        elif number in _LEGACY and kind == wire.VARINT:
            found.legacy[number] = wire.signed(wire.varint(data, begin, stop)[0], 32)
        elif number == _SHAPE and kind == wire.BYTES:
            _scan_shape(data, begin, stop, found.dims, where)
        elif number == _RAW_TYPE and kind == wire.VARINT:
            found.raw_type = wire.varint(data, begin, stop)[0]
        elif number > _DOUBLE_DIFF and kind == wire.BYTES:
            found.foreign = True
            if number == _RAW_DATA:
                found.raw_data = (begin, stop)
    return found


def _scan_shape(data, start: int, end: int, dims: list[int], where: str) -> None:
    """Add a BlobShape's extents to ``dims``; several shapes of one blob are joined, as protobuf
    merges a message that comes in parts."""
    for number, kind, begin, stop in wire.fields(data, start, end):
        if number == _DIM and kind in (wire.BYTES, wire.VARINT):
            for value in wire.varints(data, begin, stop):
                dims.append(wire.signed(value, 64))
                if len(dims) > MAX_AXES:
                    raise WeightsError(
                        f"{where} has more than the {MAX_AXES} axes that Caffe allows"
                    )


def _holds_numbers(number: int, kind: int) -> bool:
    """Whether a field of ``_DTYPES`` has the wire type of a packed or an unpacked element."""
    unpacked = wire.FIXED32 if _DTYPES[number] is _FLOAT else wire.FIXED64
    return kind in (wire.BYTES, unpacked)


def _count(number: int, kind: int, start: int, stop: int, where: str) -> int:
    size = _DTYPES[number].itemsize
    if kind != wire.BYTES:
        return (stop - start + 1) // (size + 1)
    if (stop - start) % size:
        raise WeightsError(
            f"{where} has {stop - start} bytes at byte {start} for numbers of {size} bytes each"
        )
    return (stop - start) // size


def _elements(shape: tuple[int, ...], where: str) -> int:
    """Product of the extents, which Caffe keeps in an int."""
    count = 1
    for dim in shape:
        count *= dim
        if dim < 0 or dim > MAX_COUNT or count > MAX_COUNT:
            raise WeightsError(
                f"{where} has shape {_show(shape)}; Caffe allows extents from 0 on and at most "
                f"{MAX_COUNT} elements"
            )
    return count


def _misfit(where: str, met: str, shape: tuple[int, ...], count: int) -> WeightsError:
    return WeightsError(f"{where} has {met}, but its shape {_show(shape)} needs {count}")


def _show(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "()"
