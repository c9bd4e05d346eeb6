"""A profile: how long each kind of work takes on one machine, as a documented JSON file.

A profile has one model for each kind of work that was measured (``work.KINDS``): a ``Linear`` one,
nanoseconds for each unit of its features, or a ``Curve``, nanoseconds a call at grid points with
power laws between them.  ``caffesurgery help cost`` shows the format.
"""

from __future__ import annotations

import itertools
import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Union

from ..errors import FileError, UsageError, suggest
from ..files.resources import resource
from .lower import RUNTIMES
from .work import KINDS, Work

FORMAT = "caffesurgery timing profile"
VERSION = 1
DEFAULT = "caffe-cpu-avx512"
"""The profile that is used when none is named."""


@dataclass(frozen=True)
class Linear:
    """``ns``: nanoseconds for each unit of a feature; the time is their sum."""

    ns: Mapping[str, float]

    def ms(self, work: Work) -> float:
        """Milliseconds of all its calls."""
        return sum(ns * work.amount(name) for name, ns in self.ns.items()) / 1e6

    def as_dict(self) -> dict:
        """The model as it stands in a file."""
        return {"model": "linear", "ns": dict(self.ns)}


@dataclass(frozen=True)
class Curve:
    """``ns``: nanoseconds of one call at every combination of the points of ``axes``.

    The last axis runs fastest.  Between points, and beyond the last ones, time is a power law of
    each size; below the first points of an axis it is that of the first.
    """

    axes: Mapping[str, tuple[float, ...]]
    ns: tuple[float, ...]

    def ms(self, work: Work) -> float:
        """Milliseconds of all its calls."""
        places = [_place(points, work.sizes[name]) for name, points in self.axes.items()]
        total = 0.0
        for corner in itertools.product((0, 1), repeat=len(places)):
            weight, index = 1.0, 0
            for step, (low, share), points in zip(corner, places, self.axes.values()):
                weight *= share if step else 1 - share
                index = index * len(points) + min(low + step, len(points) - 1)
            if weight:
                total += weight * math.log(self.ns[index])
        return work.calls * math.exp(total) / 1e6

    def as_dict(self) -> dict:
        """The model as it stands in a file."""
        axes = {name: list(points) for name, points in self.axes.items()}
        return {"model": "curve", "axes": axes, "ns": list(self.ns)}


Model = Union[Linear, Curve]


def _place(points: Sequence[float], size: float) -> tuple[int, float]:
    """(Index of the point below, share of the way to the next one in logarithms)."""
    if len(points) == 1 or size <= points[0]:
        return 0, 0.0
    low = min(bisect_right(points, size), len(points) - 1) - 1
    return low, math.log(size / points[low]) / math.log(points[low + 1] / points[low])


@dataclass(frozen=True)
class Profile:
    """What was measured on one machine.

    runtime: one of ``lower.RUNTIMES``; threads: of its matrix products
    machine, made: the processor, and how the profile came about, for people
    fit: how well it gives back what it was made from (see ``fit.quality``)
    """

    name: str
    runtime: str
    machine: str
    threads: int
    terms: Mapping[str, Model]
    made: str = ""
    fit: Mapping[str, float] = field(default_factory=dict)

    def model(self, kind: str) -> tuple[Model, str] | None:
        """The model for a kind of work and the kind that it is really of; None without any.

        Where the kind itself was not measured, a related one stands in (``Kind.instead``).
        """
        tried = []
        while kind and kind not in tried:
            if kind in self.terms:
                return self.terms[kind], kind
            tried.append(kind)
            kind = KINDS[kind].instead
        return None

    def ms(self, works: Iterable[Work]) -> float | None:
        """Milliseconds of all the works; None where one has no model at all."""
        total = 0.0
        for one in works:
            found = self.model(one.kind)
            if found is None and one.kind != "layer":
                return None
            total += found[0].ms(_as(one, found[1])) if found else 0.0
        return total

    def dumps(self) -> str:
        """The profile as the text of its file."""
        data = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "runtime": self.runtime,
            "machine": self.machine,
            "threads": self.threads,
            "made": self.made,
            "fit": dict(self.fit),
            "terms": {kind: _rounded(model.as_dict()) for kind, model in self.terms.items()},
        }
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _as(work: Work, kind: str) -> Work:
    """The work counted as one of another kind: whole convolutions as one product a group."""
    if kind == work.kind:
        return work
    groups = 1 if "group" in KINDS[kind].sizes else work.sizes.get("group", 1)
    return Work(kind, work.calls * groups, {"m": 1, **work.sizes})


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def shipped() -> list[str]:
    """Names of the profiles in the package."""
    return sorted(path.stem for path in resource("timing", "profiles").glob("*.json"))


def load_profile(name=DEFAULT) -> Profile:
    """The shipped profile of that name, or the one in a file; FileError says what is wrong."""
    path = Path(name)
    if str(name) in shipped():
        path = resource("timing", "profiles", f"{name}.json")
    elif not path.exists():
        raise FileError(
            f"{name}: no such profile; give a file that `caffesurgery calibrate` wrote, or a name: "
            f"{suggest(str(name), shipped())}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{name}: cannot be read as a profile: {error}") from None
    return parse_profile(text, str(name))


def parse_profile(text: str, path: str = "profile") -> Profile:
    """The profile in ``text``; ``path`` is only used in messages."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise FileError(f"{path}: no profile, it is not JSON: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise FileError(
            f'{path}: no profile; expected a JSON object with "format": "{FORMAT}", as '
            "`caffesurgery calibrate` writes it"
        )
    if data.get("version") != VERSION:
        raise FileError(
            f"{path}: a profile of version {data.get('version')}, this program reads version "
            f"{VERSION}; make it anew with `caffesurgery calibrate`"
        )
    return _profile(data, path)


def _profile(data: Mapping, path: str) -> Profile:
    def take(key: str, kind: type, check=lambda value: True):
        value = data.get(key)
        if not isinstance(value, kind) or isinstance(value, bool) or not check(value):
            raise FileError(f"{path}: '{key}' is {value!r}; see `caffesurgery help cost`")
        return value

    terms = {
        kind: _model(kind, model, path)
        for kind, model in take("terms", dict, bool).items()
        if kind in KINDS  # what a later version of the program measures is no harm to this one
    }
    return Profile(
        take("name", str),
        take("runtime", str, RUNTIMES.__contains__),
        take("machine", str),
        take("threads", int, lambda value: value > 0),
        terms,
        str(data.get("made", "")),
        data["fit"] if isinstance(data.get("fit"), dict) else {},
    )


def _model(kind: str, data, path: str) -> Model:
    """One term, checked; FileError naming it."""
    try:
        if data["model"] == "linear":
            unknown = set(data["ns"]) - set(KINDS[kind].features)
            if unknown:
                raise UsageError(f"unknown feature {sorted(unknown)}")
            return Linear({name: _number(value, 0.0) for name, value in data["ns"].items()})
        axes = {
            name: tuple(_number(point, 1.0) for point in points)
            for name, points in data["axes"].items()
        }
        ns = tuple(_number(value, 1e-9) for value in data["ns"])
        rising = all(a < b for points in axes.values() for a, b in zip(points, points[1:]))
        if (
            data["model"] != "curve"
            or not set(axes) <= set(KINDS[kind].sizes)
            or not rising
            or len(ns) != math.prod(map(len, axes.values()))
            or not ns
        ):
            raise UsageError("expected a linear model, or a curve with one number a grid point")
    except (KeyError, TypeError, AttributeError, ValueError, UsageError) as error:
        raise FileError(
            f"{path}: its term '{kind}' cannot be used ({error}); see `caffesurgery help cost`"
        ) from None
    return Curve(axes, ns)


def _number(value, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= least:
        raise ValueError(f"{value!r} is no number from {least:g} on")
    if math.isinf(value):
        raise ValueError("an infinite number")
    return value
