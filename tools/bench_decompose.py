"""Prints what the decompositions reach and cost, and the same for tensorly and other libraries.

    python tools/bench_decompose.py [BLOCK ...] [--layer NAME] [--threads 1 2] [--json FILE]

Blocks: cp3, cp4, tpm, tucker2, svd, vgg16, memory, real (layers of real nets; needs the folder that
CAFFESURGERY_SHARED names).  Kernels have the sizes of AlexNet's, GoogLeNet's and VGG16's layers,
with spectra that decay as those of trained layers, at the ranks of papers 000 and 001.  A block's
runs take turns in one process on a fixed number of BLAS threads; times are those of the fastest of
the runs that fit into half a second, of ours at least three.
The column "faster" compares wall time with the fastest of a layer's peers; "goal" says what is
asked for and whether it is met.  The column "machine" is the share of sgemm's multiply-adds or, for
tpm, of the bytes a second at which sgemv reads a 64 MB matrix, from main memory.  Kernels that fit
in the caches are read faster than that, so that more than 100 % is possible; "of one this size" is
the share of sgemv's rate on a matrix of the kernel's own size, all calls in a row.  Run it on a
quiet machine.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
import tracemalloc
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np  # noqa: E402
from scipy.linalg import blas  # noqa: E402

from caffesurgery.decompose import als, power, scheme  # noqa: E402
from tools.decompose_peers import (  # noqa: E402
    SLOW_PEERS,
    cp_peers,
    installed,
    kernel,
    matrix,
    real_layers,
    svd_peers,
    tucker_error,
)

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
ENOUGH = 0.5
BLOCKS = ("cp3", "cp4", "tpm", "tucker2", "svd", "vgg16", "memory", "real")
# VGG16's convolutions at table 2 of paper 000: outputs, inputs, rank
VGG16 = [
    *[(64, 3, 11), (64, 64, 50), (128, 64, 51), (128, 128, 75), (256, 128, 115), (256, 256, 65)],
    *[(256, 256, 64), (512, 256, 78), (512, 512, 80), (512, 512, 92), (512, 512, 99)],
    *[(512, 512, 110), (512, 512, 102)],
]


@dataclass
class Row:
    """One line: of ours with what it is asked for, or of a peer."""

    block: str
    layer: str
    run: str
    error: float
    cpu: float
    wall: float
    norms: float | None = None
    of_machine: float | None = None
    faster: float | None = None
    goal: str = ""

    def __str__(self) -> str:
        norms = "" if self.norms is None else f"{self.norms:.2f}"
        share = "" if self.of_machine is None else f"{self.of_machine:.0%}"
        faster = "" if self.faster is None else f"{self.faster:.1f}x"
        head = f"{self.layer:15}{self.run:>18}{self.error:11.6f}{norms:>8}{self.cpu:9.3f}"
        return f"{head}{self.wall:9.3f}{share:>9}{faster:>8}  {self.goal}"


HEAD = (
    f"{'layer':15}{'run':>18}{'error':>11}{'norms':>8}{'CPU s':>9}{'wall s':>9}"
    f"{'machine':>9}{'faster':>8}  goal"
)


def clock(call, times: int = 1):
    """The result of a call, and the CPU and wall seconds of the fastest run.

    Of so many runs, and of as many more as fit into half a second.
    """
    best, began, done = (np.inf, np.inf), time.perf_counter(), 0
    while done < times or time.perf_counter() - began < ENOUGH:
        start, wall = time.process_time(), time.perf_counter()
        result = call()
        best = min(best, (time.perf_counter() - wall, time.process_time() - start))
        done += 1
    return result, best[1], best[0]


def peak(call) -> float:
    """Megabytes that a call holds at most, beyond what was there before."""
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 1e6


def machine() -> tuple[float, float]:
    """This machine's float32 rates: multiply-adds of sgemm and bytes of sgemv, a second."""
    square = np.ones((1024, 1024), np.float32, order="F")
    multiply = clock(lambda: blas.sgemm(1.0, square, square), 20)[2]
    return square.size * 1024 / multiply, gemv_rate(4096, 4096)


def gemv_rate(rows: int, columns: int) -> float:
    """Bytes a second at which sgemv reads a matrix of this size; from the caches if it fits."""
    matrix = np.ones((rows, columns), np.float32, order="F")
    vector = np.ones(rows, np.float32)
    return matrix.nbytes / clock(lambda: blas.sgemv(1.0, matrix, vector, trans=1), 20)[2]


def ours(name: str, weight: np.ndarray, ranks, effort: str = "normal"):
    """The call that is measured."""
    return lambda: scheme(name).decompose(weight, 1, ranks, effort=effort)


def verdict(*conditions: tuple[str, bool]) -> str:
    """What is asked for, and whether each is met."""
    return "; ".join(f"{text} {'met' if met else 'NOT MET'}" for text, met in conditions)


def compared(block: str, layer: str, peers) -> list[Row]:
    """The peers' rows."""
    rows = []
    for label, call in peers:
        (error, norms), cpu, wall = clock(call)
        rows.append(Row(block, layer, label, error, cpu, wall, norms))
    return rows


def bench_cp(block: str, layer: str, weight: np.ndarray, ranks, slow: bool, rates) -> list[Row]:
    """Joint CP against tensorly's parafac."""
    (rank,) = ranks
    left_out = block == "cp4" and weight.size > SLOW_PEERS // 2 and not slow
    peers = [] if left_out else cp_peers(block, weight, rank, slow)
    rows = compared(block, layer, peers)
    size = max(weight.shape[:2])
    times = (8 if size <= 128 else 15 if size <= 256 else 30) if block == "cp3" else 25
    times = 10 if block == "cp4" and size <= 256 else times
    best = min(rows, key=lambda row: row.error, default=None)
    peer = min((row.wall for row in rows), default=None)
    for effort in ("normal", "high"):
        found, cpu, wall = clock(ours(block, weight, ranks, effort), 3)
        row = Row(block, layer, effort, found.error, cpu, wall, found.norm_ratio)
        row.of_machine = multiply_adds(ours(block, weight, ranks, effort)) / wall / rates[0]
        if best:
            asked = times if effort == "normal" else times / 2
            most = 1.0 if block == "cp4" else 1.01 if effort == "normal" else 1.001
            row.faster = peer / wall
            fits = (f"error <= {most} x", found.error <= most * best.error)
            fast = (f"{asked:g}x", row.faster >= asked)
            half = ("norms <= half", found.norm_ratio <= best.norms / 2)
            row.goal = verdict(fits, fast, half) if block == "cp3" else verdict(fits, fast)
        rows.append(row)
    return rows


def multiply_adds(call) -> float:
    """Those of the matrix products of joint CP."""
    done, plain = [0], als.matmul

    def counted(a, b):
        done[0] += a.size * b.shape[1]
        return plain(a, b)

    als.matmul = counted
    call()
    als.matmul = plain
    return float(done[0])


def bench_tpm(block: str, layer: str, weight: np.ndarray, ranks, slow: bool, rates) -> list[Row]:
    """The tensor power method against tensorly's."""
    rows = []
    T, S, D, E = weight.shape
    own = gemv_rate(S, T * D * E)
    for name in ("cp3-tpm", "cp4-tpm"):
        theirs = compared(block, layer, cp_peers(name, weight, ranks[0], slow))
        for row in theirs:
            row.run = f"{name[:3]} {row.run}"
        found, cpu, wall = clock(ours(name, weight, ranks), 3)
        row = Row(block, layer, name, found.error, cpu, wall, found.norm_ratio)
        share = row.of_machine = bytes_read(ours(name, weight, ranks)) / wall / rates[1]
        asked = []
        for peer, times in zip(theirs, (6, 25)):
            row.faster = row.faster or peer.wall / wall
            label = f"{times}x of {peer.run} ({peer.wall / wall:.1f}x)"
            asked.append((label, peer.wall / wall >= times))
            asked.append(("error <= 1.003 x", found.error <= 1.003 * peer.error))
        label = f"70 % of gemv ({share * rates[1] / own:.0%} of one this size)"
        row.goal = verdict(*asked, (label, share >= 0.7))
        rows += [*theirs, row]
    return rows


def bytes_read(call) -> float:
    """Bytes that the power method's matrix-vector products and updates move.

    Counted in Python, which makes the same calls of BLAS as C.
    """
    moved = [0]
    plain, compiled = power.blas, power._power

    class Counted:
        snrm2, sscal, dsyr2 = plain.snrm2, plain.sscal, plain.dsyr2

        @staticmethod
        def sgemv(alpha, a, *rest):
            moved[0] += a.nbytes
            return plain.sgemv(alpha, a, *rest)

        @staticmethod
        def sger(alpha, x, y, incx, incy, a, *rest):
            moved[0] += 2 * a.nbytes
            return plain.sger(alpha, x, y, incx, incy, a, *rest)

        @staticmethod
        def ssyrk(alpha, a, **options):
            moved[0] += a.nbytes
            return plain.ssyrk(alpha, a, **options)

    power.blas, power._power = Counted, None
    call()
    power.blas, power._power = plain, compiled
    return float(moved[0])


def bench_tucker2(block: str, layer: str, weight: np.ndarray, pair, slow, rates) -> list[Row]:
    """Tucker-2 against tensorly's partial_tucker."""
    peers = (
        [("partial_tucker", lambda: tucker_error(weight, pair))] if installed("tensorly") else []
    )
    rows = compared(block, layer, peers)
    for effort in ("normal", "high"):
        found, cpu, wall = clock(ours(block, weight, pair, effort), 3)
        row = Row(block, layer, effort, found.error, cpu, wall)
        if peers:
            row.faster = rows[0].wall / wall
            close = ("within 2e-5", found.error <= rows[0].error * (1 + 2e-5))
            fast = [("6x", row.faster >= 6)] if effort == "normal" else []
            row.goal = verdict(close, *fast)
        rows.append(row)
    return rows


def bench_svd(rates) -> list[Row]:
    """VGG16's fc6, of known singular values, against LAPACK and scikit-learn; errors over best."""
    m, n, rank = 4096, 25088, 162
    values = (1 + np.arange(m) / 5) ** -0.7
    weight = matrix(m, n, values)
    total = float(np.sum(values**2))
    best = np.sqrt(np.sum(values[rank:] ** 2) / total)
    found, cpu, wall = clock(ours("svd", weight, (rank,)), 2)
    mine = Row("svd", "vgg16 fc6", "svd", found.error / best, cpu, wall)
    columns = 11 * (rank // 4)  # of the Krylov space: two products each
    mine.of_machine = 2 * columns * m * n / wall / rates[0]
    rows, asked = [], [("error <= 1.00002 x", found.error <= 1.00002 * best)]
    for label, call in svd_peers(weight, rank):
        kept, cpu, wall = clock(call)
        error = np.sqrt(max(0.0, 1 - np.sum(np.square(kept[:rank], dtype=float)) / total)) / best
        rows.append(Row("svd", "vgg16 fc6", label, error, cpu, wall))
        times = 20 if label == "scipy gesdd" else 1
        asked.append((f"{times}x of {label} ({wall / mine.wall:.1f}x)", wall > times * mine.wall))
        mine.faster = wall / mine.wall
        if times == 1:
            asked.append(("closer", mine.error < error))
    mine.goal = verdict(*asked)
    return [*rows, mine]


def bench_vgg16(slow: bool) -> list[Row]:
    """The 13 convolutions of VGG16 by ``cp``, in sum; peers run only with --slow."""
    total = {"ours": np.zeros(4), "parafac random": np.zeros(4)}
    for index, (T, S, rank) in enumerate(VGG16):
        weight, name = kernel(T, S, 3, index), "cp2" if S == 3 else "cp3"
        found, cpu, wall = clock(ours(name, weight, (rank,)))
        total["ours"] += cpu, wall, found.error**2 / len(VGG16), 0
        if name == "cp3" and slow:
            label, call = cp_peers(name, weight, rank, slow)[1]
            (error, _), cpu, wall = clock(call)
            total[label] += cpu, wall, error**2 / len(VGG16), 1
    rows = []
    mine, theirs = total.values()
    if slow:
        rows.append(Row("vgg16", "13 convs", "parafac random", theirs[2] ** 0.5, *theirs[:2]))
    row = Row("vgg16", "13 convs", "cp", mine[2] ** 0.5, *mine[:2])
    asked = [("under 3 s", mine[1] < 3)]
    if slow:
        row.faster = theirs[1] / mine[1]
        asked.append(("30x", row.faster >= 30))
    row.goal = verdict(*asked)
    return [*rows, row]


def bench_memory(layer: str, weight: np.ndarray, ranks) -> list[Row]:
    """Megabytes above the kernel, ours and tensorly's; the column "error" holds them."""
    rows = []
    if installed("tensorly"):
        call = cp_peers("cp3", weight, ranks[0], False)[1][1]
        rows.append(Row("memory", layer, "parafac, MB", peak(call), 0, 0))
    for name in ("cp3", "cp4", "cp3-tpm", "cp4-tpm"):
        most = peak(ours(name, weight, ranks))
        row = Row("memory", layer, f"{name}, MB", most, 0, 0)
        row.goal = verdict(("under 30 MB", most < 30))
        rows.append(row)
    return rows


def layer_rows(block: str, layer: str, weight: np.ndarray, rank: int, pair, slow, rates):
    """The rows of one block for one layer."""
    if block == "tucker2":
        return bench_tucker2(block, layer, weight, pair, slow, rates)
    if block == "memory":
        return bench_memory(layer, weight, (rank,))
    return (bench_tpm if block == "tpm" else bench_cp)(block, layer, weight, (rank,), slow, rates)


def rows_of(block: str, options, rates):
    """The rows of a block, layer by layer."""
    if block == "svd":
        yield from bench_svd(rates)
    elif block == "vgg16":
        yield from bench_vgg16(options.slow)
    elif block == "real":
        for layer, weight, rank, pair in real_layers():
            for kind in ("cp3", "cp4", "tpm", "tucker2"):
                yield from layer_rows(kind, layer, weight, rank, pair, options.slow, rates)
    else:
        wanted = options.layer or (["vgg16 conv5_1"] if block == "memory" else None)
        for layer, T, S, D, rank, pair in LAYERS:
            if not wanted or any(name in layer for name in wanted):
                weight = kernel(T, S, D)
                yield from layer_rows(block, layer, weight, rank, pair, options.slow, rates)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("blocks", nargs="*", metavar="BLOCK", help="of the above; default: all")
    parser.add_argument("--layer", action="append", help="layers with this in their name; repeats")
    parser.add_argument("--threads", type=int, nargs="+", help="once for each number of threads")
    parser.add_argument("--slow", action="store_true", help="also the peers that take minutes")
    parser.add_argument("--json", type=Path, help="write all rows to this file")
    options = parser.parse_args()
    if unknown := set(options.blocks) - set(BLOCKS):
        parser.error(f"unknown block {sorted(unknown)[0]}: expected {', '.join(BLOCKS)}")
    if options.threads:  # the number is fixed when the BLAS is loaded
        at = sys.argv.index("--threads")
        rest = sys.argv[1:at] + sys.argv[at + 1 + len(options.threads) :]
        for threads in options.threads:
            print(f"--- {threads} BLAS thread(s)", flush=True)
            variables = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads)}
            subprocess.run([sys.executable, __file__, *rest], env=variables, check=True)
        return
    if installed("tensorly"):
        importlib.import_module("tensorly.decomposition")  # not to be timed with the first peer
    rates = machine()
    print(f"sgemm {rates[0] / 1e9:.1f} G multiply-adds/s, sgemv {rates[1] / 1e9:.1f} GB/s of 64 MB")
    rows = []
    for block in options.blocks or BLOCKS:
        print(f"\n{block}\n{HEAD}", flush=True)
        for row in rows_of(block, options, rates):
            print(row, flush=True)
            rows.append(asdict(row))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
