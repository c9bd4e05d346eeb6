"""Reads the shipped ``.proto`` files into tables of messages, fields and enums.

In goes the text of a proto2 schema (Caffe's, or the plan's own), out come plain dictionaries that
tell a field's number, type, label and default.  Only the part of the proto2 language that the
shipped schemas use is read: messages, nested messages and enums, fields and their options.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import ParseError
from .resources import resource

SCALARS = frozenset(
    "double float int32 int64 uint32 uint64 sint32 sint64 fixed32 fixed64 sfixed32 sfixed64 "
    "bool string bytes".split()
)
LABELS = ("optional", "repeated", "required")
_BOOL = ("true", "false")

_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*.*?\*/)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<word>[A-Za-z_][\w.]*)
      | (?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|inf\b|nan\b))
      | (?P<mark>[{}\[\];=,])""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class FieldType:
    """One field of a message.

    ``type`` is a scalar's name, or the full name of a message or enum ("PoolingParameter.Engine").
    ``default`` is the declared default in the field's own Python type (an enum's is the name of
    the value), or None where the schema declares none.
    """

    name: str
    number: int
    label: str
    type: str
    kind: str  # 'scalar', 'enum' or 'message'
    default: object = None
    packed: bool = False
    deprecated: bool = False


@dataclass(frozen=True)
class Schema:
    """All messages (field tables by name) and enums (values by name), under names without package.

    Nested names are dotted: ``messages["LayerParameter"]["blobs"]``,
    ``enums["PoolingParameter.PoolMethod"]["MAX"]``.
    """

    messages: dict[str, dict[str, FieldType]]
    enums: dict[str, dict[str, int]]


@functools.cache
def load_schema(name: str = "caffe") -> Schema:
    """The schema of ``proto/<name>.proto``, read once."""
    path = resource("proto", f"{name}.proto")
    return parse_schema(path.read_text(encoding="utf-8"), path.name)


def parse_schema(text: str, path: str = "<schema>") -> Schema:
    """Read the text of a proto2 file; ParseError names the line of what is not understood."""
    reader = _Reader(text, path)
    reader.file()
    messages = {
        scope: {name: reader.typed(scope, field) for name, field in fields.items()}
        for scope, fields in reader.messages.items()
    }
    return Schema(messages, reader.enums)


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


class _Declared(NamedTuple):
    """A field as written, before the names of its type and default are looked up."""

    name: str
    number: int
    label: str
    type: str
    options: dict[str, _Token]
    line: int


class _Reader:
    """Recursive descent over the tokens of one file."""

    def __init__(self, text: str, path: str):
        self.path = path
        self.tokens = self._scan(text)
        self.token = next(self.tokens)
        self.messages: dict[str, dict[str, _Declared]] = {}
        self.enums: dict[str, dict[str, int]] = {}

    def _scan(self, text: str) -> Iterator[_Token]:
        position, line = 0, 1
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._error(repr(text[position]), "a proto2 declaration", line)
            if match.lastgroup != "skip":
                yield _Token(match.lastgroup, match.group(), line)
            line += match.group().count("\n")
            position = match.end()
        yield _Token("end", "end of file", line)

    def _error(self, met: str, expected: str, line: int) -> ParseError:
        return ParseError(f"{self.path}:{line}: met {met}, expected {expected}", line, 1)

    def _take(self, *texts: str, kind: str | None = None) -> _Token:
        """The current token, which must be one of ``texts``, or of ``kind``."""
        token = self.token
        if token.text not in texts if texts else token.kind != kind:
            raise self._error(repr(token.text), " or ".join(map(repr, texts)) or kind, token.line)
        if token.kind != "end":
            self.token = next(self.tokens)
        return token

    def _at(self, *texts: str) -> bool:
        return self.token.text in texts

    def file(self) -> None:
        while self.token.kind != "end":
            keyword = self._take("syntax", "package", "message", "enum").text
            if keyword == "syntax":
                self._take("=")
                self._take('"proto2"', "'proto2'")
                self._take(";")
            elif keyword == "package":
                self._take(kind="word")
                self._take(";")
            else:
                self._block(keyword, scope="")

    def _block(self, keyword: str, scope: str) -> None:
        name = scope + self._take(kind="word").text
        self._take("{")
        if keyword == "enum":
            self.enums[name] = self._values()
        else:
            self.messages[name] = {}
            while not self._at("}"):
                if self._at("message", "enum"):
                    self._block(self._take("message", "enum").text, scope=name + ".")
                else:
                    field = self._field()
                    self.messages[name][field.name] = field
        self._take("}")

    def _values(self) -> dict[str, int]:
        values = {}
        while not self._at("}"):
            name = self._take(kind="word").text
            self._take("=")
            values[name] = int(self._take(kind="number").text, 0)
            self._take(";")
        return values

    def _field(self) -> _Declared:
        line = self.token.line
        label = self._take(*LABELS).text
        type_name = self._take(kind="word").text
        name = self._take(kind="word").text
        self._take("=")
        number = int(self._take(kind="number").text, 0)
        options = {}
        if self._take("[", ";").text == "[":
            separator = ","
            while separator == ",":
                option = self._take("default", "packed", "deprecated").text
                self._take("=")
                options[option] = self._take(self.token.text)
                separator = self._take(",", "]").text
            self._take(";")
        return _Declared(name, number, label, type_name, options, line)

    def typed(self, scope: str, field: _Declared) -> FieldType:
        """Look up the names in ``field``, which stands in message ``scope``."""
        full, kind = field.type, "scalar"
        if full not in SCALARS:
            full, kind = self._resolve(scope, field)
        default = None
        if "default" in field.options:
            default = self._default(full, kind, field.options["default"])
        return FieldType(
            name=field.name,
            number=field.number,
            label=field.label,
            type=full,
            kind=kind,
            default=default,
            packed=self._flag(field, "packed"),
            deprecated=self._flag(field, "deprecated"),
        )

    def _resolve(self, scope: str, field: _Declared) -> tuple[str, str]:
        """Innermost scope first, as protobuf does."""
        while True:
            name = f"{scope}.{field.type}" if scope else field.type
            if name in self.messages:
                return name, "message"
            if name in self.enums:
                return name, "enum"
            if not scope:
                raise self._error(repr(field.type), "a scalar, message or enum type", field.line)
            scope = scope.rpartition(".")[0]

    def _default(self, type_name: str, kind: str, token: _Token) -> object:
        try:
            if kind == "enum" and token.text in self.enums[type_name]:
                return token.text
            if type_name == "bool" and token.text in _BOOL:
                return token.text == "true"
            if type_name in ("string", "bytes") and token.kind == "string":
                text = token.text[1:-1]
                return text if type_name == "string" else text.encode()
            if type_name in ("float", "double"):
                return float(token.text)
            if kind == "scalar" and type_name not in ("bool", "string", "bytes"):
                return int(token.text, 0)
        except ValueError:
            pass
        raise self._error(repr(token.text), f"a default of type {type_name}", token.line)

    def _flag(self, field: _Declared, option: str) -> bool:
        token = field.options.get(option)
        if token is not None and token.text not in _BOOL:
            raise self._error(repr(token.text), f"{option} = true or false", token.line)
        return token is not None and token.text == "true"
