"""What a decomposition scheme is: one dense layer in, a chain of small layers out.

A scheme knows the geometry of its chain (`parts`), the ranks that make sense (`max_ranks`) and
how to compute the factors of a kernel (`decompose`).  Every scheme is applied to each group of a
grouped convolution separately; its ranks are totals over the groups, as in the ETRI papers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..errors import DecomposeError, suggest
from . import stability
from .check import (
    check_aim,
    check_possible,
    checked_energy,
    checked_error,
    checked_kernel,
    checked_ranks,
)
from .geometry import Geometry, Part
from .outcome import Aim, Decomposition, GroupFactors, joined, nothing
from .search import ROUNDING

Progress = Callable[[int, int], None]


class Scheme:
    """Base of the schemes; a subclass gives the class attributes and the methods that raise here.

    name: key in SCHEMES;  title, source, equations: text for people
    cost: weights of the chain, one term for each layer, in T, S, D, E, the groups g and the rank R
        (R3 of the inputs, R4 of the outputs); each weight is used once for every output pixel
    kinds: the kinds of layers it takes ('conv', 'fc')
    rank_names: ('rank',), ('in', 'out'), ('in',), ('out',) or ('in', 'out', 'core')
    takes_max_norm: whether it has components whose norms can be bounded
    energy_is_searched: whether ranks for an energy are those for the error that leaves it
    optimal: whether none of its chains is closer to the kernel than the one that it finds
    """

    name: str
    title: str
    source: str
    equations: str
    cost: str
    kinds: frozenset[str] = frozenset({"conv", "fc"})
    rank_names: tuple[str, ...] = ("rank",)
    takes_max_norm = False
    energy_is_searched = False
    optimal = False

    # -- what a scheme says about geometry alone

    def applies(self, geometry: Geometry) -> str | None:
        """None where the scheme makes sense for this layer, else the reason why not."""
        if geometry.kind not in self.kinds:
            return f"{self.name} is for {' and '.join(sorted(self.kinds))} layers"
        return self.unsuited(geometry)

    def unsuited(self, geometry: Geometry) -> str | None:
        """The reason why this geometry gains nothing from the scheme; None by default."""
        return None

    def max_ranks(self, geometry: Geometry) -> tuple[int, ...]:
        """Largest ranks that make sense, totals over the groups; the scheme is exact there."""
        T, S, D, E = geometry.weight_shape
        bounds = self.bounds(T // geometry.group, S, D, E)
        return tuple(bound * geometry.group for bound in bounds)

    def growing(self, geometry: Geometry, step: int, steps: int) -> tuple[int, ...]:
        """Ranks (totals) at ``step`` of ``steps`` on the way from the least to the largest.

        Here all grow in proportion to the largest; each is at least 1 a group.
        """
        group = geometry.group
        return tuple(
            max(group, (most * step // steps) // group * group) for most in self.max_ranks(geometry)
        )

    def bounds(self, T: int, S: int, D: int, E: int) -> tuple[int, ...]:
        """Largest ranks for one group with T outputs, S inputs and a D x E kernel."""
        raise NotImplementedError

    def parts(self, geometry: Geometry, ranks: Sequence[int]) -> tuple[Part, ...]:
        """The chain of small layers, first to last, whatever the rank (so that any can be costed).

        DecomposeError for ranks that are not positive or do not divide over the groups.
        """
        return self.chain(geometry, *checked_ranks(self, geometry, ranks))

    def check_ranks(self, geometry: Geometry, ranks: Sequence[int]) -> tuple[int, ...]:
        """The ranks as ints where `decompose` takes them; DecomposeError with the legal ones."""
        ranks = checked_ranks(self, geometry, ranks)
        check_possible(self, geometry, ranks)
        return ranks

    def chain(self, geometry: Geometry, *ranks: int) -> tuple[Part, ...]:
        """The parts for ranks that are known to be legal."""
        raise NotImplementedError

    def suited(self, aim: Aim) -> Aim:
        """The aim without what means nothing to this scheme."""
        return aim if self.takes_max_norm else replace(aim, max_norm=None)

    # -- what it does with numbers

    def unfoldings(self, block: np.ndarray) -> tuple[dict[str, np.ndarray], ...]:
        """For each rank, the unfoldings of one group's kernel (T, S, D, E) that it is chosen by.

        Matrices by the name of the mode that is their short side or that they separate; views
        where possible.
        """
        raise NotImplementedError

    def decompose(
        self,
        kernel: np.ndarray,
        group: int,
        ranks: Sequence[int],
        seed: int = 0,
        progress: Progress | None = None,
        effort: str = "normal",
        max_norm: float | None = None,
    ) -> Decomposition:
        """Factors of a kernel (T, S / group, D, E), or matrix (T, S), at the given total ranks.

        Takes any float dtype, byte order and memory layout, read-only views included; computes
        in float32 with float64 where sums cancel.  Deterministic for a seed.  ``progress`` is
        called with (done, total) components of the first rank: after each one for CP, after
        each group otherwise.  effort and max_norm: see ``Aim``.  DecomposeError for a kernel that
        is not finite or not 2-D or 4-D, and for illegal ranks.
        """
        aim = check_aim(Aim(effort, max_norm))
        if aim != self.suited(aim):
            raise DecomposeError(
                f"max_norm {max_norm:g} bounds the norms of CP components, and {self.name} has none"
            )
        kernel, energy = checked_kernel(kernel, group)
        geometry = Geometry.of(kernel.shape, group)
        ranks = self.check_ranks(geometry, ranks)
        parts = self.chain(geometry, *ranks)
        if energy == 0:
            return nothing(parts, ranks, group)
        shares = [rank // group for rank in ranks]
        if max_norm is not None:  # the groups' norms add up to at most sqrt(group) times the whole
            aim = replace(aim, max_norm=max_norm / group**0.5)
        scale = _scale(energy / kernel.size)
        found = []
        for g, block in enumerate(_blocks(kernel, group)):
            tick = _ticker(progress, g * shares[0], ranks[0])
            found.append(self.factor(_scaled(block, scale), shares, [seed, g], tick, aim))
            tick(shares[0])
        whole = joined(found, scale, energy)
        ratio = whole.norm_ratio
        return replace(
            whole,
            sensitivity=stability.sensitivity(whole.factors, parts, group),
            warning=None if ratio is None else stability.warning(ratio, ranks[-1], max_norm),
        )

    def factor(
        self,
        block: np.ndarray,
        ranks: Sequence[int],
        seed: Sequence[int],
        tick: Callable[[int], None],
        aim: Aim,
    ) -> GroupFactors:
        """Factors of one group's kernel (T, S, D, E) at its share of the ranks.

        May call ``tick(done)`` after each component but the last.
        """
        raise NotImplementedError

    def ranks_for_energy(
        self,
        kernel: np.ndarray,
        group: int,
        energy: float,
        limit: int | None = None,
        seed: int = 0,
        effort: str = "normal",
        max_norm: float | None = None,
    ) -> tuple[int, ...]:
        """Smallest ranks (totals) that keep at least ``energy`` of the squared norm.

        Every group gets the same rank.  Ranks are not looked for above ``limit`` (total), which
        is returned, rounded down to a multiple of the groups, where it does not suffice.  Where
        no spectrum tells, the energy of a rank is 1 - error^2 of its decomposition (with this
        seed, effort and max_norm).
        """
        checked_energy(energy)
        if self.energy_is_searched:
            error = (1 - energy) ** 0.5
            return self.ranks_for_error(kernel, group, error, limit, seed, effort, max_norm)
        kernel, total, most = self._searched(kernel, group, limit)
        if total == 0:
            return (group,) * len(most)
        scale = _scale(total / kernel.size)
        blocks = [_scaled(block, scale) for block in _blocks(kernel, group)]
        return tuple(rank * group for rank in self.energy_ranks(blocks, energy, most))

    def _searched(self, kernel, group: int, limit: int | None):
        """The checked kernel, its squared norm, and the largest ranks of a group to look at."""
        kernel, total = checked_kernel(kernel, group)
        most = [rank // group for rank in self.max_ranks(Geometry.of(kernel.shape, group))]
        if limit is not None:
            most = [max(1, min(rank, limit // group)) for rank in most]
        return kernel, total, most

    def energy_ranks(
        self, blocks: Sequence[np.ndarray], energy: float, most: Sequence[int]
    ) -> list[int]:
        """Ranks per group, at most ``most``, that keep ``energy`` of the blocks' squared norm."""
        raise NotImplementedError

    def error_for_rank(
        self,
        kernel: np.ndarray,
        group: int,
        ranks: Sequence[int],
        seed: int = 0,
        effort: str = "normal",
        max_norm: float | None = None,
    ) -> float:
        """||W - What|| / ||W|| that `decompose` reaches at these total ranks."""
        found = self.decompose(kernel, group, ranks, seed, effort=effort, max_norm=max_norm)
        return found.error

    def ranks_for_error(
        self,
        kernel: np.ndarray,
        group: int,
        error: float,
        limit: int | None = None,
        seed: int = 0,
        effort: str = "normal",
        max_norm: float | None = None,
    ) -> tuple[int, ...]:
        """Smallest ranks (totals) whose error, ||W - What|| / ||W||, is at most ``error``.

        Every group gets the same rank.  Ranks are not looked for above ``limit`` (total), which is
        returned, rounded down to a multiple of the groups, where it does not suffice.  Where
        ranks have to be tried, those above 64 a group may be larger than the smallest by 1 / 64.
        DecomposeError for errors outside [0, 1) and for schemes that fit nothing.
        """
        checked_error(error)
        kernel, total, most = self._searched(kernel, group, limit)
        if total == 0:
            return (group,) * len(most)

        def error_at(shares: Sequence[int]) -> float:
            ranks = [share * group for share in shares]
            return self.error_for_rank(kernel, group, ranks, seed, effort, max_norm)

        found = self.error_ranks(kernel, group, error, most, error_at)
        return tuple(rank * group for rank in found)

    def error_ranks(
        self,
        kernel: np.ndarray,
        group: int,
        error: float,
        most: Sequence[int],
        error_at: Callable[[Sequence[int]], float],
    ) -> list[int]:
        """Ranks per group, at most ``most``, for an error; ``error_at`` is the error of ranks.

        Here for the schemes whose kept energy is exactly 1 - error^2.
        """
        energy = max(1 - (error + ROUNDING) ** 2, 1e-12)
        found = self.ranks_for_energy(kernel, group, energy, most[0] * group)
        return [rank // group for rank in found]


SCHEMES: dict[str, Scheme] = {}


def register(cls: type[Scheme]) -> type[Scheme]:
    """Class decorator: puts an instance of the scheme into SCHEMES under its name."""
    SCHEMES[cls.name] = cls()
    return cls


def scheme(name: str) -> Scheme:
    """The scheme of that name; DecomposeError listing the known ones."""
    if name not in SCHEMES:
        raise DecomposeError(f"unknown decomposition '{name}': {suggest(name, SCHEMES)}")
    return SCHEMES[name]


def _blocks(kernel: np.ndarray, group: int) -> list[np.ndarray]:
    """One view per group, (T / group, S / group, D, E)."""
    step = kernel.shape[0] // group
    return [kernel[g * step : (g + 1) * step] for g in range(group)]


def _scale(mean_square: float) -> float:
    """A power of two to divide by, so that products of float32 neither over- nor underflow."""
    exponent = round(np.log2(mean_square) / 2)
    return 1.0 if abs(exponent) <= 20 else 2.0 ** max(-120, min(120, exponent))


def _scaled(block: np.ndarray, scale: float) -> np.ndarray:
    """The block over the scale; the block itself, without a copy, in the usual range."""
    if scale == 1:
        return block
    return np.multiply(block, 1 / scale, dtype=np.promote_types(block.dtype, np.float32))


def _ticker(progress: Progress | None, before: int, total: int) -> Callable[[int], None]:
    """A callback for one group, whose components come after those of the groups before."""

    def tick(done: int) -> None:
        if progress:
            progress(before + done, total)

    return tick
