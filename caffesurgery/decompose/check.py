"""Checks on what a decomposition is given: the kernel's numbers and the ranks.

In come arrays and ranks as callers have them; out come the same, known to be usable, or a
DecomposeError that says what was met and what would be legal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import DecomposeError
from .truncated import squared_norm

_TINY = 1e-24  # mean squares below this may have lost terms to float32's smallest numbers
EFFORTS = ("normal", "high")
_CHUNK = 1 << 19  # elements converted to float64 at a time, so that memory stays bounded


def checked_kernel(kernel, group: int) -> tuple[np.ndarray, float]:
    """The kernel as (T, S / group, D, E), without a copy, and its squared norm in float64.

    A matrix (T, S) becomes (T, S, 1, 1).  DecomposeError for other shapes, for dtypes that are
    not floating point, and for NaN, Inf or values that float32 cannot hold.
    """
    kernel = np.asarray(kernel)
    if kernel.ndim == 2:
        kernel = kernel[:, :, None, None]
    if kernel.ndim != 4 or kernel.size == 0:
        raise DecomposeError(
            f"met a kernel of shape {kernel.shape}: expected (T, S, D, E), or (T, S) for a "
            "fully connected layer, without empty axes"
        )
    if kernel.dtype.kind != "f":
        raise DecomposeError(f"met a kernel of {kernel.dtype}: expected float16, 32 or 64")
    if group < 1 or kernel.shape[0] % group:
        raise DecomposeError(f"{kernel.shape[0]} output channels do not divide into {group} groups")
    if kernel.dtype == np.float32:
        with np.errstate(over="ignore", invalid="ignore"):
            energy = squared_norm(kernel)
        if _TINY * kernel.size < energy < np.inf:  # no value was lost, so all are usable
            return kernel, energy
    energy = 0.0
    rows = max(1, _CHUNK // kernel[0].size)
    for start in range(0, len(kernel), rows):
        with np.errstate(invalid="ignore"):  # the cast of a NaN may warn
            chunk = kernel[start : start + rows].astype(np.float64).ravel()
        largest = max(chunk.max(), -chunk.min())
        if not largest <= np.finfo(np.float32).max:
            raise _not_usable(kernel)
        energy += float(chunk @ chunk)
    return kernel, energy


def checked_ranks(scheme, geometry, ranks: Sequence[int]) -> tuple[int, ...]:
    """Ranks as ints, one for each of the scheme's rank names, at least 1, legal for the groups."""
    names = scheme.rank_names
    if np.ndim(ranks) != 1 or len(ranks) != len(names):
        raise DecomposeError(
            f"{scheme.name} takes {len(names)} rank(s) ({', '.join(names)}), met {ranks!r}"
        )
    group = geometry.group
    for label, rank, most in zip(_labels(scheme), ranks, scheme.max_ranks(geometry)):
        if not isinstance(rank, (int, np.integer)) or rank < 1:
            raise DecomposeError(f"{label} {rank}: expected an integer from 1")
        if rank % group:
            below = rank // group * group
            near = [str(legal) for legal in (below, below + group) if 0 < legal <= most] or [
                str(most)
            ]
            raise DecomposeError(
                f"{label} {rank} does not divide over {group} groups "
                f"(ranks are totals over the groups): use {' or '.join(near)}"
            )
    return tuple(int(rank) for rank in ranks)


def check_possible(scheme, geometry, ranks: Sequence[int]) -> None:
    """DecomposeError for a rank that is larger than the layer's kernel can have."""
    for label, rank, most in zip(_labels(scheme), ranks, scheme.max_ranks(geometry)):
        if rank > most:
            T, S, D, E = geometry.weight_shape
            raise DecomposeError(
                f"{label} {rank} is more than a {T} x {S} x {D} x {E} kernel has: "
                f"the largest possible is {most}"
            )


def _labels(scheme) -> list[str]:
    """How errors call the scheme's ranks."""
    if scheme.rank_names == ("rank",):
        return [f"{scheme.name}: rank"]
    return [f"{scheme.name}: {name} rank" for name in scheme.rank_names]


def checked_energy(energy: float) -> None:
    """DecomposeError unless 0 < energy <= 1."""
    if not 0 < energy <= 1:
        raise DecomposeError(f"energy {energy}: expected a share of the squared norm in (0, 1]")


def checked_error(error: float) -> None:
    """DecomposeError unless 0 <= error < 1."""
    if not 0 <= error < 1:
        raise DecomposeError(f"error {error}: expected ||W - What|| / ||W||, from 0 to below 1")


def check_aim(aim):
    """The aim itself; DecomposeError for an unknown effort or a bound that is not positive."""
    if aim.effort not in EFFORTS:
        raise DecomposeError(f"effort '{aim.effort}': expected {' or '.join(EFFORTS)}")
    if aim.max_norm is not None and not 0 < aim.max_norm < np.inf:
        raise DecomposeError(
            f"max_norm {aim.max_norm}: expected a number above 0, the bound on the sum of the "
            "components' norms over the norm of the kernel"
        )
    return aim


def _not_usable(kernel: np.ndarray) -> DecomposeError:
    """The error for a kernel with NaN, Inf or values beyond float32: how many and where."""
    counts = {"NaN": 0, "infinite": 0, "too large for float32": 0}
    first = None
    for t, row in enumerate(kernel):
        with np.errstate(invalid="ignore"):
            row = row.astype(np.float64)
        bad = ~(np.abs(row) <= np.finfo(np.float32).max)
        if not bad.any():
            continue
        if first is None:
            first = [t, *map(int, np.argwhere(bad)[0])]
        counts["NaN"] += int(np.isnan(row).sum())
        counts["infinite"] += int(np.isinf(row).sum())
        counts["too large for float32"] += int((bad & np.isfinite(row)).sum())
    met = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return DecomposeError(
        f"the kernel holds {met} of {kernel.size} values, the first at "
        f"[t, s, y, x] = {first}: only finite weights can be decomposed"
    )
