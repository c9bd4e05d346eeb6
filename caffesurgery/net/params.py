"""A typed view of a prototxt message through Caffe's schema.

A ``Message`` of raw text and the name of its schema message go in; values come out as Python
numbers, strings, booleans, enum names, tuples (repeated fields) and nested views, with the schema's
defaults.  Fields that the schema does not know (a fork's) stay reachable as raw nodes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from ..errors import NetError, suggest
from ..files.schema import FieldType, load_schema
from ..files.text import Message, Scalar

_RANGES = {
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint64": (0, 2**64 - 1),
}
_BOOLS = {"true": True, "True": True, "t": True, "1": True}
_BOOLS.update({"false": False, "False": False, "f": False, "0": False})
_ZEROS = {"string": "", "bytes": b"", "bool": False, "float": 0.0, "double": 0.0}

_EMPTY = Message([])


class Params:
    """View of ``message`` as a ``kind`` of the schema; ``at(offset)`` names a place for errors.

    ``params["pad"]`` is the value or its default: a tuple for a repeated field, another view for a
    message, the value's name for an enum.  NetError where the text holds another type, or gives a
    field twice that may be given once.  ``schema`` names the schema that ``kind`` belongs to.
    """

    __slots__ = ("_at", "_fields", "_read", "_schema", "kind", "message")

    def __init__(
        self,
        message: Message | None,
        kind: str,
        at: Callable[[int], str],
        schema: str = "caffe",
    ):
        self.message = message if message is not None else _EMPTY
        self.kind = kind
        self._at = at
        self._schema = schema
        self._fields = load_schema(schema).messages.get(kind, {})
        self._read: dict = {}  # values already typed; layers ask for the same ones several times

    def __repr__(self) -> str:
        return f"Params({self.kind}, {self.as_dict()})"

    def has(self, name: str) -> bool:
        """Whether the text gives the field; also for fields that the schema does not know."""
        return bool(self.message.fields) and bool(self.message.all(name))

    def raw(self, name: str) -> list[Scalar | Message]:
        """All values of a field as they stand in the text, whether the schema knows it or not."""
        return self.message.all(name)

    def __getitem__(self, name: str):
        try:
            return self._read[name]
        except KeyError:
            value = self._read[name] = self._value(self._fields[name])
            return value

    def _value(self, field: FieldType):
        name = field.name
        values = self.message.all(name) if self.message.fields else ()
        if field.label == "repeated":
            return tuple(self._typed(field, value) for value in values)
        if not values:
            if field.kind == "message":
                return Params(None, field.type, self._at, self._schema)
            return _default(field, self._schema)
        if len(values) > 1:
            raise NetError(
                f"{self._at(values[1].start)}: {name} is given {len(values)} times; "
                "expected once, delete the others"
            )
        return self._typed(field, values[0])

    def where(self, name: str | None = None) -> str:
        """The place of the message, or of the last value of a field of it, as errors name it."""
        values = self.raw(name) if name else []
        return self._at((values[-1] if values else self.message).start)

    def check_fields(self) -> None:
        """NetError for the first field that the schema does not know, here or further in."""
        for field in self.message.fields:
            if field.name not in self._fields:
                raise NetError(
                    f"{self._at(field.start)}: {self.kind} has no field '{field.name}'; "
                    f"{suggest(field.name, self._fields)}"
                )
            if self._fields[field.name].kind == "message":
                inner = self[field.name]
                for view in inner if isinstance(inner, tuple) else (inner,):
                    view.check_fields()

    def unknown(self) -> tuple[str, ...]:
        """Names of the fields that the text gives and the schema does not know."""
        return tuple(name for name in self.message.names() if name not in self._fields)

    def as_dict(self) -> dict:
        """The fields that the text gives and the schema knows, as plain typed values."""
        known = (name for name in self.message.names() if name in self._fields)
        return {name: _plain(self[name]) for name in known}

    def _typed(self, field: FieldType, value: Scalar | Message):
        try:
            if field.kind == "message":
                if isinstance(value, Message):
                    return Params(value, field.type, self._at, self._schema)
            elif not isinstance(value, Message):
                if field.kind == "enum":
                    return _enum(field, value, self._schema)
                return _scalar(field, value)
        except ValueError:
            pass
        met = value.raw if isinstance(value, Scalar) else "a message"
        expected = _expected(field, self._schema)
        raise NetError(f"{self._at(value.start)}: {field.name} is {met}, expected {expected}")


def _plain(value):
    if isinstance(value, Params):
        return value.as_dict()
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


@functools.cache
def _default(field: FieldType, schema: str):
    """What an absent field means: the declared default, else protobuf's zero of its type."""
    if field.default is not None:
        return field.default
    if field.kind == "enum":
        return next(iter(load_schema(schema).enums[field.type]))
    return _ZEROS.get(field.type, 0)


def _scalar(field: FieldType, value: Scalar):
    """The value in the field's type, as protobuf's text parser takes it; else ValueError."""
    kind = field.type
    if kind in ("string", "bytes"):
        if value.kind != "string":
            raise ValueError
        text = value.string()
        return text if kind == "string" else text.encode("utf-8", "surrogateescape")
    if kind == "bool":
        if value.raw not in _BOOLS:
            raise ValueError
        return _BOOLS[value.raw]
    if value.kind == "string":
        raise ValueError
    number = _number(value)
    if kind in ("float", "double"):
        return float(number)
    low, high = _RANGES[kind]
    if not isinstance(number, int) or not low <= number <= high:
        raise ValueError
    return number


def _number(value: Scalar) -> int | float:
    if value.kind == "word":
        return float(value.raw)  # inf, infinity, nan; ValueError for any other word
    return value.number()


def _enum(field: FieldType, value: Scalar, schema: str) -> str:
    """The name of an enum value that is given by its name or number; else ValueError."""
    values = load_schema(schema).enums[field.type]
    if value.kind == "word" and value.raw in values:
        return value.raw
    if value.kind == "number":
        number = value.number()
        for name, known in values.items():
            if known == number:
                return name
    raise ValueError


def _expected(field: FieldType, schema: str) -> str:
    if field.kind == "message":
        return f"a message: {field.name} {{ ... }}"
    if field.kind == "enum":
        return f"one of {', '.join(load_schema(schema).enums[field.type])}"
    if field.type in ("string", "bytes"):
        return "a string in quotes"
    if field.type == "bool":
        return "true or false"
    if field.type in ("float", "double"):
        return "a number"
    low, high = _RANGES[field.type]
    return f"a whole number from {low} to {high}"


def check_known(word: str, known, what: str) -> str:
    """The word itself; NetError with the nearest names where it is none of ``known``."""
    if word not in known:
        raise NetError(f"{what} '{word}' is unknown; {suggest(word, known)}")
    return word
