"""Tucker-2 and then CP of its core: the two decompositions of papers 001 and 000, one in the other.

The channels are first reduced to R3 and R4 by orthonormal factors, and what is left, the core, is
decomposed 3-way at rank R.  At equal cost the error lies between that of ``tucker2`` and ``cp3``.
"""

from __future__ import annotations

from dataclasses import replace

from ..errors import DecomposeError
from .cp import full_rank
from .geometry import Geometry, Part
from .scheme import SCHEMES, GroupFactors, register
from .search import smallest
from .truncated import squared_norm
from .tucker import Tucker2
from .unfold import all_unfoldings

_CORE = 2
"""Core rank over the larger of R3 and R4 while all three grow: near the least error for its cost on
trained layers (1.4 to 2.7 over budgets of a tenth to a half)."""


@register
class Tucker2Cp(Tucker2):
    """1 x 1 (S -> R3), then cp3's chain in place of the core, then 1 x 1 (R4 -> T).

    The names are those that ``tucker2`` and then ``cp3`` of its core would give.  Merging the first
    two layers to one of R S weights would save something only for R < R3 S / (S - R3), and would
    give cp3's chain, which is closer at that rank.
    """

    name = "tucker2-cp"
    title = "Tucker-2, then 3-way CP of its core: 1 x 1, 1 x 1, depthwise D x E, 1 x 1, 1 x 1"
    source = "paper 001, equations 2 to 5; of the core, paper 000, equations 3 to 8"
    equations = (
        "K[t, s, i, j] = sum_{p, q} U4[t, q] C[q, p, i, j] U3[s, p];  "
        "C[q, p, i, j] = sum_r C_s[r, p] C_dd[r, i, j] C_t[q, r]"
    )
    cost = "R3*S/g + R*R3/g + R*D*E + R4*R/g + T*R4/g"
    rank_names = ("in", "out", "core")
    takes_max_norm = True
    energy_is_searched = True

    def bounds(self, T, S, D, E):
        inner, outer = super().bounds(T, S, D, E)
        return (inner, outer, full_rank((inner, D * E, outer)))

    def check_ranks(self, geometry, ranks):
        inner, outer, rank = ranks = super().check_ranks(geometry, ranks)
        group, taps = geometry.group, geometry.D * geometry.E
        most = full_rank((inner // group, taps, outer // group)) * group
        if rank > most:
            raise DecomposeError(
                f"{self.name}: core rank {rank} is more than a core of {outer // group} x "
                f"{inner // group} x {geometry.D} x {geometry.E} has"
                f"{' in each group' if group > 1 else ''}: the largest possible is {most}"
            )
        return ranks

    def chain(self, geometry, inner, outer, rank):
        g = geometry
        return (
            Part("_s", inner, g.S, 1, 1, g.group),
            Part("_core_s", rank, inner, 1, 1, g.group),
            Part("_core_dd", rank, rank, g.D, g.E, rank, "hw"),
            Part("_core_t", outer, rank, 1, 1, g.group),
            Part("_t", g.T, outer, 1, 1, g.group),
        )

    def unfoldings(self, block):
        inner, outer = super().unfoldings(block)
        return inner, outer, all_unfoldings(block)

    def growing(self, geometry: Geometry, step: int, steps: int) -> tuple[int, ...]:
        """The channels' ranks in the first half of the way, with the core's; then the core's."""
        half = max(1, steps // 2)
        T, S, D, E = geometry.weight_shape
        most = self.bounds(T // geometry.group, S, D, E)
        inner, outer = (max(1, m * min(step, half) // half) for m in most[:2])
        rank = _matching(inner, outer, D * E)
        if step > half:
            rank += (most[2] - rank) * (step - half) // max(1, steps - half)
        return tuple(share * geometry.group for share in (inner, outer, rank))

    def factor(self, block, ranks, seed, tick, aim):
        inner, outer, rank = ranks
        tucker = super().factor(block, (inner, outer), seed, tick, aim)
        first, core, last = tucker.factors
        energy = squared_norm(core)
        if aim.max_norm is not None and energy:  # the bound is over the norm of the kernel
            aim = replace(aim, max_norm=aim.max_norm * (squared_norm(block) / energy) ** 0.5)
        cp = SCHEMES["cp3"].factor(core, [rank], seed, lambda done: None, aim)
        # What Tucker-2 leaves out is orthogonal to all that the core can say: the errors add up.
        return GroupFactors((first, *cp.factors, last), tucker.lost + cp.lost, norms=cp.norms)

    def error_ranks(self, kernel, group, error, most, error_at):
        """Along Tucker-2's path with the core's rank beside it; at its end the core grows alone."""
        taps = kernel.shape[2] * kernel.shape[3]
        path = self.path(kernel, group, most).tolist()

        def at(step: int) -> tuple[int, int, int]:
            inner, outer = path[step]
            return inner, outer, min(_matching(inner, outer, taps), most[2])

        inner, outer, rank = at(smallest(lambda n: error_at(at(n - 1)), error, len(path)) - 1)
        if [inner, outer] == path[-1]:
            largest = min(full_rank((inner, taps, outer)), most[2])
            rank = smallest(lambda r: error_at((inner, outer, r)), error, largest)
        return [inner, outer, rank]


def _matching(inner: int, outer: int, taps: int) -> int:
    """The core's rank that goes with ranks of its channels."""
    return min(_CORE * max(inner, outer), full_rank((inner, taps, outer)))
