"""Prints how fast im2col writes columns: the C extension, NumPy and a memcpy of the same size.

GB/s count the bytes of columns written, the best of several runs on one core; the last two columns
say how far C is ahead of NumPy and how much of memcpy's speed it reaches.  It may pass memcpy,
which also reads as much as it writes, while the image that C reads stays in the cache.

    python tools/bench_im2col.py [--seconds 1]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from caffesurgery.cost import im2col as module  # noqa: E402

LAYERS = [
    # layer, (C, H, W), kernel, pad, stride
    ("AlexNet conv1", (3, 227, 227), 11, 0, 4),
    ("AlexNet conv2", (96, 27, 27), 5, 2, 1),
    ("VGG16 conv1_2", (64, 224, 224), 3, 1, 1),
    ("VGG16 conv3_1", (128, 56, 56), 3, 1, 1),
]


def rate(call, nbytes: int, seconds: float) -> float:
    """GB/s of the fastest call among those that fit into ``seconds``, at least three."""
    best, runs, end = float("inf"), 0, time.perf_counter() + seconds
    while runs < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best, runs = min(best, time.perf_counter() - start), runs + 1
    return nbytes / best / 1e9


def measure(shape, kernel: int, pad: int, stride: int, seconds: float) -> list[float]:
    """[C, NumPy, memcpy] in GB/s for one layer's float32 columns."""
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    out = module.im2col(image, kernel, pad, stride)
    other = np.empty_like(out)
    pair = [(kernel, kernel), (pad, pad), (stride, stride), (1, 1)]
    calls = [
        lambda: module._im2col.im2col(image, out, *pair),
        lambda: module._im2col_numpy(image, out, *pair),
        lambda: np.copyto(other, out),
    ]
    return [rate(call, out.nbytes, seconds) for call in calls]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each figure")
    seconds = parser.parse_args().seconds
    if module.backend != "C":
        print("the C extension was not built: nothing to compare", file=sys.stderr)
        return 1
    print(f"{'layer':<15}{'C GB/s':>9}{'NumPy':>9}{'memcpy':>9}{'C/NumPy':>9}{'C/memcpy':>10}")
    for name, *layer in LAYERS:
        c, numpy, copy = measure(*layer, seconds)
        print(f"{name:<15}{c:9.2f}{numpy:9.2f}{copy:9.2f}{c / numpy:9.2f}{c / copy:10.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
