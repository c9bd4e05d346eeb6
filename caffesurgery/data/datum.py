"""Caffe's Datum: one labelled image as the records of its databases hold it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from ..errors import DataError, WeightsError
from ..files import wire
from .decode import decode

_CHANNELS, _HEIGHT, _WIDTH, _DATA, _LABEL, _FLOATS, _ENCODED = range(1, 8)
_NUMBERS = (_CHANNELS, _HEIGHT, _WIDTH, _LABEL, _ENCODED)
_SHAPE = {_CHANNELS, _HEIGHT, _WIDTH}
_SHORT = 32  # bytes behind the data that are worth remembering


@dataclass(frozen=True)
class Datum:
    """A record's fields; ``data`` are bytes of pixels or of an image file, else ``floats``."""

    shape: tuple[int, int, int]
    data: bytes
    label: int
    encoded: bool
    floats: np.ndarray | None

    def image(self, colour: bool | None, name: str) -> np.ndarray:
        """C x H x W, uint8 or float32; ``colour`` as ``decode`` takes it, for encoded ones.

        Raises DataError that begins with ``name``.
        """
        if self.encoded:
            return decode(self.data, colour, name).transpose(2, 0, 1)
        pixels = np.frombuffer(self.data, np.uint8) if self.data else self.floats
        channels, height, width = self.shape
        count = 0 if pixels is None else len(pixels)
        if min(self.shape) < 1 or count != channels * height * width:
            raise DataError(
                f"{name}: holds {count} numbers and says {channels} x {height} x {width}; "
                "expected one for each pixel: the database is damaged, or no database of images"
            )
        return pixels.reshape(self.shape)


class DatumReader:
    """Records to Datums; raises DataError, which does not say where, for what is none.

    Records of raw images begin alike: where the bytes up to the data are those of the record
    before, only what is behind the data is looked at.
    """

    def __init__(self):
        self._like: tuple[bytes, int, dict] | None = None  # bytes, end of the data, shape

    def __call__(self, record: bytes) -> Datum:
        like = self._like
        try:
            if like is not None and 0 <= len(record) - like[1] <= _SHORT:
                head, stop, shape = like
                if record.startswith(head):
                    rest = _remembered(record[stop:])
                    if rest is not None:
                        return _datum({**shape, **rest}, record[len(head) : stop], None)
            return self._whole(record)
        except WeightsError as error:
            raise _no_datum(error) from None

    def _whole(self, record: bytes) -> Datum:
        found: dict[int, int] = {}
        data, floats = b"", []
        for number, kind, start, stop in wire.fields(record, 0, len(record), {_FLOATS}):
            if number == _DATA and kind == wire.BYTES:
                data = record[start:stop]
                if found.keys() == _SHAPE and not floats:
                    self._like = record[:start], stop, dict(found)
            elif number == _FLOATS and kind in (wire.BYTES, wire.FIXED32):
                floats.append(wire.numbers(record, np.dtype("<f4"), kind, start, stop))
            elif number in _NUMBERS and kind == wire.VARINT:
                found[number] = wire.varint(record, start, stop)[0]
            elif number in (*_NUMBERS, _DATA, _FLOATS):
                raise WeightsError(f"field {number} is of wire type {kind}")
        return _datum(found, data, np.concatenate(floats) if floats else None)


def label_of(record: bytes | memoryview) -> int:
    """The label of a record; its data are not looked at.  Raises DataError as ``DatumReader``."""
    label = 0
    try:
        for number, kind, start, stop in wire.fields(record, 0, len(record), {_FLOATS}):
            if number == _LABEL and kind == wire.VARINT:
                label = wire.signed(wire.varint(record, start, stop)[0], 32)
    except WeightsError as error:
        raise _no_datum(error) from None
    return label


def _no_datum(error: WeightsError) -> DataError:
    return DataError(
        f"is no Datum ({error}); expected a database that Caffe's convert_imageset wrote"
    )


def _datum(found: dict[int, int], data: bytes, floats: np.ndarray | None) -> Datum:
    channels, height, width, label, encoded = (
        wire.signed(found[number], 32) if number in found else 0 for number in _NUMBERS
    )
    return Datum((channels, height, width), data, label, bool(encoded), floats)


@functools.lru_cache(maxsize=4096)
def _remembered(rest: bytes) -> dict[int, int] | None:
    """Label and encoded in the last bytes of a record; None where there is anything else."""
    found = {}
    for number, kind, start, stop in wire.fields(rest, 0, len(rest)):
        if number not in (_LABEL, _ENCODED) or kind != wire.VARINT:
            return None
        found[number] = wire.varint(rest, start, stop)[0]
    return found
