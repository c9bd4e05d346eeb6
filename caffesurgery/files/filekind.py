"""Says what a file that is no caffemodel seems to be, for the error that refuses it.

Asked only once reading has failed or found no layers: no first bytes are reserved in protobuf, so
a guess must never refuse a file that can be read.
"""

from __future__ import annotations

import itertools
import re

from ..errors import WeightsError
from . import dialects, wire

_HEAD = 1 << 16
_AGAIN = "copy or download it again"
_UNPACK = "unpack it first"
_FETCH = "fetch it with 'git lfs pull'"
_RAW = "download the raw file instead of the page about it"
_SAVE = "load it in Caffe and save it in the BINARYPROTO format"

_MAGIC = (
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself", _FETCH),
    (rb"(?:\xef\xbb\xbf)?\s*(?i:<!doctype|<html|<\?xml)", "an HTML or XML page", _RAW),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file (a .caffemodel.h5?)", _SAVE),
    (rb"PK\x03\x04", "a zip archive", _UNPACK),
    (rb"\x1f\x8b", "compressed with gzip", _UNPACK),
    (rb"BZh", "compressed with bzip2", _UNPACK),
    (rb"\xfd7zXZ|7z\xbc\xaf|Rar!", "an archive", _UNPACK),
    (rb"\x93NUMPY", "a NumPy file", "give the caffemodel"),
    (rb"\x80[\x02-\x05]", "a Python pickle (weights of PyTorch?)", "convert it to Caffe first"),
)
_TEXT = re.compile(rb"(?=.*[A-Za-z]{2})[\t\n\r\f\x20-\x7e\x80-\xff]*", re.DOTALL)


def foreign_kind(data) -> str | None:
    """What the first bytes show the file to be, and what to do; None if they show nothing."""
    head = data[:_HEAD]
    for pattern, kind, advice in _MAGIC:
        if re.match(pattern, head):
            return f"this is {kind}; {advice}"
    if _TEXT.fullmatch(head):
        return "this is text (a prototxt?); were the net and its weights given in the wrong order?"
    return None


def other_message(data) -> str | None:
    """Which other message of Caffe the fields at the top belong to; None if to no known one."""
    tops = set()
    try:
        for number, kind, _, _ in itertools.islice(wire.fields(data, 0, len(data)), 1000):
            tops.add((number, kind))
    except WeightsError:
        return None
    if {(1, wire.VARINT), (3, wire.BYTES)} <= tops:
        return "this is a solver's state (.solverstate); give the caffemodel saved with it"
    if tops & {(5, wire.BYTES), (7, wire.BYTES)} and (dialects.LAYER, wire.BYTES) not in tops:
        return "this is a single blob (a mean.binaryproto?), not a net; give the caffemodel"
    return None


def how_damaged(data) -> str:
    """What a transfer may have done to a file that is no protobuf any more, and what to do."""
    head = data[:_HEAD]
    if not head.strip(b"\0"):
        return f"it begins with zeros: its transfer was not finished; {_AGAIN}"
    if head.count(b"\n") == head.count(b"\r\n") > 1:
        return f"every line feed follows a carriage return: it was transferred as text; {_AGAIN}"
    if len(head) > 100 and head.isascii():
        return f"no byte has its high bit set: it was transferred as 7-bit text; {_AGAIN}"
    return f"the file is truncated or damaged, or no caffemodel; {_AGAIN}"
