"""How weights move: Caffe's six solver types, with the order of operations of its solvers.

All parameters lie in one flat vector, those of equal multipliers next to each other, and so do
gradients and histories: an update is a handful of vector operations, however many blobs there are.
Follows ApplyUpdate of BVLC Caffe 1.0: ClipGradients, then for each blob Normalize (by iter_size),
Regularize and ComputeUpdateValue, and data -= diff.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import sqrt

import numpy as np
import torch

from ..solver import Solver
from .net import TorchNet

_TWO_HISTORIES = ("AdaDelta", "Adam")


@dataclass(frozen=True)
class _Group:
    """A part of the flat vectors: the blobs of one learning rate and decay."""

    lr_mult: float
    decay_mult: float
    part: slice


class Updater:
    """Moves the parameters of a net by a solver's rule; ``history`` are its flat memories.

    The parameters (and from now on their gradients) become views of flat vectors.
    """

    def __init__(self, net: TorchNet, solver: Solver):
        self.solver = solver
        order = sorted(
            range(len(net.learnables)),
            key=lambda n: (net.learnables[n].lr_mult, net.learnables[n].decay_mult),
        )
        count = sum(value.numel() for value in net.values)
        like = next(iter(net.values), torch.zeros(0))
        self._data, self._diff, self._spare = (like.new_zeros(count) for _ in range(3))
        memories = 2 if solver.type in _TWO_HISTORIES else 1
        self.history = [like.new_zeros(count) for _ in range(memories)]
        self._places: list[tuple[slice, torch.Tensor]] = [(slice(0), like)] * len(order)
        self._groups = tuple(self._lay_out(net, order))
        self._apply = _RULES[solver.type]

    def _lay_out(self, net: TorchNet, order: Sequence[int]):
        start = 0
        for (rate, decay), numbers in groupby(
            order, lambda n: (net.learnables[n].lr_mult, net.learnables[n].decay_mult)
        ):
            begin = start
            for number in numbers:
                value = net.values[number]
                place = slice(start, start + value.numel())
                view = _like(self._data[place], value)
                view.copy_(value.detach())
                value.data = view
                if value.requires_grad:
                    value.grad = _like(self._diff[place], value)
                self._places[number] = place, value
                start = place.stop
            yield _Group(rate, decay, slice(begin, start))

    def is_finite(self) -> bool:
        """Whether all parameters are numbers."""
        return bool(torch.isfinite(self._data).all())

    @property
    def gradients(self) -> torch.Tensor:
        """All gradients as one flat vector."""
        return self._diff

    def zero(self) -> None:
        """Forget the gradients."""
        self._diff.zero_()

    @torch.no_grad()
    def step(self, iteration: int, rate: float) -> None:
        """Move the parameters after iteration ``iteration`` (from 0) at the learning rate."""
        solver = self.solver
        if solver.clip_gradients >= 0:
            norm = torch.linalg.vector_norm(self._diff)
            self._diff.mul_((solver.clip_gradients / norm).clamp(max=1))
        if solver.iter_size != 1:
            self._diff.mul_(1 / solver.iter_size)
        for group in self._groups:
            data, diff, spare, *history = (
                vector[group.part]
                for vector in (self._data, self._diff, self._spare, *self.history)
            )
            decay = solver.weight_decay * group.decay_mult
            if decay and solver.regularization_type == "L1":
                diff.add_(torch.sign(data, out=spare), alpha=decay)
            elif decay:
                diff.add_(data, alpha=decay)
            self._apply(solver, data, diff, spare, history, rate * group.lr_mult, iteration)

    def memories(self) -> list[np.ndarray]:
        """The histories as a .solverstate has them: blob by blob in the net's order, the second
        memory of all blobs behind the first."""
        return [
            np.ascontiguousarray(_like(history[place], value).cpu().numpy())
            for history in self.history
            for place, value in self._places
        ]

    @torch.no_grad()
    def remember(self, arrays: Sequence[np.ndarray]) -> None:
        """Take the histories of a .solverstate."""
        pairs = [(history, *place) for history in self.history for place in self._places]
        for (history, place, value), array in zip(pairs, arrays):
            found = torch.from_numpy(np.array(array, np.float32)).reshape(value.shape)
            _like(history[place], value).copy_(found)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of ``memories()``."""
        return [tuple(value.shape) for _ in self.history for _, value in self._places]


def _like(flat: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A view of a flat vector with a blob's shape, and its order of axes in memory."""
    if value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last):
        outer, inner, high, wide = value.shape
        return flat.view(outer, high, wide, inner).permute(0, 3, 1, 2)
    return flat.view(value.shape)


def _sgd(solver, data, diff, spare, history, rate, iteration) -> None:
    (velocity,) = history
    velocity.mul_(solver.momentum).add_(diff, alpha=rate)
    data.sub_(velocity)


def _nesterov(solver, data, diff, spare, history, rate, iteration) -> None:
    (velocity,) = history
    data.add_(velocity, alpha=solver.momentum)
    velocity.mul_(solver.momentum).add_(diff, alpha=rate)
    data.sub_(velocity, alpha=1 + solver.momentum)


def _adagrad(solver, data, diff, spare, history, rate, iteration) -> None:
    (squares,) = history
    squares.addcmul_(diff, diff)
    data.addcdiv_(diff, torch.sqrt(squares, out=spare).add_(solver.delta), value=-rate)


def _rmsprop(solver, data, diff, spare, history, rate, iteration) -> None:
    (squares,) = history
    squares.mul_(solver.rms_decay).addcmul_(diff, diff, value=1 - solver.rms_decay)
    data.addcdiv_(diff, torch.sqrt(squares, out=spare).add_(solver.delta), value=-rate)


def _adadelta(solver, data, diff, spare, history, rate, iteration) -> None:
    squares, moves = history
    keep = solver.momentum
    squares.mul_(keep).addcmul_(diff, diff, value=1 - keep)
    torch.add(moves, solver.delta, out=spare)
    diff.mul_(spare.div_(squares + solver.delta).sqrt_())
    moves.mul_(keep).addcmul_(diff, diff, value=1 - keep)
    data.add_(diff, alpha=-rate)


def _adam(solver, data, diff, spare, history, rate, iteration) -> None:
    mean, squares = history
    first, second = solver.momentum, solver.momentum2
    correction = sqrt(1 - second ** (iteration + 1)) / (1 - first ** (iteration + 1))
    mean.mul_(first).add_(diff, alpha=1 - first)
    squares.mul_(second).addcmul_(diff, diff, value=1 - second)
    spare.copy_(squares).sqrt_().add_(solver.delta)
    data.addcdiv_(mean, spare, value=-rate * correction)


_RULES = {
    "SGD": _sgd,
    "Nesterov": _nesterov,
    "AdaGrad": _adagrad,
    "RMSProp": _rmsprop,
    "AdaDelta": _adadelta,
    "Adam": _adam,
}
