"""Prototxt, read without a schema into a tree that keeps every byte.

Bytes go in, a ``Document`` comes out: the decoded text and a tree of ``Message``, ``Field`` and
``Scalar`` whose offsets point into it.  Editing replaces whole statements, so everything outside
them is written as it was read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import FileError, SurgeryError
from .nodes import BOM, Field, Message, Scalar, Source, quote
from .reader import MAX_DEPTH, Reader

__all__ = [
    "MAX_DEPTH",
    "Document",
    "Field",
    "Message",
    "Scalar",
    "Source",
    "parse",
    "quote",
    "read",
]


class Document(Source):
    """A prototxt: its text, its tree under ``root``, and the way back to bytes."""

    def __init__(self, text: str, path: str | None = None):
        super().__init__(text, path)
        self.warnings: list[str] = []
        # The tree points to a Source of its own: without a cycle it goes when the last user goes,
        # and the garbage collector need not walk it again and again (half of the reading time).
        self.root = Message([], 0, len(text), Source(text, path))
        if text.startswith(BOM):
            self.warnings.append(
                f"{self.where(0)}: the file begins with a byte order mark, which Caffe refuses; "
                "save it as UTF-8 without BOM"
            )
        Reader(self.root.doc).fill(self.root, len(self.warnings), "", 0)

    def replace(self, edits: Iterable[tuple[Field, str]]) -> str:
        """The text with each given field's statement replaced; ``''`` deletes it.

        Every character outside the statements stays as it is.  Fields must not overlap.
        """
        parts, done = [], 0
        for field, new in sorted(edits, key=lambda edit: edit[0].start):
            if field.start < done:
                raise SurgeryError(
                    f"{self.where(field)}: '{field.name}' is inside a statement that is replaced "
                    "too; edit only one of them, once"
                )
            parts += self.text[done : field.start], new
            done = field.end
        return "".join(parts) + self.text[done:]

    def encode(self, text: str | None = None) -> bytes:
        """The bytes of an edited text, by default of the document as it was read."""
        return (self.text if text is None else text).encode("utf-8", "surrogateescape")


def parse(data: bytes | str, path: str | None = None) -> Document:
    """The document in ``data``; ParseError with line and column where it is not well formed."""
    return Document(data if isinstance(data, str) else str(data, "utf-8", "surrogateescape"), path)


def read(path) -> Document:
    """The document in a file; FileError where it is missing or visibly no prototxt."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(4096)
            _refuse_other_kinds(path, data)
            data += file.read()
    except FileNotFoundError:
        raise FileError(f"{path}: no such file; expected a prototxt") from None
    except IsADirectoryError:
        raise FileError(f"{path}: this is a folder; name the prototxt in it") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}); expected a prototxt") from None
    return parse(data, str(path))


def _refuse_other_kinds(path, head: bytes) -> None:
    """FileError for what its first bytes show to be something else than a prototxt."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or 4 * abs(even - odd) > len(head):
        problem = "this is UTF-16 text; save it as UTF-8"
    elif b"\0" in head:
        problem = "this is a binary file (a caffemodel?), expected a prototxt; swap the arguments?"
    elif head.startswith(b"version https://git-lfs"):
        problem = "this is a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'"
    elif re.match(rb"(?:\xef\xbb\xbf)?\s*<(?:!|\?xml|html|head|body)", head, re.IGNORECASE):
        problem = "this is an HTML or XML page; download the raw file instead of the page about it"
    else:
        return
    raise FileError(f"{path}: {problem}")
