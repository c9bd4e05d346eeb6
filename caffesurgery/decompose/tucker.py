"""Tucker decompositions of the channel modes (paper 001, equations 2 to 5).

Tucker-2 compresses input and output channels (HOSVD, then HOOI sweeps), Tucker-1 one of them.
The factors on the channels are orthonormal, the core carries the norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .geometry import Part
from .matrix import MatrixScheme, rank_reaching
from .scheme import GroupFactors, Scheme, register
from .search import smallest
from .truncated import (
    filtered_columns,
    leading_columns,
    matmul,
    residual,
    singular_values,
    squared_norm,
    working,
)
from .unfold import by_input, by_output

_SWEEPS = 30
_WIDER, _SMALL = 1.5, 3  # ranks of the first HOSVD over those asked for; sweeps over its core
_FEW = 1 << 14  # products of the channels up to which a plain HOSVD is the better start
_TOLERANCE = {"normal": 2e-4, "high": 1e-5}
"""The sweeps end when one lowers the squared error by less than this share of it."""


@register
class Tucker2(Scheme):
    """1 x 1 (S -> R3), D x E core (R3 -> R4), 1 x 1 (R4 -> T)."""

    name = "tucker2"
    title = "Tucker-2: 1 x 1, D x E core, 1 x 1"
    source = "paper 001, equations 2 to 5"
    equations = "K[t, s, i, j] = sum_{p, q} U4[t, q] C[q, p, i, j] U3[s, p]"
    cost = "R3*S/g + R4*R3*D*E/g + T*R4/g"
    rank_names = ("in", "out")

    def unsuited(self, geometry):
        return "needs a kernel larger than 1 x 1" if geometry.D * geometry.E == 1 else None

    def bounds(self, T, S, D, E):
        return (min(S, T * D * E), min(T, S * D * E))

    def unfoldings(self, block):
        return {"S": by_input(block)}, {"T": by_output(block)}

    def chain(self, geometry, inner, outer):
        g = geometry
        return (
            Part("_s", inner, g.S, 1, 1, g.group),
            Part("_core", outer, inner, g.D, g.E, g.group, "hw"),
            Part("_t", g.T, outer, 1, 1, g.group),
        )

    def factor(self, block, ranks, seed, tick, aim):
        T, S, D, E = block.shape
        # (T, D E, S): both unfoldings are then views, and both contractions one gemm.
        tensor = working(block.transpose(0, 2, 3, 1)).reshape(T, D * E, S)
        inputs, outputs, core, lost = hooi(tensor, *ranks, seed, _TOLERANCE[aim.effort])
        core = core.reshape(ranks[1], D, E, ranks[0]).transpose(0, 3, 1, 2)
        return GroupFactors((inputs.T[:, :, None, None], core, outputs[:, :, None, None]), lost)

    def energy_ranks(self, blocks, energy, most):
        inputs = sum(singular_values(by_input(block)) ** 2 for block in blocks)
        outputs = sum(singular_values(by_output(block)) ** 2 for block in blocks)
        return [min(rank_reaching(s, energy), m) for s, m in zip((inputs, outputs), most)]

    def error_ranks(self, kernel, group, error, most, error_at):
        path = self.path(kernel, group, most)
        return path[smallest(lambda n: error_at(path[n - 1]), error, len(path)) - 1].tolist()

    @staticmethod
    def path(kernel: np.ndarray, group: int, most: Sequence[int]) -> np.ndarray:
        """Pairs of ranks per group, each with the next largest direction of either mode."""
        blocks = np.split(kernel, group)
        inputs = sum(singular_values(by_input(block)) ** 2 for block in blocks)
        outputs = sum(singular_values(by_output(block)) ** 2 for block in blocks)
        squares = np.concatenate([inputs[: most[0]], outputs[: most[1]]])
        mode = np.repeat([0, 1], [len(squares) - len(outputs[: most[1]]), len(outputs[: most[1]])])
        taken = np.cumsum(np.eye(2, dtype=int)[mode[np.argsort(-squares, kind="stable")]], axis=0)
        return np.maximum(taken, 1)


def hooi(
    tensor: np.ndarray,
    inner: int,
    outer: int,
    seed: Sequence[int] = (0,),
    tolerance: float = _TOLERANCE["normal"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Tucker-2 of a tensor (T, K, S), float32, at ranks ``inner`` (of S) and ``outer`` (of T).

    Returns U3 (S, R3) and U4 (T, R4), orthonormal, the core (R4, K, R3) and the squared error.
    Sweeps, outputs first, until one lowers the squared error by less than ``tolerance`` of it;
    from a HOSVD or, with many channels, a Tucker-2 of what the HOSVD keeps at larger ranks.
    """
    T, K, S = tensor.shape
    total = squared_norm(tensor)
    rows, planes = tensor.reshape(T * K, S), tensor.reshape(T, K * S)
    if T * S <= _FEW:
        inputs, outputs = leading_columns(rows.T, inner, seed), None
    else:
        inputs, outputs = _started(tensor, inner, outer, seed)
    kept, lost = None, total
    for _ in range(_SWEEPS):
        seen = matmul(rows, inputs).reshape(T, K * inner)
        if outputs is None:
            outputs = leading_columns(seen, outer, seed)
        else:
            outputs = filtered_columns(seen, outputs)
        seen = matmul(outputs.T, planes).reshape(outer * K, S)
        inputs = filtered_columns(seen.T, inputs)
        core = matmul(seen, inputs)
        before, lost = lost, total - squared_norm(core)
        if kept is None or lost <= before:
            kept = inputs, outputs, core.reshape(outer, K, inner)
        if before - lost <= max(tolerance * lost, 1e-7 * total):
            break
    inputs, outputs, core = kept
    lost = min(lost, before)
    if lost < 1e-3 * total:  # float32 products leave no digits in the difference
        wide = matmul(core.reshape(outer * K, inner), inputs.T).reshape(outer, K * S)
        lost = residual(planes, outputs, wide)
    return inputs, outputs, core, lost


def _started(tensor: np.ndarray, inner: int, outer: int, seed) -> tuple[np.ndarray, np.ndarray]:
    """U3 and U4 of a HOSVD at larger ranks, cut by HOOI's exact sweeps over its small core."""
    T, K, S = tensor.shape
    p, q = (min(size, int(_WIDER * r) + 1) for size, r in ((S, inner), (T, outer)))
    inputs = leading_columns(tensor.reshape(T * K, S).T, p, seed)
    seen = matmul(tensor.reshape(T * K, S), inputs).reshape(T, K * p)
    outputs = leading_columns(seen, q, seed)
    core = matmul(outputs.T, seen)
    second = np.eye(q, outer, dtype=np.float32)
    for _ in range(_SMALL):
        seen = matmul(second.T, core).reshape(outer * K, p)
        first = leading_columns(seen.T, inner, seed)
        seen = matmul(core.reshape(q * K, p), first).reshape(q, K * inner)
        second = leading_columns(seen, outer, seed)
    return matmul(inputs, first), matmul(outputs, second)


class _Tucker1(MatrixScheme):
    """One orthonormal factor on a channel mode; the truncated SVD of that mode's unfolding."""

    source = "paper 001, section 3.1"


@register
class Tucker1Out(_Tucker1):
    """D x E core (S -> R4), 1 x 1 (R4 -> T): the optimum of ``channel``, differently scaled."""

    name = "tucker1-out"
    title = "Tucker-1 on the outputs: D x E core, 1 x 1"
    equations = "K[t, s, i, j] = sum_q U4[t, q] C[q, s, i, j]"
    cost = "R4*S*D*E/g + T*R4/g"
    rank_names = ("out",)

    def bounds(self, T, S, D, E):
        return (min(T, S * D * E),)

    def chain(self, geometry, outer):
        g = geometry
        return (
            Part("_core", outer, g.S, g.D, g.E, g.group, "hw"),
            Part("_t", g.T, outer, 1, 1, g.group),
        )

    def unfold(self, block):
        return by_output(block)

    def fold(self, svd, T, S, D, E):
        return svd.projected.reshape(-1, S, D, E), svd.left[:, :, None, None]


@register
class Tucker1In(_Tucker1):
    """1 x 1 (S -> R3), D x E core (R3 -> T)."""

    name = "tucker1-in"
    title = "Tucker-1 on the inputs: 1 x 1, D x E core"
    equations = "K[t, s, i, j] = sum_p C[t, p, i, j] U3[s, p]"
    cost = "R3*S/g + T*R3*D*E/g"
    rank_names = ("in",)

    def bounds(self, T, S, D, E):
        return (min(S, T * D * E),)

    def chain(self, geometry, inner):
        g = geometry
        return (
            Part("_s", inner, g.S, 1, 1, g.group),
            Part("_core", g.T, inner, g.D, g.E, g.group, "hw"),
        )

    def unfold(self, block):
        return by_input(block)

    def fold(self, svd, T, S, D, E):
        core = svd.projected.reshape(-1, T, D, E)
        return svd.left.T[:, :, None, None], core.transpose(1, 0, 2, 3)
