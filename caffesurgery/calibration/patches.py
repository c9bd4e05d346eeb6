"""What a Convolution or InnerProduct sees of its bottoms, and what it made of them, as matrices.

Patches are columns in the order of the kernel's axes (S, D, E), zero padding included, one for each
output pixel of each image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..net.layers import lookup
from ..net.layers.base import axis_of
from ..net.layers.window import conv_window
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


def output_axis(entry: LayerShapes) -> int:
    """The axis of a layer's top that its outputs lie along."""
    if entry.layer.type == "InnerProduct":
        return len(entry.tops[0]) - 1
    return conv_window(entry.layer, entry.bottoms[0])[0]


def patch_blocks(
    entry: LayerShapes,
    bottoms: Sequence[np.ndarray],
    tops: Sequence[np.ndarray] = (),
    draw: Draw | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Patches (g, n, m) and, where ``tops`` are given, outputs (g, T / g, m), some images at a
    time; float32, m patches in the same order in both.  ``draw`` leaves out some of them."""
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
            rows = draw.rows(sizes, size, start) if draw and sizes else None
            seen = _patches(entry, block, rows).reshape(groups, size, -1)
            yield seen, None if made is None else _grouped(made[start : start + some], groups, rows)


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


def _patches(entry: LayerShapes, items: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    """All patches of images (b, C, *spatial), or rows (b, ...), as columns (g * n, b * pixels)."""
    if entry.layer.type == "InnerProduct":
        return np.ascontiguousarray(items.reshape(len(items), -1).T)
    _, window = conv_window(entry.layer, entry.bottoms[0])
    if any(window.pad):
        items = np.pad(items, [(0, 0), (0, 0), *((pad, pad) for pad in window.pad)])
    sizes = tuple(
        (size - extent) // stride + 1
        for size, extent, stride in zip(items.shape[2:], window.extents(), window.stride)
    )
    steps = items.strides
    taps = tuple(step * gap for step, gap in zip(steps[2:], window.dilation))
    moves = tuple(step * stride for step, stride in zip(steps[2:], window.stride))
    view = as_strided(
        items,
        (items.shape[1], *window.kernel, len(items), *sizes),
        (steps[1], *taps, steps[0], *moves),
        writeable=False,
    )
    if rows is not None:
        view = view[(slice(None),) * (len(window.kernel) + 2) + (rows,)]
    return view.reshape(items.shape[1] * int(np.prod(window.kernel, dtype=int)), -1)
