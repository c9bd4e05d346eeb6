"""Reads the log of ``caffe time``: the net that it ran, and the time of every layer.

Caffe prints the net that it sets up, the shapes of its tops, and at the end each layer's average
forward time; so the log alone is enough to fit a profile of that machine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import FileError, NetError, ParseError
from ..files import glog
from ..net.net import parse_net
from ..net.shapes import NetShapes, infer
from .fit import Sample, fit_linear, fit_quality
from .lower import works_of
from .profile import Profile

_FORWARD = re.compile(r"^\s*(.+?)\s+forward: ([\d.eE+-]+) ms\.?\s*$")
_SET_UP = re.compile(r"^Setting up (.+)$")
_TOP = re.compile(r"^Top shape: ([\d ]+)\(\d+\)\s*$")
_NET = "Initializing net from parameters:"
_LEAST = 8
"""Layers that take time, from which on a fit is worth its name."""


def read_caffe_log(path) -> tuple[NetShapes, dict[str, float]]:
    """The net of a log with its shapes, and milliseconds by layer name; FileError without them."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}; expected a log") from None
    return parse_caffe_log(text, str(path))


def parse_caffe_log(text: str, path: str = "log") -> tuple[NetShapes, dict[str, float]]:
    """As ``read_caffe_log``, from the log's text."""
    net, tops, times, current, in_net = [], {}, {}, "", False
    for line in text.splitlines():
        prefix, said = glog.split(line)
        if prefix:
            in_net = said.startswith(_NET) and not times
            if in_net:
                net = []  # the last net before the times is the one that was timed
                continue
        if in_net:
            net.append(line)
        elif found := _SET_UP.match(said):
            current = found[1].strip()
            tops[current] = []
        elif found := _TOP.match(said):
            tops.setdefault(current, []).append(tuple(map(int, found[1].split())))
        elif found := _FORWARD.match(said):
            times[found[1]] = float(found[2])
    if not net or not times:
        lacks = "the net" if not net else "the times of its layers"
        raise FileError(
            f"{path}: no log of `caffe time`: it lacks {lacks}; expected what "
            "`caffe time -model NET -iterations 10 2> LOG` prints"
        )
    return _shapes("\n".join(net), tops, path), times


def _shapes(net_text: str, tops: dict, path: str) -> NetShapes:
    try:
        net = parse_net(net_text, f"{path} (its net)")
        made = {}
        for layer in net.phase():
            if not layer.bottoms:
                made.update(zip(layer.tops, tops.get(layer.name, ())))
        return infer(net, None, made)
    except (ParseError, NetError) as error:
        raise FileError(f"{path}: the net in this log cannot be used: {error}") from None


def samples(shapes: NetShapes, times: dict[str, float], runtime: str = "caffe") -> list[Sample]:
    """The layers of a net that were measured and whose work is known."""
    found = []
    for entry in shapes.layers:
        works = works_of(entry, runtime)
        if works is not None and entry.layer.name in times:
            found.append(Sample(works, times[entry.layer.name], entry.layer.name))
    return found


def profile_from_logs(paths: Sequence, name: str, machine: str = "", threads: int = 1) -> Profile:
    """A profile of the machine whose ``caffe time`` wrote these logs, fitted on their layers."""
    measured = []
    for path in paths:
        shapes, times = read_caffe_log(path)
        measured += samples(shapes, times)
    busy = sum(len(sample.works) > 1 for sample in measured)
    if busy < _LEAST:
        raise FileError(
            f"{', '.join(map(str, paths))}: {busy} layers with work, too few to fit a profile on; "
            f"expected {_LEAST} or more: time a whole net, or give several logs"
        )
    made = f"fitted on {len(measured)} layers of {len(paths)} log(s) of caffe time"
    return fitted(measured, name, machine or "not named", threads, made)


def fitted(measured: Sequence[Sample], name: str, machine: str, threads: int, made: str) -> Profile:
    """A profile for Caffe with linear terms fitted on layers, and how well they fit."""
    profile = Profile(name, "caffe", machine, threads, fit_linear(measured), made)
    return Profile(
        name, "caffe", machine, threads, profile.terms, made, fit_quality(profile, measured)
    )
