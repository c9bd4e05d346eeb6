"""The grammar of a prototxt: that of protobuf's C++ text parser, without a schema.

Text goes in; a ``Message`` is filled with the nodes of its statements.  Every mistake is a
ParseError that says where, what was met, what was expected and what to do.
"""

from __future__ import annotations

import re
from typing import NoReturn

from ..errors import ParseError
from .nodes import ESCAPE, SPACE, Field, Message, Scalar, Source

MAX_DEPTH = 100  # protobuf's own limit for messages in messages, when it reads them from bytes

_WORD = r"[A-Za-z_]\w*"
_NUMBER = (
    r"(?:(?:[1-9][0-9]*|0)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?[fF]?"
    r"|\.[0-9]+(?:[eE][+-]?[0-9]+)?[fF]?|0[xX][0-9a-fA-F]+|0[0-7]+)(?![\w.])"
)
# One match is one statement as nearly all are written; the others are left to Reader.odd.
_STATEMENT = re.compile(
    rf"""{SPACE}(?:({_WORD})\s*(?:
            :\s*(?:("[^"\\\n]*"|'[^'\\\n]*')|(-?{_NUMBER})|({_WORD})|(\{{))|(\{{))
        |(\}})|(.)|(\Z))""",
    re.ASCII | re.VERBOSE,
)
# The groups of _STATEMENT, by lastindex: scalars come before _OPEN, messages before _CLOSE.
_KINDS, _OPEN, _CLOSE, _END = (None, None, "string", "number", "word"), 5, 7, 9
_VALUE = re.compile(
    rf"""("(?:[^"\\\n]|{ESCAPE})*"|'(?:[^'\\\n]|{ESCAPE})*')
    |({_NUMBER}|-{SPACE}(?:{_NUMBER}|(?i:inf(?:inity)?|nan)f?\b))|({_WORD})""",
    re.ASCII | re.VERBOSE,
)
_SKIP = re.compile(SPACE)
_NAME = re.compile(rf"{_WORD}|\[{SPACE}{_WORD}(?:{SPACE}[./]{SPACE}{_WORD})*{SPACE}\]", re.ASCII)
_TOKEN = re.compile(r"[\w.+-]{1,40}|.", re.ASCII | re.DOTALL)
_CLOSED = re.compile(r"""(["'])(?:[^\\\n]|\\.)*?\1""")
_TEMPLATE = re.compile(r"\{[{%]|[$%@][\w{(#]|<%")


class Reader:
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
            escapes = re.finditer(rf"{ESCAPE}|(\\)", string[0])
            at = next(escape.start() for escape in escapes if escape[1])
            self.fail(offset + at, "an escape such as \\n", "write a backslash in a string as \\\\")
        if char in ("'", '"'):
            self.fail(offset, f"a string that ends on its line with {char}", "close it")
        if char and char in "+-.0123456789":
            self.fail(offset, f"a number after '{name}:'", "write it as 3, -0.5, 1e-3 or 0x1f")
        self.fail(offset, f"a value after '{name}:'", "write one, or delete the statement")
