"""The tree of a prototxt: fields, messages and scalars whose offsets point into the text.

The nodes know the text only by their offsets; ``Source`` is the text, with lines and columns for
errors.  Strings are decoded, and quoted, here.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from ..errors import ParseError

BOM = "\ufeff"
SPACE = r"[ \t\r\n\f\v]*(?:\#[^\n]*(?:\n[ \t\r\n\f\v]*|\Z))*"
ESCAPE = (
    r"\\(?:[abfnrtv\\?'\"]|[0-7]{1,3}|[xX][0-9a-fA-F]{1,2}"
    r"|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}"
    r"|U00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4})"
)
_SKIP = re.compile(SPACE)
_PIECE = re.compile(r"""#[^\n]*|"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'""")
_ESCAPES = re.compile(ESCAPE.encode())
_SIMPLE = dict(zip(b"abfnrtv\\?'\"", b"\a\b\f\n\r\t\v\\?'\""))
_NON_FINITE = re.compile(r"(?:inf(?:inity)?|nan)f?")


class Scalar:
    """A string, number or bare word (enum, bool, inf, nan); ``raw`` is its source text."""

    __slots__ = ("kind", "raw", "start")

    def __init__(self, kind: str, raw: str, start: int = 0):
        self.kind = kind
        self.raw = raw
        self.start = start

    def __repr__(self) -> str:
        return f"Scalar({self.kind}, {self.raw})"

    def string(self) -> str:
        """The text of a string, escapes decoded; bytes that are not UTF-8 as lone surrogates."""
        if self.kind != "string":
            raise ParseError(f"met {self.raw}, expected a string in quotes")
        quote = self.raw[0]
        if "\\" not in self.raw and self.raw.find(quote, 1) == len(self.raw) - 1:
            return self.raw[1:-1]
        body = "".join(m[1] or m[2] or "" for m in _PIECE.finditer(self.raw))
        data = _ESCAPES.sub(_unescape, body.encode("utf-8", "surrogateescape"))
        return data.decode("utf-8", "surrogateescape")

    def number(self) -> int | float:
        """The number: an int where it is written as one (decimal, hex, octal), else a float."""
        sign, digits = (-1, self.raw[1:]) if self.raw[0] == "-" else (1, self.raw)
        digits = digits[_SKIP.match(digits).end() :].lower()
        if _NON_FINITE.fullmatch(digits):
            return sign * float(digits[:3])
        if self.kind != "number":
            raise ParseError(f"met {self.raw}, expected a number")
        if digits.startswith("0x"):
            return sign * int(digits, 16)
        if digits.isdigit() and len(digits) < 4000:  # beyond, int() refuses and float() says inf
            return sign * int(digits, 8 if digits[0] == "0" else 10)
        return sign * float(digits.rstrip("f"))


class Field:
    """One statement ``name: value``; ``text[start:end]`` holds it with its ``;`` or ``,``."""

    __slots__ = ("name", "start", "end", "value")

    def __init__(self, name: str, start: int, end: int, value: Scalar | Message | tuple):
        self.name = name
        self.start = start
        self.end = end
        self.value = value


class Message:
    """The statements between two brackets, which enclose ``text[start:end]``."""

    __slots__ = ("fields", "start", "end", "doc")

    def __init__(
        self, fields: list[Field], start: int = 0, end: int = 0, doc: Source | None = None
    ):
        self.fields = fields
        self.start = start
        self.end = end
        self.doc = doc

    def names(self) -> list[str]:
        """The fields' names, each once, in the order of their first statement."""
        return list(dict.fromkeys(field.name for field in self.fields))

    def fields_named(self, name: str) -> list[Field]:
        """All statements of this name, in the order of the file."""
        return [field for field in self.fields if field.name == name]

    def all(self, name: str) -> list[Scalar | Message]:
        """All values of this name, in the order of the file; lists ``[a, b]`` are flattened."""
        values = []
        for field in self.fields:
            if field.name == name:
                value = field.value
                values.extend(value if isinstance(value, tuple) else (value,))
        return values

    def last(self, name: str) -> Scalar | Message | None:
        """The last value of this name, which is what protobuf keeps of a scalar; else None."""
        values = self.all(name)
        return values[-1] if values else None


class Source:
    """A text, the file it came from and the places in it; what messages point back to."""

    def __init__(self, text: str, path: str | None = None):
        self.path = path
        self.text = text
        self._lines: list[int] | None = None

    @property
    def newline(self) -> str:
        """The line ending that most lines have."""
        return "\r\n" if 2 * self.text.count("\r\n") > self.text.count("\n") else "\n"

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both from 1; a byte order mark takes no column."""
        if self._lines is None:
            self._lines = [0, *(m.end() for m in re.finditer("\n", self.text))]
        line = bisect_right(self._lines, offset)
        bom = line == 1 and offset > 0 and self.text[0] == BOM
        return line, offset - self._lines[line - 1] + 1 - bom

    def where(self, at: Field | Message | Scalar | int) -> str:
        """``file:line:column`` of a node or an offset."""
        line, column = self.position(at if isinstance(at, int) else at.start)
        return f"{self.path or '<text>'}:{line}:{column}"

    def statement(self, field: Field) -> str:
        """The source text of a field, from its name to its value or separator."""
        return self.text[field.start : field.end]

    def indent(self, field: Field) -> str:
        """The white space that begins the line on which a field starts."""
        begin = self.text.rfind("\n", 0, field.start) + 1
        return re.match(r"\ufeff?([ \t]*)", self.text[begin : field.start])[1]


def quote(text: str) -> str:
    """``text`` as a prototxt string in double quotes; what ``Scalar.string`` decodes back."""
    known = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}

    def escape(match: re.Match) -> str:
        return known.get(match[0]) or f"\\{ord(match[0]) & 0xFF:03o}"

    return '"' + re.sub('[\x00-\x1f"\\\\\x7f\udc80-\udcff]', escape, text) + '"'


def _unescape(match: re.Match) -> bytes:
    """The bytes of one escape sequence, as protobuf's tokenizer decodes it."""
    escape = match[0]
    if escape[1:2] in b"uU":
        units = "".join(chr(int(code, 16)) for code in re.findall(rb"[uU](\w+)", escape))
        whole = units.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return whole.encode("utf-8", "surrogatepass")
    if escape[1:2] in b"xX":
        return bytes((int(escape[2:], 16),))
    if escape[1:2] in b"01234567":
        return bytes((int(escape[1:], 8) & 0xFF,))
    return bytes((_SIMPLE[escape[1]],))
