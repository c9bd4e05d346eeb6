"""Prints what the decompositions reach and cost, and the same for tensorly and other libraries.

Kernels of the sizes of AlexNet's, GoogLeNet's and VGG16's layers, with spectra that decay as those
of trained layers, at the ranks of papers 000 and 001.  All that is compared runs in one process,
one after the other, on one BLAS thread or on as many as --threads says; run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
import tracemalloc
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np  # noqa: E402
from scipy.fft import idctn  # noqa: E402
from scipy.linalg import blas  # noqa: E402

from caffesurgery.decompose import scheme  # noqa: E402

# layer, T, S, D (one group), rank of CP, ranks of Tucker-2
LAYERS = [
    ("alexnet conv2", 128, 48, 5, 77, (25, 59)),
    ("alexnet conv3", 384, 256, 3, 153, (105, 112)),
    ("alexnet conv4", 192, 192, 3, 89, (49, 46)),
    ("alexnet conv5", 128, 192, 3, 98, (40, 34)),
    ("googlenet i5b", 384, 192, 3, 120, (60, 80)),
    ("vgg16 conv3_1", 256, 128, 3, 115, (41, 69)),
    ("vgg16 conv4_2", 512, 512, 3, 80, (212, 207)),
    ("vgg16 conv5_1", 512, 512, 3, 99, (185, 164)),
]
QUICK = {"alexnet conv2", "alexnet conv4"}
MATRICES = [("vgg16 fc7", 4096, 4096, 145), ("vgg16 fc6", 4096, 25088, 162)]
SCHEMES = ("cp3", "cp4", "cp3-tpm", "cp4-tpm", "tucker2")


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
    """The result of a call, its CPU seconds and its wall seconds."""
    start, wall = time.process_time(), time.perf_counter()
    result = call()
    return result, time.process_time() - start, time.perf_counter() - wall


def peak(call) -> float:
    """Megabytes that a call holds at most, beyond what was there before."""
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 1e6


def machine() -> tuple[float, float]:
    """This machine's float32 rates: multiply-adds of sgemm and bytes of sgemv, a CPU second."""
    square = np.ones((1024, 1024), np.float32, order="F")
    tall = np.ones((4096, 4096), np.float32, order="F")
    vector = np.ones(4096, np.float32)
    multiply = min(clock(lambda: blas.sgemm(1.0, square, square))[1] for _ in range(5))
    read = min(clock(lambda: blas.sgemv(1.0, tall, vector, trans=1))[1] for _ in range(5))
    return square.size * 1024 / multiply, tall.nbytes / read


def peers(name: str, weight: np.ndarray, ranks):
    """Calls of the peers for a scheme: label and a function that returns error and norm ratio."""
    if importlib.util.find_spec("tensorly") is None:
        return []
    from tensorly.decomposition import parafac, parafac_power_iteration

    T, S, D, E = weight.shape
    if name == "tucker2":
        return [("partial_tucker", lambda: tucker_error(weight, ranks))]
    tensor = weight.reshape((T, S, D * E) if name.startswith("cp3") else weight.shape)
    if name.endswith("-tpm"):
        runs = {"power, 1 x 10": {"n_repeat": 1, "n_iteration": 10}}
        call = parafac_power_iteration
    else:
        fixed = {"n_iter_max": 100, "tol": 0, "random_state": 0}
        runs = {f"parafac, {init}": {"init": init, **fixed} for init in ("svd", "random")}
        call = parafac
    return [
        (label, lambda options=options: cp_error(tensor, call, ranks[0], options))
        for label, options in runs.items()
    ]


def cp_error(tensor: np.ndarray, call, rank: int, options: dict) -> tuple[float, float]:
    """Relative error and sum of norms, over that of the tensor, of one of tensorly's CPs."""
    import tensorly

    np.random.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights, factors = call(tensor, rank, **options)
    size = np.linalg.norm(tensor)
    norms = np.abs(weights) * np.prod([np.linalg.norm(f, axis=0) for f in factors], axis=0)
    back = tensorly.cp_to_tensor((weights, factors))
    return float(np.linalg.norm(tensor - back) / size), float(norms.sum() / size)


def tucker_error(weight: np.ndarray, ranks) -> tuple[float, None]:
    """Relative error of tensorly's Tucker-2."""
    import tensorly
    from tensorly.decomposition import partial_tucker

    (core, factors), _ = partial_tucker(weight, rank=ranks[::-1], modes=[0, 1])
    back = tensorly.tenalg.multi_mode_dot(core, factors, modes=[0, 1])
    return float(np.linalg.norm(weight - back) / np.linalg.norm(weight)), None


def work(name: str, weight: np.ndarray, ranks, effort: str) -> float | None:
    """Multiply-adds of the sweeps of joint CP over the kernel; None where they are not counted."""
    if name not in ("cp3", "cp4"):
        return None
    from caffesurgery.decompose.cp import SWEEPS

    return 2.0 * SWEEPS[int(name[2])][effort] * weight.size * ranks[0]


def bench_layers(layers, with_peers: bool) -> None:
    """Error, component norms, seconds, memory and share of the machine's rate, layer by layer."""
    rate, bandwidth = machine()
    print(f"sgemm {rate / 1e9:.1f} G multiply-adds/s, sgemv {bandwidth / 1e9:.1f} GB/s")
    print(
        f"{'layer':15}{'scheme':9}{'run':>16}{'error':>9}{'norms':>8}{'CPU s':>9}{'wall s':>9}",
        end="",
    )
    print(f"{'MB':>7}{'of sgemm':>9}{'faster':>8}")
    for layer, T, S, D, rank, pair in layers:
        weight = kernel(T, S, D)
        for name in SCHEMES:
            ranks = pair if name == "tucker2" else (rank,)
            fastest = []
            for label, call in peers(name, weight, ranks) if with_peers else ():
                (error, norms), cpu, wall = clock(call)
                fastest.append((error, cpu))
                print_row(layer, name, label, error, norms, cpu, wall)
            efforts = ("normal", "high") if name in ("cp3", "cp4", "tucker2") else ("normal",)
            for effort in efforts:
                run = lambda n=name, w=weight, r=ranks, e=effort: scheme(n).decompose(  # noqa: E731
                    w, 1, r, effort=e
                )
                found, cpu, wall = clock(run)
                done = work(name, weight, ranks, effort)
                extra = f"{peak(run):7.1f}" + (f"{done / cpu / rate:9.2f}" if done else " " * 9)
                if fastest:
                    extra += f"{min(fastest)[1] / cpu:7.1f}x"
                print_row(layer, name, effort, found.error, found.norm_ratio, cpu, wall, extra)


def print_row(layer, name, label, error, norms, cpu, wall, extra="") -> None:
    """One line of the table."""
    shown = f"{norms:8.2f}" if norms is not None else " " * 8
    line = f"{layer:15}{name:9}{label:>16}{error:9.5f}{shown}{cpu:9.3f}{wall:9.3f}{extra}"
    print(line, flush=True)


def bench_matrices(matrices, with_peers: bool) -> None:
    """Truncated SVDs against their known optimum."""
    print(f"\n{'layer':15}{'run':>16}{'rank':>6}{'over optimum':>14}{'CPU s':>9}{'wall s':>9}")
    for layer, m, n, rank in matrices:
        values = (1 + np.arange(m) / 5) ** -0.7
        weight = matrix(m, n, values)
        best = np.sqrt(np.sum(values[rank:] ** 2) / np.sum(values**2))
        runs = [("svd", lambda w=weight, r=rank: scheme("svd").decompose(w, 1, (r,)).error)]
        runs += [(label, call) for label, call in svd_peers(weight, rank) if with_peers]
        for label, call in runs:
            error, cpu, wall = clock(call)
            over = f"{error / best - 1:14.1e}"
            print(f"{layer:15}{label:>16}{rank:6}{over}{cpu:9.3f}{wall:9.3f}", flush=True)


def svd_peers(weight: np.ndarray, rank: int):
    """LAPACK's gesdd in float32, and scikit-learn's randomized SVD."""
    total = float(np.sum(np.square(weight, dtype=np.float64)))

    def lost(values) -> float:
        return float(np.sqrt(max(0.0, 1 - np.sum(np.square(values[:rank], dtype=float)) / total)))

    def gesdd() -> float:
        from scipy.linalg import svd

        return lost(svd(weight, full_matrices=False, check_finite=False)[1])

    def randomized() -> float:
        from sklearn.utils.extmath import randomized_svd

        return lost(randomized_svd(weight, rank, random_state=0)[1])

    found = [("scipy gesdd", gesdd)]
    if importlib.util.find_spec("sklearn") is not None:
        found.append(("scikit-learn", randomized))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two small layers and one matrix")
    parser.add_argument("--no-peers", action="store_true", help="only this project's own runs")
    parser.add_argument("--layer", action="append", help="only this layer; may be repeated")
    parser.add_argument("--threads", type=int, nargs="*", help="once for each number of threads")
    options = parser.parse_args()
    if options.threads:  # the number is fixed when the BLAS is loaded
        rest = [arg for arg in sys.argv[1:] if arg != "--threads" and not arg.isdigit()]
        for threads in options.threads:
            print(f"--- {threads} BLAS thread(s)", flush=True)
            variables = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads)}
            subprocess.run([sys.executable, __file__, *rest], env=variables, check=True)
        return
    wanted = set(options.layer or ()) or (QUICK if options.quick else {row[0] for row in LAYERS})
    bench_layers([row for row in LAYERS if row[0] in wanted], not options.no_peers)
    if not options.layer:
        matrices = MATRICES[:1] if options.quick else MATRICES
        bench_matrices(matrices, not options.no_peers and not options.quick)


if __name__ == "__main__":
    main()
