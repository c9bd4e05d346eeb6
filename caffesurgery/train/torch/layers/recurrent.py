"""RNN, LSTM and LSTMUnit, one time step after the other, from hidden states of zero.

Where the hidden states are exposed they come in as bottoms and go out as tops.  Follows
recurrent_layer, rnn_layer and lstm_layer of BVLC Caffe 1.0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .base import Build, Forward, trains


def _projected(build: Build, bottoms, blobs, names: int):
    """Input times its matrix plus bias (T, N, rows), plus the static input times its own; then
    the first hidden states and the blobs that are left."""
    exposed = names if build.params("recurrent_param")["expose_hidden"] else 0
    x, _, *rest = bottoms
    given = F.linear(x.flatten(2), blobs[0], blobs[1])
    static = rest[0] if len(rest) > exposed else None
    if static is not None:
        given = given + F.linear(static.flatten(1), blobs[2])
    first = rest[len(rest) - exposed :]
    shape = (x.shape[1], build.top[-1])
    states = [state.reshape(shape) for state in first] or [x.new_zeros(shape)] * names
    return given, states, blobs[2 if static is None else 3 :]


@trains("RNN")
def rnn(build: Build) -> Forward:
    """h = tanh(W_hh (cont h) + W_xh x + b_h), top = tanh(W_ho h + b_o)."""

    def forward(bottoms, blobs):
        given, (hidden,), (across, out, out_bias) = _projected(build, bottoms, blobs, 1)
        tops = []
        for now, cont in zip(given, bottoms[1]):
            hidden = torch.tanh(F.linear(hidden * cont[:, None], across) + now)
            tops.append(torch.tanh(F.linear(hidden, out, out_bias)))
        return _tops(build, tops, hidden)

    return forward


@trains("LSTM")
def lstm(build: Build) -> Forward:
    """Gates i, f, o, g of W_hc (cont h) + W_xc x + b_c; then one step of the unit."""

    def forward(bottoms, blobs):
        given, (hidden, cell), (across,) = _projected(build, bottoms, blobs, 2)
        tops = []
        for now, cont in zip(given, bottoms[1]):
            gates = F.linear(hidden * cont[:, None], across) + now
            cell, hidden = _unit(cell, gates, cont[:, None])
            tops.append(hidden)
        return _tops(build, tops, hidden, cell)

    return forward


def _tops(build: Build, steps: list[torch.Tensor], *states: torch.Tensor):
    exposed = states[: len(build.layer.tops) - 1]
    tops = (torch.stack(steps), *(state[None] for state in exposed))
    return tops if exposed else tops[0]


@trains("LSTMUnit")
def lstm_unit(build: Build) -> Forward:
    """One time step: cell, gates and continuation in, cell and hidden state out."""

    def forward(bottoms, blobs):
        cell, gates, cont = bottoms
        return tuple(state[None] for state in _unit(cell[0], gates[0], cont[0][:, None]))

    return forward


def _unit(cell, gates, cont):
    """(Cell, hidden state) after one step: c = cont f c + i g, h = o tanh(c)."""
    write, keep, read, new = gates.chunk(4, -1)
    cell = cont * torch.sigmoid(keep) * cell + torch.sigmoid(write) * torch.tanh(new)
    return cell, torch.sigmoid(read) * torch.tanh(cell)
