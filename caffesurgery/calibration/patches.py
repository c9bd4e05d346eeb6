"""What a Convolution or InnerProduct sees of its bottoms, and what it made of them, as matrices.

Patches are columns in the order of the kernel's axes (S, D, E), zero padding included, one for each
output pixel of each image.  Where a window moves by single rows, the rows of it (S, E) are laid out
and not the whole of it: the product of two rows is the same wherever in the window they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..net.layers import lookup
from ..net.layers.base import axis_of
from ..net.layers.window import conv_window
from ..net.net import Layer
from ..net.shapes import LayerShapes

TYPES = ("Convolution", "InnerProduct")

PATCHES = 200
"""Patches for each number of a patch that a refit is made from, where the images have as many."""

_BLOCK = 1 << 22
"""Numbers of patches that are laid out at a time."""


def patch_size(entry: LayerShapes) -> tuple[int, int]:
    """(Groups, numbers of a patch in each of them) of a layer of ``TYPES``."""
    bottom = entry.bottoms[0]
    if entry.layer.type == "InnerProduct":
        return 1, int(np.prod(bottom[_axis(entry) :], dtype=int))
    axis, window = conv_window(entry.layer, bottom)
    groups = lookup(entry.layer.type).groups(entry.layer, bottom[axis])
    return groups, bottom[axis] // groups * int(np.prod(window.kernel, dtype=int))


def is_transposed(layer: Layer) -> bool:
    """Whether the weights of a fully connected layer lie with its inputs first."""
    return layer.type == "InnerProduct" and layer.params("inner_product_param")["transpose"]


def output_axis(entry: LayerShapes) -> int:
    """The axis of a layer's top that its outputs lie along."""
    if entry.layer.type == "InnerProduct":
        return len(entry.tops[0]) - 1
    return conv_window(entry.layer, entry.bottoms[0])[0]


@dataclass(frozen=True, eq=False)
class Seen:
    """What a layer sees of some images, as rows of its window, of which it has ``taps``.

    rows: (g, n / taps, columns) float32; tap d sees ``width`` columns, those from d * ``step`` on
    across: the numbers of a row for each channel
    made: (g, T / g, width), what comes of the patches, where that was given
    """

    rows: np.ndarray
    width: int
    made: np.ndarray | None = None
    taps: int = 1
    step: int = 0
    across: int = 1

    def squares(self) -> np.ndarray:
        """(pairs, g, n / taps, n / taps) float32: the products of tap d with tap d + lag, for each
        lag those of all d; ``gram_of`` makes the sum of x x^T of them."""
        groups, size, _ = self.rows.shape
        found = np.empty((self.taps * (self.taps + 1) // 2, groups, size, size), np.float32)
        place = 0
        for lag in range(self.taps):
            self._add_lag(lag, found[place : place + self.taps - lag])
            place += self.taps - lag
        return found

    def _add_lag(self, lag: int, found: np.ndarray) -> None:
        """What all places of two rows have in common is multiplied once, and beside it only the
        rows before and behind."""
        step, most = self.step, len(found) - 1

        def product(start: int, stop: int) -> np.ndarray:
            one, other = (self.rows[:, :, k + start : k + stop] for k in (0, lag * step))
            return np.matmul(one, other.transpose(0, 2, 1))

        found[:] = product(most * step, self.width)
        before = behind = 0
        for d in range(1, most + 1):
            before = before + product((most - d) * step, (most - d + 1) * step)
            behind = behind + product(self.width + (d - 1) * step, self.width + d * step)
            found[most - d] += before
            found[d] += behind

    def total(self) -> np.ndarray:
        """(g, n) float64: the sum of the patches."""
        return self._joined(each.sum(2, dtype=np.float64) for each in self._windows())

    def crosses(self) -> np.ndarray:
        """(g, T / g, n) float32: the products of what is made of the patches with them."""
        windows = self._windows()
        return self._joined(np.matmul(self.made, each.transpose(0, 2, 1)) for each in windows)

    def _windows(self) -> list[np.ndarray]:
        starts = (d * self.step for d in range(self.taps))
        return [self.rows[:, :, start : start + self.width] for start in starts]

    def _joined(self, parts: Iterator[np.ndarray]) -> np.ndarray:
        """Numbers of the rows, (..., S E) of each tap, as those of the window (..., S D E)."""
        split = [part.reshape(*part.shape[:-1], -1, self.across) for part in parts]
        found = np.stack(split, axis=-2)
        return found.reshape(*found.shape[:-3], -1)


def gram_of(entry: LayerShapes, squares: np.ndarray) -> np.ndarray:
    """The sum of x x^T (g, n, n) over the patches of a layer, from added up ``Seen.squares``."""
    if len(squares) == 1:
        return squares[0]
    kernel = conv_window(entry.layer, entry.bottoms[0])[1].kernel
    groups, size = patch_size(entry)
    taps, across = kernel[0], int(np.prod(kernel[1:], dtype=int))
    found = np.empty((groups, *(size // taps // across, taps, across) * 2), squares.dtype)
    pairs = iter(squares.reshape(-1, groups, *(size // taps // across, across) * 2))
    for lag in range(taps):
        for d in range(taps - lag):
            block = next(pairs)
            found[:, :, d + lag, :, :, d] = block.transpose(0, 3, 4, 1, 2)
            found[:, :, d, :, :, d + lag] = block
    return found.reshape(groups, size, size)


def seen_blocks(
    entry: LayerShapes,
    bottoms: Sequence[np.ndarray],
    tops: Sequence[np.ndarray] = (),
    draw: Draw | None = None,
) -> Iterator[Seen]:
    """What a layer sees of its bottoms and, where ``tops`` are given, made of it, some images at a
    time.  ``draw`` leaves out some of the patches."""
    groups, size = patch_size(entry)
    axis = _axis(entry)
    for number, bottom in enumerate(bottoms):
        items = bottom.reshape(-1, *bottom.shape[axis:])
        sizes = entry.tops[number][axis + 1 :]
        pixels = int(np.prod(sizes, dtype=int))
        some = max(1, _BLOCK // max(1, groups * size * pixels))
        made = tops[number].reshape(len(items), -1, *sizes) if tops else None
        for start in range(0, len(items), some):
            block = items[start : start + some]
            result = None if made is None else made[start : start + some]
            rows = draw.rows(sizes, size, start) if draw and sizes else None
            if rows is None and _by_rows(entry, sizes):
                yield _rows_seen(entry, block, result)
                continue
            seen = _patches(entry, block, rows).reshape(groups, size, -1)
            result = None if made is None else _grouped(result, groups, rows)
            yield Seen(seen, seen.shape[2], result)


@dataclass(frozen=True)
class Draw:
    """Which rows of output pixels are looked at, drawn for each few images anew.

    images: of the whole sample; together they give at least ``PATCHES`` patches for each number of
    a patch, where there are as many
    """

    seed: tuple[int, ...]
    images: int

    def rows(self, sizes: Sequence[int], size: int, start: int) -> np.ndarray | None:
        """Rows of an output of ``sizes``, ascending; None for all."""
        across = int(np.prod(sizes[1:], dtype=int))
        wanted = -(-PATCHES * size // max(1, self.images * across))
        if wanted >= sizes[0]:
            return None
        random = np.random.default_rng([*self.seed, start])
        return np.sort(random.choice(sizes[0], max(1, wanted), replace=False))


def _axis(entry: LayerShapes) -> int:
    layer, bottom = entry.layer, entry.bottoms[0]
    if layer.type == "InnerProduct":
        return axis_of(layer, bottom, layer.params("inner_product_param")["axis"])
    return conv_window(layer, bottom)[0]


def _grouped(made: np.ndarray, groups: int, rows: np.ndarray | None) -> np.ndarray:
    """Outputs (images, T, *sizes) as (g, T / g, patches)."""
    if rows is not None:
        made = made[:, :, rows]
    return made.swapaxes(0, 1).reshape(groups, made.shape[1] // groups, -1)


def _by_rows(entry: LayerShapes, sizes: Sequence[int]) -> bool:
    """Whether the window has rows, moves by single ones, and comes to more places than it has."""
    if entry.layer.type == "InnerProduct":
        return False
    _, window = conv_window(entry.layer, entry.bottoms[0])
    span = (window.kernel[0] - 1) * window.dilation[0]
    return 0 < span < sizes[0] and window.stride[0] == 1


def _rows_seen(entry: LayerShapes, items: np.ndarray, made: np.ndarray | None) -> Seen:
    """The rows of all patches of images (b, C, *spatial): columns are padded row, image, pixel."""
    groups, size = patch_size(entry)
    _, window = conv_window(entry.layer, entry.bottoms[0])
    items, sizes, taps, moves = _window_steps(window, items)
    count, kernel = len(items), window.kernel
    view = as_strided(
        items,
        (items.shape[1], *kernel[1:], items.shape[2], count, *sizes[1:]),
        (items.strides[1], *taps[1:], items.strides[2], items.strides[0], *moves[1:]),
        writeable=False,
    )
    pixels = count * int(np.prod(sizes[1:], dtype=int))
    if made is not None:
        made = np.moveaxis(made, 0, 2).reshape(groups, made.shape[1] // groups, -1)
    return Seen(
        view.reshape(groups, size // kernel[0], -1), sizes[0] * pixels, made, kernel[0],
        window.dilation[0] * pixels, int(np.prod(kernel[1:], dtype=int)),
    )  # fmt: skip


def _patches(entry: LayerShapes, items: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    """All patches of images (b, C, *spatial), or rows (b, ...), as columns (g * n, b * pixels)."""
    if entry.layer.type == "InnerProduct":
        return np.ascontiguousarray(items.reshape(len(items), -1).T)
    _, window = conv_window(entry.layer, entry.bottoms[0])
    items, sizes, taps, moves = _window_steps(window, items)
    view = as_strided(
        items,
        (items.shape[1], *window.kernel, len(items), *sizes),
        (items.strides[1], *taps, items.strides[0], *moves),
        writeable=False,
    )
    if rows is not None:
        view = view[(slice(None),) * (len(window.kernel) + 2) + (rows,)]
    return view.reshape(items.shape[1] * int(np.prod(window.kernel, dtype=int)), -1)


def _window_steps(window, items: np.ndarray) -> tuple[np.ndarray, tuple, tuple, tuple]:
    """Padded images, the sizes of what a window makes of them, and the bytes from one number of
    the window to the next, and from one place of it to the next, for each spatial axis."""
    if any(window.pad):
        items = np.pad(items, [(0, 0), (0, 0), *((pad, pad) for pad in window.pad)])
    sizes = tuple(
        (size - extent) // stride + 1
        for size, extent, stride in zip(items.shape[2:], window.extents(), window.stride)
    )
    steps = items.strides[2:]
    taps = tuple(step * gap for step, gap in zip(steps, window.dilation))
    moves = tuple(step * stride for step, stride in zip(steps, window.stride))
    return items, sizes, taps, moves
