"""Prints what the decompositions cost and reach: error, seconds, and the same for tensorly.

Kernels of the sizes of AlexNet's and VGG16's layers, with spectra that decay as trained ones do,
at the ranks of papers 000 and 001.  One BLAS thread, CPU seconds; run on a quiet machine.  Where
tensorly is not installed, its columns stay empty.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402
from scipy.fft import idctn  # noqa: E402

from caffesurgery.decompose import scheme  # noqa: E402

# layer, T, S, D (one group), rank of CP, ranks of Tucker-2
LAYERS = [
    ("alexnet conv2", 128, 48, 5, 77, (25, 59)),
    ("alexnet conv3", 384, 256, 3, 153, (105, 112)),
    ("alexnet conv4", 192, 192, 3, 89, (49, 46)),
    ("alexnet conv5", 128, 192, 3, 98, (40, 34)),
    ("vgg16 conv3_1", 256, 128, 3, 115, (41, 69)),
    ("vgg16 conv4_2", 512, 512, 3, 80, (212, 207)),
    ("vgg16 conv5_1", 512, 512, 3, 99, (185, 164)),
]
QUICK = {"alexnet conv2", "alexnet conv4"}
MATRICES = [("vgg16 fc7", 4096, 4096, 145), ("vgg16 fc6", 4096, 25088, 162)]


def kernel(T: int, S: int, D: int, seed: int = 0) -> np.ndarray:
    """A (T, S, D, D) kernel, each of whose unfoldings has a power-law spectrum."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((T, S, D * D))
    for axis, size in enumerate(weight.shape):
        turn = np.linalg.qr(rng.standard_normal((size, size)))[0]
        turn = turn * (1 + np.arange(size) / (0.05 * size + 1)) ** -0.6
        weight = np.moveaxis(np.tensordot(turn, weight, (1, axis)), 0, axis)
    return weight.reshape(T, S, D, D).astype(np.float32)


def matrix(m: int, n: int, values: np.ndarray, seed: int = 0) -> np.ndarray:
    """An m x n matrix, m <= n, that has exactly these m singular values."""
    rng = np.random.default_rng(seed)
    spread = np.zeros((m, n), np.float32)
    spread[np.arange(m), rng.permutation(n)[:m]] = values
    spread = idctn(spread, norm="ortho", overwrite_x=True)
    return spread[rng.permutation(m)] * rng.choice(np.float32([-1, 1]), n)


def clock(call):
    """The result of a call and its CPU seconds."""
    start = time.process_time()
    result = call()
    return result, time.process_time() - start


def tensorly_error(name: str, weight: np.ndarray, ranks) -> float:
    """Relative error of tensorly's nearest method on the same tensor at the same ranks."""
    import tensorly
    from tensorly.decomposition import parafac_power_iteration, partial_tucker

    if name == "tucker2":
        (core, factors), _ = partial_tucker(weight, rank=ranks[::-1], modes=[0, 1])
        back = tensorly.tenalg.multi_mode_dot(core, factors, modes=[0, 1])
        return float(np.linalg.norm(weight - back) / np.linalg.norm(weight))
    T, S, D, E = weight.shape
    tensor = weight.reshape((T, S, D * E) if name == "cp3" else weight.shape)
    np.random.seed(0)
    found = parafac_power_iteration(tensor, ranks[0], n_repeat=1, n_iteration=10)
    back = tensorly.cp_to_tensor(tuple(found))
    return float(np.linalg.norm(tensor - back) / np.linalg.norm(tensor))


def bench_layers(layers) -> None:
    peer = importlib.util.find_spec("tensorly") is not None
    print(f"{'layer':15} {'scheme':8} {'ranks':>9} {'error':>8} {'CPU s':>7}", end="")
    print(f" {'tensorly':>9} {'CPU s':>7} {'faster':>7}")
    for layer, T, S, D, rank, pair in layers:
        weight = kernel(T, S, D)
        for name, ranks in (("cp3", (rank,)), ("cp4", (rank,)), ("tucker2", pair)):
            found, own = clock(lambda n=name, w=weight, r=ranks: scheme(n).decompose(w, 1, r))
            label = ",".join(map(str, ranks))
            line = f"{layer:15} {name:8} {label:>9} {found.error:8.5f} {own:7.3f}"
            if peer:
                error, theirs = clock(lambda n=name, w=weight, r=ranks: tensorly_error(n, w, r))
                line += f" {error:9.5f} {theirs:7.3f} {theirs / own:6.1f}x"
            print(line, flush=True)


def bench_matrices(matrices) -> None:
    print(f"\n{'layer':15} {'scheme':8} {'rank':>9} {'error':>8} {'CPU s':>7} {'over optimum':>13}")
    for layer, m, n, rank in matrices:
        values = (1 + np.arange(m) / 5) ** -0.7
        weight = matrix(m, n, values)
        found, own = clock(lambda w=weight, r=rank: scheme("svd").decompose(w, 1, (r,)))
        best = np.sqrt(np.sum(values[rank:] ** 2) / np.sum(values**2))
        print(f"{layer:15} {'svd':8} {rank:9} {found.error:8.5f} {own:7.3f}", end="")
        print(f" {found.error / best - 1:13.1e}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two small layers and one matrix")
    quick = parser.parse_args().quick
    bench_layers([layer for layer in LAYERS if not quick or layer[0] in QUICK])
    bench_matrices(MATRICES[:1] if quick else MATRICES)


if __name__ == "__main__":
    main()
