"""Prototxt, read without a schema into a tree that keeps every byte.

Bytes go in, a ``Document`` comes out: the decoded text and a tree of ``Message``, ``Field`` and
``Scalar`` whose offsets point into it.  Editing replaces whole statements, so everything outside
them is written as it was read.  The grammar is that of protobuf's C++ text parser, as Caffe uses
it, without the fields' names and types.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from ..errors import FileError, ParseError, SurgeryError

_BOM = "\ufeff"
MAX_DEPTH = 100  # protobuf's own limit for messages in messages, when it reads them from bytes

_SPACE = r"[ \t\r\n\f\v]*(?:\#[^\n]*(?:\n[ \t\r\n\f\v]*|\Z))*"
_WORD = r"[A-Za-z_]\w*"
_NUMBER = (
    r"(?:(?:[1-9][0-9]*|0)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?[fF]?"
    r"|\.[0-9]+(?:[eE][+-]?[0-9]+)?[fF]?|0[xX][0-9a-fA-F]+|0[0-7]+)(?![\w.])"
)
_ESCAPE = (
    r"\\(?:[abfnrtv\\?'\"]|[0-7]{1,3}|[xX][0-9a-fA-F]{1,2}"
    r"|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}"
    r"|U00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4})"
)
# One match is one statement as nearly all are written; the others are left to _Reader.odd.
_STATEMENT = re.compile(
    rf"""{_SPACE}(?:({_WORD})\s*(?:
            :\s*(?:("[^"\\\n]*"|'[^'\\\n]*')|(-?{_NUMBER})|({_WORD})|(\{{))|(\{{))
        |(\}})|(.)|(\Z))""",
    re.ASCII | re.VERBOSE,
)
# The groups of _STATEMENT, by lastindex: scalars come before _OPEN, messages before _CLOSE.
_KINDS, _OPEN, _CLOSE, _END = (None, None, "string", "number", "word"), 5, 7, 9
_VALUE = re.compile(
    rf"""("(?:[^"\\\n]|{_ESCAPE})*"|'(?:[^'\\\n]|{_ESCAPE})*')
    |({_NUMBER}|-{_SPACE}(?:{_NUMBER}|(?i:inf(?:inity)?|nan)f?\b))|({_WORD})""",
    re.ASCII | re.VERBOSE,
)
_SKIP = re.compile(_SPACE)
_NAME = re.compile(
    rf"{_WORD}|\[{_SPACE}{_WORD}(?:{_SPACE}[./]{_SPACE}{_WORD})*{_SPACE}\]", re.ASCII
)
_TOKEN = re.compile(r"[\w.+-]{1,40}|.", re.ASCII | re.DOTALL)
_PIECE = re.compile(r"""#[^\n]*|"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'""")
_CLOSED = re.compile(r"""(["'])(?:[^\\\n]|\\.)*?\1""")
_ESCAPES = re.compile(_ESCAPE.encode())
_SIMPLE = dict(zip(b"abfnrtv\\?'\"", b"\a\b\f\n\r\t\v\\?'\""))
_NON_FINITE = re.compile(r"(?:inf(?:inity)?|nan)f?")
_TEMPLATE = re.compile(r"\{[{%]|[$%@][\w{(#]|<%")


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
        bom = line == 1 and offset > 0 and self.text[0] == _BOM
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


class Document(Source):
    """A prototxt: its text, its tree under ``root``, and the way back to bytes."""

    def __init__(self, text: str, path: str | None = None):
        super().__init__(text, path)
        self.warnings: list[str] = []
        # The tree points to a Source of its own: without a cycle it goes when the last user goes,
        # and the garbage collector need not walk it again and again (half of the reading time).
        self.root = Message([], 0, len(text), Source(text, path))
        if text.startswith(_BOM):
            self.warnings.append(
                f"{self.where(0)}: the file begins with a byte order mark, which Caffe refuses; "
                "save it as UTF-8 without BOM"
            )
        _Reader(self.root.doc).fill(self.root, len(self.warnings), "", 0)

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


class _Reader:
    """Fills a document's tree.

    ``fill`` takes the statements that ``_STATEMENT`` knows.  ``odd`` spells out the rest: comments
    within a statement, ``<>``, lists, escapes, adjacent strings, and every mistake.
    """

    def __init__(self, doc: Source):
        self.doc = doc
        self.text = doc.text

    def fill(self, message: Message, offset: int, closer: str, depth: int) -> int:
        """Reads statements into ``message`` up to ``closer``; returns the offset behind it."""
        fields, room = message.fields, MAX_DEPTH - depth
        stack: list[tuple[Field, list[Field]]] = []
        while True:
            for match in _STATEMENT.finditer(self.text, offset):
                kind = match.lastindex
                if kind < _OPEN:
                    name, raw = match.group(1, kind)
                    scalar = Scalar(_KINDS[kind], raw, match.start(kind))
                    fields.append(Field(name, match.start(1), match.end(), scalar))
                elif kind < _CLOSE and len(stack) < room:
                    value = Message([], match.end(), 0, self.doc)
                    field = Field(match[1], match.start(1), 0, value)
                    fields.append(field)
                    stack.append((field, fields))
                    fields = value.fields
                elif kind == _CLOSE and stack:
                    field, fields = stack.pop()
                    field.end = end = match.end()
                    field.value.end = end - 1
                else:
                    break
            offset = match.start(1 if kind < _CLOSE else kind)
            opened, name = (stack[-1][0].value, stack[-1][0].name) if stack else (message, "")
            if kind == _END:
                if stack or closer:
                    self.bad_close(offset, opened, name)
                return offset
            if self.text[offset] in "}>":
                if stack or self.text[offset] != closer:
                    self.bad_close(offset, opened if stack or closer else None)
                message.end = offset
                return offset + 1
            offset = self.odd(offset, fields, depth + len(stack))

    def odd(self, offset: int, fields: list[Field], depth: int) -> int:
        """Reads one statement, or what belongs to the last one; returns the offset behind it."""
        text, char = self.text, self.text[offset]
        last = fields[-1] if fields and text[fields[-1].end - 1] not in ";," else None
        if last and char in ";,":
            last.end = offset + 1
            return last.end
        if last and char in "\"'" and getattr(last.value, "kind", "") == "string":
            last.value, last.end = self.scalar(last.value.start, last.name)
            return last.end
        match = _NAME.match(text, offset) or self.bad_name(offset, fields)
        name = _SKIP.sub("", match[0])
        after = self.skip(match.end())
        colon = text.startswith(":", after)
        if colon:
            after = self.skip(after + 1)
        elif not text.startswith(("{", "<", "["), after):
            self.fail(after, f"':' and a value, or '{{', after '{name}'", "add it")
        read = self.sequence if text.startswith("[", after) else self.value
        value, end = read(after, name, colon, depth)
        fields.append(Field(name, offset, end, value))
        return end

    def sequence(self, offset: int, name: str, colon: bool, depth: int) -> tuple[tuple, int]:
        """The values of ``[a, b]``, and the offset behind it."""
        values: list[Scalar | Message] = []
        offset = self.skip(offset + 1)
        if self.text.startswith("]", offset):
            return (), offset + 1
        while True:
            value, offset = self.value(offset, name, colon, depth)
            values.append(value)
            offset = self.skip(offset)
            if self.text.startswith("]", offset):
                return tuple(values), offset + 1
            if not self.text.startswith(",", offset):
                self.fail(offset, f"',' or ']' in the list of '{name}'", "add it")
            offset = self.skip(offset + 1)

    def value(self, offset: int, name: str, colon: bool, depth: int) -> tuple:
        """A message in either kind of brackets or a scalar, and the offset behind it."""
        opener = self.text[offset : offset + 1]
        if opener in ("{", "<"):
            if depth >= MAX_DEPTH:
                self.fail(offset, f"at most {MAX_DEPTH} messages in each other", "a net needs 4")
            message = Message([], offset + 1, 0, self.doc)
            return message, self.fill(message, offset + 1, "}" if opener == "{" else ">", depth + 1)
        if not colon:
            self.fail(offset, f"':' after '{name}'", "only messages may do without it")
        return self.scalar(offset, name)

    def scalar(self, offset: int, name: str) -> tuple[Scalar, int]:
        """A scalar, a string with those adjacent to it, and the offset behind it."""
        match = _VALUE.match(self.text, offset) or self.bad_value(offset, name)
        kind, end = match.lastindex, match.end()
        while kind == 1:
            after = self.skip(end)
            if not self.text.startswith(('"', "'"), after):
                break
            end = (_VALUE.match(self.text, after) or self.bad_value(after, name)).end()
        return Scalar(_KINDS[kind + 1], self.text[offset:end], offset), end

    def skip(self, offset: int) -> int:
        """The offset of the next token."""
        return _SKIP.match(self.text, offset).end()

    def fail(self, offset: int, expected: str, advice: str) -> NoReturn:
        """Raises the ParseError that says what was met, what was expected and what to do."""
        token = _TOKEN.match(self.text, offset)
        met = repr(token[0]) if token else "the end of the file"
        if _TEMPLATE.match(self.text, offset) or _TEMPLATE.match(self.text, max(offset - 1, 0)):
            advice = "this looks like a template: fill it in and read the result"
        elif token and token[0] > "\x7f":
            advice = "only strings and comments may hold characters that are not ASCII"
        problem = re.sub(r"(\w{60})\w+", r"\1...", f"met {met}, expected {expected}; {advice}")
        raise ParseError(f"{self.doc.where(offset)}: {problem}", *self.doc.position(offset))

    def bad_close(self, offset: int, opened: Message | None, name: str = "") -> NoReturn:
        """A closing bracket without its opening one, of the other kind, or missing."""
        if opened is None:
            self.fail(offset, "a field's name", "no bracket is open here: delete this one")
        opener = self.text[opened.start - 1]
        expected = f"the bracket that closes the '{opener}' of line "
        expected += str(self.doc.position(opened.start - 1)[0])
        # A layer inside a layer: the reader went on, but the writer had forgotten a bracket.
        inner = opened.fields_named(name) if not self.text[offset:] else []
        line = self.doc.position(inner[0].start)[0] if inner else 0
        advice = f"is it missing before the '{name}' of line {line}?" if inner else "add it"
        self.fail(offset, expected, advice)

    def bad_name(self, offset: int, fields: list[Field]) -> NoReturn:
        """Something else where a statement should begin."""
        advice = "look for a missing quote or bracket before it"
        last = fields[-1] if fields else None
        if self.text[offset] in ";,":
            advice = "delete it"
        elif last and getattr(last.value, "kind", "string") != "string":
            if "\n" in self.text[last.start : last.value.start]:
                advice = f"is the value of '{last.name}' missing before '{last.value.raw}'?"
            elif last.end == offset:
                advice = f"if the value of '{last.name}' is a string, put it in quotes"
        self.fail(offset, "a field's name or a closing bracket", advice)

    def bad_value(self, offset: int, name: str) -> NoReturn:
        """Something else where a scalar should be."""
        char = self.text[offset : offset + 1]
        string = _CLOSED.match(self.text, offset)
        if string:
            escapes = re.finditer(rf"{_ESCAPE}|(\\)", string[0])
            at = next(escape.start() for escape in escapes if escape[1])
            self.fail(offset + at, "an escape such as \\n", "write a backslash in a string as \\\\")
        if char in ("'", '"'):
            self.fail(offset, f"a string that ends on its line with {char}", "close it")
        if char and char in "+-.0123456789":
            self.fail(offset, f"a number after '{name}:'", "write it as 3, -0.5, 1e-3 or 0x1f")
        self.fail(offset, f"a value after '{name}:'", "write one, or delete the statement")
