"""RNN, LSTM and LSTMUnit, one time step after the other, from hidden states of zero.

Where the hidden states are exposed they come in as bottoms and go out as tops.  Follows
recurrent_layer, rnn_layer and lstm_layer of BVLC Caffe 1.0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .activation import sigmoid_of
from .kernel import Compute, Job, computes


@dataclass(frozen=True)
class _Bottoms:
    """Bottoms of a recurrent layer by their meaning, and the blobs that belong to the input."""

    x: np.ndarray
    cont: np.ndarray
    static: np.ndarray | None
    states: tuple[np.ndarray, ...]
    hidden_blobs: tuple[np.ndarray, ...]

    def projected(self, job: Job) -> np.ndarray:
        """(T, N, rows): input times its matrix plus bias, plus the static input times its own."""
        steps, streams = self.x.shape[:2]
        given = self.x.reshape(steps * streams, -1) @ job.blobs[0].T + job.blobs[1]
        given = given.reshape(steps, streams, -1)
        if self.static is not None:
            given += self.static.reshape(streams, -1) @ job.blobs[2].T
        return given


def _bottoms(job: Job, names: int) -> _Bottoms:
    exposed = names if job.layer.params("recurrent_param")["expose_hidden"] else 0
    x, cont, *rest = job.bottoms
    static = rest[0] if len(rest) > exposed else None
    states = tuple(rest[len(rest) - exposed :])
    first = 2 if static is None else 3
    return _Bottoms(x, cont, static, states, job.blobs[first:])


def _first_states(parts: _Bottoms, shape: tuple[int, int], names: int) -> list[np.ndarray]:
    if parts.states:
        return [state.reshape(shape) for state in parts.states]
    return [np.zeros(shape, np.float32) for _ in range(names)]


@computes("RNN")
def rnn(job: Job) -> Compute:
    """h = tanh(W_hh (cont h) + W_xh x + b_h), top = tanh(W_ho h + b_o)."""
    parts = _bottoms(job, 1)
    across, out, out_bias = parts.hidden_blobs

    def run():
        given = parts.projected(job)
        (hidden,) = _first_states(parts, job.top.shape[1:], 1)
        for step, cont in enumerate(parts.cont):
            hidden = np.tanh((hidden * cont[:, None]) @ across.T + given[step])
            np.tanh(hidden @ out.T + out_bias, job.top[step])
        for top in job.tops[1:]:
            top[0] = hidden

    return run


@computes("LSTM")
def lstm(job: Job) -> Compute:
    """Gates i, f, o, g of W_hc (cont h) + W_xc x + b_c; then one step of the unit."""
    parts = _bottoms(job, 2)
    (across,) = parts.hidden_blobs

    def run():
        given = parts.projected(job)
        hidden, cell = _first_states(parts, job.top.shape[1:], 2)
        for step, cont in enumerate(parts.cont):
            gates = (hidden * cont[:, None]) @ across.T + given[step]
            cell, hidden = _unit(cell, gates, cont[:, None])
            job.top[step] = hidden
        for top, state in zip(job.tops[1:], (hidden, cell)):
            top[0] = state

    return run


@computes("LSTMUnit")
def lstm_unit(job: Job) -> Compute:
    """One time step: cell, gates and continuation in, cell and hidden state out."""
    cell, gates, cont = job.bottoms

    def run():
        for top, state in zip(job.tops, _unit(cell[0], gates[0], cont[0][:, None])):
            top[0] = state

    return run


def _unit(cell: np.ndarray, gates: np.ndarray, cont: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(Cell, hidden state) after one step: c = cont f c + i g, h = o tanh(c)."""
    size = cell.shape[-1]
    opened = np.empty_like(gates[:, : 3 * size])
    sigmoid_of(gates[:, : 3 * size], opened)
    write, keep, read = np.split(opened, 3, axis=1)
    cell = cont * keep * cell + write * np.tanh(gates[:, 3 * size :])
    return cell, read * np.tanh(cell)
