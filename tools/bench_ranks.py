"""Measures how long ranks take: VBMF beside the public algorithm, and the whole-net optimum.

VBMF runs on planted matrices of the sizes of real unfoldings; the public algorithm is a full SVD
and a bounded scalar search.  The whole-net part runs on synthetic nets of 13, 55 and 200 layers.
Run with OPENBLAS_NUM_THREADS=1; times are CPU seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np

from caffesurgery.ranks.evbmf import compatible
from caffesurgery.ranks.knapsack import Item, lagrangian, solve
from caffesurgery.ranks.large import estimate_of
from caffesurgery.ranks.spectrum import spectrum

MATRICES = ((64, 576), (256, 2304), (512, 4608), (9, 98304))
VGG16 = (
    (64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256), (512, 256),
    (512, 512), (512, 512), (512, 512), (512, 512), (512, 512),
)  # fmt: skip
FC = ((4096, 25088), (4096, 4096), (1000, 4096))
HIGH = (4096, 4096, 800)  # not of VGG16: about what rank a part of the spectrum still suffices for


def seconds(task: Callable[[], object]) -> tuple[float, object]:
    """CPU seconds of the task, and what it returns."""
    start = time.process_time()
    found = task()
    return time.process_time() - start, found


def planted(rows: int, columns: int, rank: int | None = None, seed: int = 0) -> np.ndarray:
    """A matrix (rows, columns), float32: a tenth of the rank with a falling spectrum, and noise."""
    rng = np.random.default_rng(seed)
    rank = rank or max(1, min(rows, columns) // 10)
    left = rng.standard_normal((rows, rank), np.float32) / np.sqrt(np.arange(1, rank + 1))
    noise = rng.standard_normal((rows, columns), np.float32)
    return left.astype(np.float32) @ rng.standard_normal((rank, columns), np.float32) + 0.3 * noise


def public(matrix: np.ndarray) -> int:
    """What the public code does: a full SVD, then the search that ``compatible`` repeats."""
    np.linalg.svd(matrix)
    return compatible(spectrum(matrix, dead=0.0))


def matrices(with_public: bool) -> None:
    """VBMF of single matrices."""
    for rows, columns in MATRICES:
        matrix = planted(rows, columns)
        ours, found = seconds(lambda matrix=matrix: estimate_of(matrix)[0])
        line = f"vbmf {rows:>4} x {columns:<6} rank {found.rank:>3}  {1e3 * ours:8.1f} ms"
        if with_public and rows * columns < 3_000_000 and columns < 5000:
            theirs, _ = seconds(lambda matrix=matrix: public(matrix))
            line += f"   public {theirs:7.2f} s   {theirs / ours:6.0f} times"
        print(line, flush=True)


def vgg16() -> None:
    """Both channel unfoldings of every convolution of VGG16, and its fully connected layers."""
    total = 0.0
    for outputs, inputs in VGG16:
        kernel = planted(outputs, inputs * 9).reshape(outputs, inputs, 3, 3)
        by_input = kernel.transpose(1, 2, 3, 0).reshape(inputs, -1)
        for matrix in (kernel.reshape(outputs, -1), by_input):
            total += seconds(lambda matrix=matrix: estimate_of(matrix)[0])[0]
    print(f"vbmf VGG16, 13 convolutions: {total:.2f} s", flush=True)
    for shape in FC:
        matrix = planted(*shape)
        took, found = seconds(lambda matrix=matrix: estimate_of(matrix)[0])
        total += took
        print(f"vbmf {shape[0]} x {shape[1]}: {took:.2f} s, rank {found.rank}", flush=True)
    print(f"vbmf VGG16, all layers: {total:.2f} s")
    matrix = planted(*HIGH)
    took, found = seconds(lambda: estimate_of(matrix)[0])
    print(f"vbmf {HIGH[0]} x {HIGH[1]}: {took:.2f} s, rank {found.rank}")


def net(layers: int, most: int, seed: int = 0) -> list[Item]:
    """Layers with costs linear in the rank, and the logarithm of an energy as value."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(layers):
        ranks = np.arange(1, int(rng.integers(most // 4, most)) + 1)
        values = np.sort(rng.random(len(ranks)) * np.exp(-3 * ranks / len(ranks)))[::-1]
        energy = np.cumsum(values)
        costs = 6144.0 * int(rng.integers(1, 40)) * ranks
        found.append(Item(costs[:, None], np.log(energy / energy[-1])))
    return found


def whole_nets(sizes: Sequence[tuple[int, int]]) -> None:
    """The exact optimum and the Lagrangian at a quarter of the cost."""
    for layers, most in sizes:
        items = net(layers, most)
        budget = [0.25 * sum(float(item.costs.max()) for item in items)]
        quick, first = seconds(lambda items=items, budget=budget: lagrangian(items, budget))
        exact, best = seconds(lambda items=items, budget=budget: solve(items, budget))
        print(
            f"whole net of {layers:>3} layers: Lagrangian {1e3 * quick:6.1f} ms, at most "
            f"{100 * np.expm1(first.bound - first.value):.2g} % off;  exact {1e3 * exact:6.1f} ms"
            f"{'' if best.exact else ', not proven'}",
            flush=True,
        )


def main() -> None:
    """Print every measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--public", action="store_true", help="also time the public algorithm")
    parser.add_argument("--vgg16", action="store_true", help="also all layers of VGG16")
    given = parser.parse_args()
    whole_nets(((13, 500), (55, 90), (200, 120)))
    matrices(given.public)
    if given.vgg16:
        vgg16()


if __name__ == "__main__":
    main()
