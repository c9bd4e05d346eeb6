"""Who reads whose top: the wiring of the layers of one phase, checked as Caffe checks it.

An in-place layer makes a new version of its blob, so a blob's name alone does not say who made what
a bottom reads; (layer index, top index) does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..errors import NetError, suggest
from .net import Layer

Port = tuple[int, int]


@dataclass(frozen=True)
class Connections:
    """``sources[i][j]`` is the (layer index, top index) that bottom j of layer i reads."""

    layers: tuple[Layer, ...]
    sources: tuple[tuple[Port, ...], ...]

    @cached_property
    def _readers(self) -> dict[Port, list[Port]]:
        readers: dict[Port, list[Port]] = {}
        for index, ports in enumerate(self.sources):
            for bottom, port in enumerate(ports):
                readers.setdefault(port, []).append((index, bottom))
        return readers

    def consumers(self, layer: int, top: int = 0) -> list[Port]:
        """The (layer index, bottom index) of everything that reads this top, in order."""
        return self._readers.get((layer, top), [])

    def leading_to(self, ports: Iterable[Port]) -> set[int]:
        """The layers that some tops depend on, theirs included."""
        found, open_ = set(), [index for index, _ in ports]
        while open_:
            index = open_.pop()
            if index not in found:
                found.add(index)
                open_ += [source for source, _ in self.sources[index]]
        return found

    def outputs(self) -> list[Port]:
        """The tops that nothing reads: the net's outputs, in the order of the file."""
        return [
            (index, top)
            for index, layer in enumerate(self.layers)
            for top in range(len(layer.tops))
            if (index, top) not in self._readers
        ]


def connections(layers: Sequence[Layer], absent: Iterable[Layer] = ()) -> Connections:
    """The wiring of the layers of a phase (``Net.phase``).

    NetError for what Caffe refuses: a bottom that no layer before makes, a top that two layers
    make, and in-place work on a blob that another layer reads as well.  ``absent`` are layers that
    may lie outside of the phase, for the error to name one that makes a missing bottom.
    """
    makers: dict[str, Port] = {}
    uses: dict[Port, list[Layer]] = {}
    sources = []
    for index, layer in enumerate(layers):
        ports = []
        for name in layer.bottoms:
            if name not in makers:
                raise _unknown_bottom(layer, name, makers, layers[index + 1 :], absent)
            ports.append(makers[name])
            uses.setdefault(makers[name], []).append(layer)
        sources.append(tuple(ports))
        for top, name in enumerate(layer.tops):
            if name in makers and layer.bottoms[top : top + 1] != (name,):
                raise NetError(
                    f"{layer.where()}: its top '{name}' is already made by layer "
                    f"'{layers[makers[name][0]].name}' (line {layers[makers[name][0]].line}); "
                    "give it a new name"
                )
            makers[name] = index, top
    result = Connections(tuple(layers), tuple(sources))
    _check_in_place(result, uses)
    return result


def _unknown_bottom(
    layer: Layer, name: str, makers: dict, later: Sequence[Layer], absent: Iterable[Layer]
) -> NetError:
    after = [other for other in later if name in other.tops]
    outside = [other for other in absent if name in other.tops]
    if after:
        hint = f"layer '{after[0].name}' (line {after[0].line}) makes it later; move it up"
    elif outside:
        hint = (
            f"layer '{outside[0].name}' (line {outside[0].line}) makes it, but its rules leave it "
            "out; choose another phase or stage"
        )
    else:
        hint = suggest(name, makers)
    return NetError(
        f"{layer.where()}: no layer before makes its bottom '{name}' in this phase; {hint}"
    )


def _check_in_place(wiring: Connections, uses: dict[Port, list[Layer]]) -> None:
    """Caffe copies a blob that is read twice (or is a loss and read), so none of its readers can
    work on it in place."""
    for layer, ports in zip(wiring.layers, wiring.sources):
        for top, bottom, port in zip(layer.tops, layer.bottoms, ports):
            if top != bottom:
                continue
            maker = wiring.layers[port[0]]
            others = [other.name for other in uses[port] if other is not layer]
            if any(maker.loss_weights[port[1] : port[1] + 1]):
                others.append("the loss")
            if others or len(uses[port]) > 1:
                raise NetError(
                    f"{layer.where()}: works in place on '{top}', which {', '.join(others) or 'it'}"
                    " reads as well; Caffe refuses that: give its top a new name"
                )
