"""What a user wants of single layers, whatever the rank rule would say of them.

Layers are named, or given by glob patterns; ``first`` and ``last`` are the first and the last layer
of the net that could be decomposed, unless a layer has that name.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import PlanError, UsageError, suggest
from ..ranks.explicit import Explicit
from .methods import check_method


@dataclass(frozen=True)
class Wishes:
    """Layers kept as they are, pinned to ranks, or decomposed by another method.

    keep: names or patterns
    pin: explicit ranks, 'conv2=100,fc*=max'; no rule changes them
    methods: (pattern, method) pairs, of which the first that matches counts
    """

    keep: tuple[str, ...] = ()
    pin: str = ""
    methods: tuple[tuple[str, str], ...] = ()

    def check(self, names: Sequence[str]) -> None:
        """PlanError for a pattern that means none of ``names``; UsageError for a bad method."""
        pins = Explicit(self.pin, "--pin").patterns() if self.pin else ()
        for flag, patterns in (
            ("--keep", self.keep),
            ("--pin", pins),
            ("--method-for", [pattern for pattern, _ in self.methods]),
        ):
            for pattern in patterns:
                if not any(_means(pattern, name, names) for name in names):
                    raise PlanError(f"{flag} '{pattern}': no such layer; {suggest(pattern, names)}")
        for _, method in self.methods:
            check_method(method)

    def keeper(self, name: str, names: Sequence[str]) -> str:
        """The pattern that keeps the layer as it is, or ''."""
        return next((pattern for pattern in self.keep if _means(pattern, name, names)), "")

    def pins(self, names: Sequence[str]) -> Explicit | None:
        """The pinned ranks as a rule for the layers that they name; None without any."""
        if not self.pin:
            return None
        patterns = Explicit(self.pin, "--pin").patterns()
        named = ((_resolved(pattern, names), rank) for pattern, rank in patterns.items())
        return Explicit(",".join(f"{pattern}={rank}" for pattern, rank in named), "--pin")

    def method(self, name: str, names: Sequence[str]) -> str:
        """The method that the layer is to have instead, or ''."""
        return next((m for pattern, m in self.methods if _means(pattern, name, names)), "")

    def texts(self) -> tuple[tuple[str, str], ...]:
        """(field, text) of each wish that is there, as a plan file notes it."""
        methods = ",".join(f"{pattern}={method}" for pattern, method in self.methods)
        notes = (("keep_layers", ",".join(self.keep)), ("pin", self.pin), ("method_for", methods))
        return tuple((name, note) for name, note in notes if note)


def _resolved(pattern: str, names: Sequence[str]) -> str:
    ends = {"first": 0, "last": -1}
    return names[ends[pattern]] if pattern in ends and pattern not in names else pattern


def _means(pattern: str, name: str, names: Sequence[str]) -> bool:
    """Whether ``pattern`` means the layer ``name`` among the layers ``names``, in net order."""
    return fnmatch.fnmatchcase(name, _resolved(pattern, names))


def parse_methods(items: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """(pattern, method) of each 'PATTERN=METHOD'; UsageError for what is not one."""
    found = []
    for item in items:
        pattern, separator, method = (piece.strip() for piece in item.rpartition("="))
        if not separator or not pattern or not method:
            raise UsageError(f"--method-for {item}: expected PATTERN=METHOD, for example fc*=svd")
        found.append((pattern, method))
    return tuple(found)
