"""RNN and LSTM: Caffe unrolls them over time, this table sums the unrolled net up.

Bottoms: x (T x N x ...), the sequence continuation indicators (T x N), a static input (N x ...)
if there is one, and the hidden states if they are exposed.
"""

from __future__ import annotations

import numpy as np

from .base import LayerType, Shape, count, refuse, register, show


class _Recurrent(LayerType):
    """``states`` names the hidden states, ``gates`` counts the vectors computed for each step."""

    states: tuple[str, ...] = ()
    gates = 1

    def exposed(self, layer) -> int:
        """How many hidden states come in as bottoms and go out as tops."""
        return len(self.states) if layer.params("recurrent_param")["expose_hidden"] else 0

    def arity(self, layer):
        hidden = self.exposed(layer)
        return (2 + hidden, 3 + hidden), (1 + hidden, 1 + hidden)

    def static(self, layer, bottoms: list[Shape]) -> Shape | None:
        """Shape of the static input, where the layer has one."""
        return bottoms[2] if len(bottoms) > 2 + self.exposed(layer) else None

    def tops(self, layer, bottoms):
        x, cont = bottoms[:2]
        static, outputs = self.static(layer, bottoms), self._outputs(layer)
        if len(x) < 3 or cont != x[:2]:
            raise refuse(
                layer,
                f"expected x as TxNx... and indicators as TxN, met {show(x)} and {show(cont)}",
            )
        if static is not None and (len(static) < 2 or static[0] != x[1]):
            raise refuse(layer, f"expected a static input of {x[1]}x..., met {show(static)}")
        state = (1, x[1], outputs)
        hidden = bottoms[len(bottoms) - self.exposed(layer) :]
        for name, shape in zip(self.states, hidden):
            if shape != state:
                raise refuse(layer, f"state {name} is {show(shape)}, expected {show(state)}")
        return [(x[0], x[1], outputs)] + [state] * len(hidden)

    def _outputs(self, layer) -> int:
        outputs = layer.params("recurrent_param")["num_output"]
        if outputs < 1:
            raise refuse(layer, "num_output must be above 0")
        return outputs

    def blobs(self, layer, bottoms):
        outputs = self._outputs(layer)
        rows, static = self.gates * outputs, self.static(layer, bottoms)
        shapes = [(rows, count(bottoms[0], 2)), (rows,)]
        if static is not None:
            shapes.append((rows, count(static, 1)))
        return [*shapes, (rows, outputs)]

    def macs(self, layer, bottoms, tops):
        steps, streams = bottoms[0][:2]
        static = self.static(layer, bottoms)
        once = 0 if static is None else self.gates * self._outputs(layer) * count(static, 1)
        matrices = sum(count(shape) for shape in self.blobs(layer, bottoms) if len(shape) == 2)
        return streams * (steps * (matrices - once) + once)

    def onnx(self, layer, g):
        """A loop over time, from hidden states of zero, as Caffe's first forward pass starts.

        Caffe's second pass goes on from the states of the first; where the continuation indicators
        begin a new sequence, both are the same.
        """
        exposed, outputs = self.exposed(layer), self._outputs(layer)
        steps, streams = g.bottom_dims[0][:2]
        static = self.static(layer, g.bottom_shapes)
        given = self._project(g, g.input(), 2, 0, [1])
        given = g.reshape(given, (steps, streams, self.gates * outputs))
        if static is not None:
            given = g.node("Add", [given, self._project(g, g.input(2), 1, 2, [])])
        cont = g.reshape(g.input(1), (steps, streams, 1))
        matrices = [g.const(g.weight(i), "weight") for i in self._hidden_blobs(static)]
        dims = (streams, outputs)
        if exposed:
            first = len(layer.bottoms) - exposed
            states = [g.reshape(g.input(first + i), dims) for i in range(exposed)]
        else:
            states = [g.const(np.zeros(dims), "zero") for _ in self.states]
        final, stacked = g.scan(
            [(state, dims) for state in states],
            [(given, (streams, self.gates * outputs)), (cont, (streams, 1))],
            lambda before, now: self._step(g, before, *now, matrices, dims),
        )
        g.output(0, stacked[0])
        for i in range(exposed):
            g.output(1 + i, g.reshape(final[i], g.top_dims[1 + i]))

    def _project(self, g, tensor: str, axis: int, matrix: int, bias: list[int]) -> str:
        """``tensor``, flattened from ``axis`` on, times a weight matrix (plus a bias)."""
        flat = g.node("Flatten", [tensor], {"axis": axis})
        terms = [g.const(g.weight(i), "weight") for i in (matrix, *bias)]
        return g.node("Gemm", [flat, *terms], {"transB": 1})

    def _hidden_blobs(self, static: Shape | None) -> range:
        """Indices of the blobs that work on the hidden state."""
        return range(2 if static is None else 3, 3 if static is None else 4)

    def _step(self, g, before: list[str], given: str, cont: str, matrices: list[str], dims):
        """One time step: the next states, and what goes into the top, as ``g.scan`` wants them."""
        raise NotImplementedError


def _unit(g, cell: str, gates: list[str], cont: str) -> tuple[str, str]:
    """The next cell and hidden state of an LSTM, from its cell and the gates i, f, o, g."""
    write, keep, read = (g.node("Sigmoid", [gate]) for gate in gates[:3])
    new = g.node("Mul", [write, g.node("Tanh", [gates[3]])])
    cell = g.node("Add", [g.node("Mul", [g.node("Mul", [keep, cont]), cell]), new])
    return cell, g.node("Mul", [read, g.node("Tanh", [cell])])


@register
class LSTM(_Recurrent):
    """Gates i, f, o, g: W_xc (4H, I), b_c (4H), W_xc_static (4H, S) if any, W_hc (4H, H)."""

    types = ("LSTM",)
    states = ("h", "c")
    gates = 4

    def _step(self, g, before, given, cont, matrices, dims):
        hidden, cell = before
        kept = g.node("Mul", [hidden, cont])
        gates = g.node("Gemm", [kept, matrices[0], given], {"transB": 1})
        cell, hidden = _unit(g, cell, g.split(gates, [dims[1]] * 4, 1), cont)
        return [hidden, cell], [(g.node("Identity", [hidden]), dims)]


@register
class RNN(_Recurrent):
    """W_xh (H, I), b_h (H), W_xh_static (H, S) if any, W_hh (H, H), W_ho (H, H), b_o (H)."""

    types = ("RNN",)
    states = ("h",)

    def blobs(self, layer, bottoms):
        outputs = self._outputs(layer)
        return [*super().blobs(layer, bottoms), (outputs, outputs), (outputs,)]

    def _hidden_blobs(self, static):
        first = super()._hidden_blobs(static).start
        return range(first, first + 3)

    def _step(self, g, before, given, cont, matrices, dims):
        kept = g.node("Mul", [before[0], cont])
        hidden = g.node("Tanh", [g.node("Gemm", [kept, matrices[0], given], {"transB": 1})])
        top = g.node("Tanh", [g.node("Gemm", [hidden, *matrices[1:]], {"transB": 1})])
        return [hidden], [(top, dims)]


@register
class LSTMUnit(LayerType):
    """One time step of an LSTM: c and the four gates in, c and h out."""

    types = ("LSTMUnit",)
    takes = (3, 3)
    gives = (2, 2)

    def tops(self, layer, bottoms):
        cell, gates, cont = bottoms
        if len(cell) != 3 or gates != cell[:2] + (4 * cell[2],) or cont != cell[:2] or cell[0] != 1:
            shapes = ", ".join(show(bottom) for bottom in bottoms)
            raise refuse(layer, f"expected 1xNxH, 1xNx4H and 1xN, met {shapes}")
        return [cell, cell]

    def onnx(self, layer, g):
        gates = g.split(g.input(1), [g.bottom_shapes[0][2]] * 4, 2)
        cont = g.reshape(g.input(2), (*g.bottom_dims[2], 1))
        for i, top in enumerate(_unit(g, g.input(0), gates, cont)):
            g.output(i, top)
