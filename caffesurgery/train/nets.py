"""The nets that a solver names to train and to test, and the states that choose their layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import SolverError
from ..files import text
from ..files.text import Document
from ..net.net import Net, parse_net, read_net
from ..net.params import Params

_NETS = ("train_net_param", "train_net", "net_param", "net")
"""Where a solver may say what it trains, in the order in which Caffe looks."""


@dataclass(frozen=True)
class NetUse:
    """A net that a solver trains or tests, and the state that chooses its layers.

    ``path`` is its file, or None where the net stands in the solver, as ``text``.  ``phase``,
    ``stages`` and ``level`` (None: the net's own) are what ``Net.phase`` and ``infer`` take;
    ``iterations`` are the batches of one test, 0 for the net that is trained.
    """

    path: Path | None
    text: str
    phase: str
    stages: tuple[str, ...] = ()
    level: int | None = None
    iterations: int = 0

    def read(self) -> Net:
        """The net; FileError, ParseError or NetError where it is none."""
        return read_net(self.path) if self.path is not None else parse_net(self.text, "solver")


class NetFinder:
    """The nets that a solver names, found as Caffe finds them and beside or above the solver."""

    def __init__(self, doc: Document, view: Params, path: Path):
        self.doc, self.view, self.path = doc, view, path
        self.folder = Path()

    def train(self) -> NetUse:
        given = [name for name in _NETS if self.view.has(name)]
        if len(given) != 1:
            met = " and ".join(given) or "none"
            raise SolverError(
                f"{self.path}: names {met} to train; expected one of net, train_net, net_param, "
                "train_net_param"
            )
        state = self.view["train_state"]
        # `caffe train` sets the level of the state to its flag --level, 0 by default
        return self._use(given[0], 0, "TRAIN", tuple(state["stage"]), 0)

    def tests(self) -> Iterator[NetUse]:
        """Nets of their own first, then the common net for every further test_iter."""
        view, counts = self.view, self.view["test_iter"]
        own = [
            (name, index)
            for name in ("test_net_param", "test_net")
            for index in range(len(view[name]))
        ]
        common = next((name for name in ("net_param", "net") if view.has(name)), None)
        if len(counts) < len(own) or (len(counts) > len(own) and common is None):
            raise SolverError(
                f"{self.path}: {len(counts)} test_iter for {len(own)} test net(s); give one "
                "test_iter for each"
            )
        states = view["test_state"]
        if states and len(states) != len(counts):
            raise SolverError(
                f"{self.path}: {len(states)} test_state for {len(counts)} tests; expected none or "
                "one for each"
            )
        if counts and view["test_interval"] <= 0:
            raise SolverError(
                f"{self.path}: test_interval is {view['test_interval']} where test_iter asks for "
                "tests; say every how many iterations they come"
            )
        own += [(common, 0)] * (len(counts) - len(own))
        for number, (name, index) in enumerate(own):
            state = states[number] if states else None
            level = state["level"] if state and state.has("level") else None
            stages = tuple(state["stage"]) if state else ()
            yield self._use(name, index, "TEST", stages, level, counts[number])

    def _use(self, name, index, phase, stages, level, iterations=0) -> NetUse:
        value = self.view.raw(name)[index]
        if isinstance(value, text.Message):
            before = "\n" * (self.doc.position(value.start)[0] - 1)  # so that lines stay true
            body = before + self.doc.text[value.start : value.end]
            return NetUse(None, body, phase, stages, level, iterations)
        found = self._find(value.string(), self.doc.position(value.start)[0])
        return NetUse(found, "", phase, stages, level, iterations)

    def _find(self, name: str, line: int) -> Path:
        if Path(name).is_file():
            return Path(name)
        above = self.path.resolve().parents
        for folder in above:
            if (folder / name).is_file():
                self.folder = folder
                return folder / name
        raise SolverError(
            f"{self.path}:{line}: net '{name}' is not there; looked for it from the working "
            f"folder and from {above[0]} and the folders above it"
        )
