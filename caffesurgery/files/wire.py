"""Protobuf's wire format: steps through the fields of a message, and encodes the few we write.

Everything works on offsets into one buffer (bytes or a memory map), copies nothing, and keeps to
protobuf's own rules: groups are skipped, wire types 6 and 7, field number 0 and a length beyond
the end are errors.  A WeightsError from here says at which byte, not yet in which file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import numpy as np

from ..errors import WeightsError

VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = range(6)
MAX_DEPTH = 100  # protobuf's own limit on nesting

_FIXED_SIZE = {FIXED32: 4, FIXED64: 8}


def damaged(position: int, what: str) -> WeightsError:
    """The error for something at ``position`` that is no protobuf."""
    return WeightsError(f"byte {position}: {what}")


def varint(data, position: int, end: int) -> tuple[int, int]:
    """The unsigned value of the varint at ``position``, and the offset behind it."""
    value = shift = 0
    for offset in range(position, min(position + 10, end)):
        byte = data[offset]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, offset + 1
        shift += 7
    cut = "a number runs over the end" if position + 10 > end else "a number of more than 10 bytes"
    raise damaged(position, cut)


def varints(data, position: int, end: int) -> Iterator[int]:
    """The unsigned values of a packed field."""
    while position < end:
        value, position = varint(data, position, end)
        yield value


def signed(value: int, bits: int) -> int:
    """An int32 or int64 from its varint: the low ``bits``, two's complement."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def fields(
    data, position: int, end: int, runs: Collection[int] = ()
) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, start and end of the value of each field in ``data[position:end]``.

    The elements of an unpacked repeated float or double whose number is in ``runs`` come together:
    from the first element's start to the last one's end, with the tags (one byte) in between.
    """
    while position < end:
        number, kind, start, stop = _field(data, position, end)
        if kind == GROUP:
            stop = _skip_group(data, start, end, number)
        elif kind == END_GROUP:
            raise damaged(position, f"the end of a group (field {number}) that never began")
        elif kind in _FIXED_SIZE and number in runs:
            stop = _run(data, start, end, number << 3 | kind, _FIXED_SIZE[kind])
        yield number, kind, start, stop
        position = stop


def numbers(data, dtype: np.dtype, kind: int, start: int, stop: int) -> np.ndarray:
    """The elements between ``start`` and ``stop``, packed (BYTES) or a run; a view on ``data``."""
    size = dtype.itemsize
    if kind == BYTES:
        return np.frombuffer(data, dtype, (stop - start) // size, start)
    stride = size + 1
    return np.ndarray((stop - start + 1) // stride, dtype, data, start, (stride,))


def _field(data, position: int, end: int) -> tuple[int, int, int, int]:
    """One field; the value of a group's start or end is empty."""
    tag, start = varint(data, position, end)
    number, kind = tag >> 3, tag & 7
    if not 0 < number < 1 << 29:
        raise damaged(position, f"field number {number}, which no message has")
    if kind == BYTES:
        length, start = varint(data, start, end)
        stop = start + length
    elif kind == VARINT:
        stop = varint(data, start, end)[1]
    elif kind in _FIXED_SIZE:
        stop = start + _FIXED_SIZE[kind]
    elif kind in (GROUP, END_GROUP):
        stop = start
    else:
        raise damaged(position, f"wire type {kind}, which protobuf has not")
    if stop > end:
        raise damaged(position, f"field {number} needs {stop - end} bytes more than there are")
    return number, kind, start, stop


def _skip_group(data, position: int, end: int, number: int) -> int:
    """The offset behind the group that began just before ``position``."""
    start, opened = position, [number]
    while opened:
        if position >= end:
            raise damaged(start, f"group {number} never ends")
        inner, kind, _, stop = _field(data, position, end)
        if kind == GROUP:
            opened.append(inner)
        elif kind == END_GROUP and opened.pop() != inner:
            raise damaged(position, f"the end of group {inner} inside another group")
        if len(opened) > MAX_DEPTH:
            raise damaged(position, f"groups nested more than {MAX_DEPTH} deep")
        position = stop
    return position


def _run(data, start: int, end: int, tag: int, size: int) -> int:
    """The end of the run of elements whose first is at ``start``: each next follows its own tag."""
    stop, block = start + size, 8
    while True:
        room = min(block, (end - stop) // (size + 1))
        tags = np.ndarray(room, np.uint8, data, stop, (size + 1,)) == tag if room else None
        same = room if tags is None or tags.all() else int(tags.argmin())
        stop += same * (size + 1)
        if same < block:
            return stop
        block = min(2 * block, 1 << 20)


def encoded(value: int) -> bytes:
    """A varint; a negative value as int64."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def header(number: int, length: int) -> bytes:
    """Tag and length of a field of ``length`` bytes."""
    return encoded(number << 3 | BYTES) + encoded(length)


def string(number: int, value: str) -> bytes:
    """A string field; undecodable bytes that were read come out as they were."""
    return block(number, value.encode("utf-8", "surrogateescape"))


def block(number: int, content: bytes) -> bytes:
    """A bytes or message field."""
    return header(number, len(content)) + content


def integer(number: int, value: int) -> bytes:
    """An integer or enum field."""
    return encoded(number << 3 | VARINT) + encoded(value)


def packed(number: int, values: Iterable[int]) -> bytes:
    """A packed repeated integer field."""
    return block(number, b"".join(map(encoded, values)))
