"""The text of a rule, ``NAME[=VALUE][:OPTION=VALUE,FLAG,...]``, read against what is declared.

A rule declares an ``Option`` for its value and for each word behind the colon; what it gets are
typed values, and every slip is a UsageError that shows what was expected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..errors import UsageError, suggest

UNITS = {"k": 1e3, "m": 1e6, "g": 1e9}


@dataclass(frozen=True)
class Option:
    """One thing that a rule can be told.

    ``read`` makes the value of its text and raises ValueError; ``expected`` says what it takes.  An
    option without ``read`` is a flag: it is there or not.
    """

    name: str
    about: str
    read: Callable[[str], object] | None = None
    expected: str = ""
    default: object = None
    required: bool = False


def share(text: str) -> float:
    """A share above 0 and at most 1."""
    return _within(float(text), lambda value: 0.0 < value <= 1.0)


def positive(text: str) -> float:
    """A finite number above 0, with k, M or G behind it for its thousands."""
    times = UNITS.get(text[-1:].lower(), 1)
    return _within(float(text[:-1] if times > 1 else text) * times, lambda v: 0 < v < float("inf"))


def count(text: str) -> int:
    """A whole number of at least 1."""
    return _within(int(text), lambda value: value >= 1)


def _within(value, good: Callable[[float], bool]):
    if not good(value):
        raise ValueError
    return value


def split(text: str) -> tuple[str, str | None, list[str]]:
    """The parts of a rule's text: its name, its value or None, and the words behind the colon."""
    head, colon, tail = text.partition(":")
    name, equals, value = (piece.strip() for piece in head.partition("="))
    words = [word.strip() for word in tail.split(",")] if colon else []
    return name, value if equals else None, words


def read_value(text: str, option: Option | None, given: str | None, example: str):
    """What stands behind the ``=`` of a rule; UsageError where it is missing or not expected."""
    if option is None:
        if given is not None:
            raise UsageError(f"--ranks {text}: met a value, expected none, for example {example}")
        return None
    if given is None:
        raise UsageError(
            f"--ranks {text}: expected a rule with its value, {option.expected}, "
            f"for example {example}"
        )
    return _read(text, option, given, example)


def read_words(
    text: str, options: Mapping[str, Option], words: list[str], example: str
) -> dict[str, object]:
    """Typed values of the words behind a rule's colon, with the defaults of those not given."""
    found: dict[str, object] = {}
    for word in words:
        name, equals, given = (piece.strip() for piece in word.partition("="))
        if name not in options:
            raise UsageError(
                f"--ranks {text}: met '{word}', for example {example}; "
                + (suggest(name, options) if options else "this rule takes nothing behind a colon")
            )
        if name in found:
            raise UsageError(f"--ranks {text}: '{name}' is given twice; keep one of them")
        option = options[name]
        if option.read is None:
            if equals:
                raise UsageError(f"--ranks {text}: '{name}' takes no value")
            found[name] = True
        else:
            found[name] = _read(text, option, given, example)
    for name, option in options.items():
        if option.required and name not in found:
            raise UsageError(f"--ranks {text}: expected {name}=..., for example {example}")
    return {name: found.get(name, option.default) for name, option in options.items()}


def _read(text: str, option: Option, given: str, example: str):
    try:
        return option.read(given)
    except ValueError:
        met = "" if given == text.partition("=")[2] else f"{option.name}={given}: "
        raise UsageError(
            f"--ranks {text}: {met}expected {option.expected}, for example {example}"
        ) from None
