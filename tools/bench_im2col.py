"""Prints how fast im2col and col2im are on every layer of the zoo, beside NumPy and plain copies.

GB/s count the bytes of columns, the best of several runs.  "copy" is this machine's copy bandwidth,
measured on 256 MiB, far beyond its caches; a layer whose columns fit them may pass it.  NumPy is
the copy from a strided view on the padded image that the C extension stands in for.  All of a
layer's figures and the copy take turns, so that what disturbs the machine disturbs them alike.

    python tools/bench_im2col.py [--seconds 0.1] [--threads 2] [--net alexnet]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from caffesurgery import zoo  # noqa: E402
from caffesurgery.cost import im2col as module  # noqa: E402
from caffesurgery.files.resources import resource  # noqa: E402
from caffesurgery.net.layers.window import conv_window  # noqa: E402
from caffesurgery.net.net import read_net  # noqa: E402
from caffesurgery.net.shapes import infer  # noqa: E402

COPY_BYTES, TURNS = 1 << 28, 5
LARGE = 4e6  # bytes of columns from which the goal of 0.8 times the copy is for 3x3 and 11x11


def layers(names: list[str]) -> dict:
    """(Shape of one image, window) -> name of the first layer of the zoo with these columns."""
    found: dict = {}
    for name in names:
        shapes = infer(read_net(resource("models", name, "deploy.prototxt")), "TEST")
        for entry in shapes.layers:
            if entry.layer.type != "Convolution":
                continue
            axis, w = conv_window(entry.layer, entry.bottoms[0])
            window = (w.kernel, w.pad, w.stride, w.dilation)
            if set(w.kernel) | set(w.stride) != {1} or any(w.pad):
                found.setdefault((entry.bottoms[0][axis:], window), f"{name} {entry.layer.name}")
    return found


def rates(calls: list, sizes: list[int], seconds: float) -> list[float]:
    """GB/s of each call: the fastest of those that fit into ``seconds``, in turns."""
    best = [float("inf")] * len(calls)
    for _ in range(TURNS):
        for index, call in enumerate(calls):
            end = time.perf_counter() + seconds / TURNS
            while True:
                start = time.perf_counter()
                call()
                now = time.perf_counter()
                best[index] = min(best[index], now - start)
                if now >= end:
                    break
    return [size / took / 1e9 for size, took in zip(sizes, best)]


def measure(shape, window, threads: int, seconds: float, copy) -> list[float]:
    """GB/s of im2col in C, with threads, in NumPy, of col2im in C and in NumPy, of ``copy``."""
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    columns = module.im2col(image, *window)
    c, many = (module.bind("im2col", image, columns, window, n) for n in (1, threads))
    back = module.bind("col2im", image, columns, window)
    calls = [
        c,
        many,
        lambda: module._im2col_numpy(image, columns, *window),
        back,
        lambda: module._col2im_numpy(image, columns, *window),
    ]
    return rates([*calls, copy], [columns.nbytes] * len(calls) + [COPY_BYTES], seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=0.1, help="time for each figure")
    parser.add_argument("--threads", type=int, default=2, help="threads of the second figure")
    parser.add_argument("--net", help="only this net of the zoo")
    options = parser.parse_args()
    if module.backend != "C":
        print("the C extension was not built: nothing to compare", file=sys.stderr)
        return 1
    source = np.ones(COPY_BYTES // 4, np.float32)
    target = np.ones_like(source)
    print(
        f"{'layer':<34}{'columns':>10}{'copy':>8}{'C':>8}{'C x' + str(options.threads):>8}"
        f"{'NumPy':>8}{'C/NumPy':>9}{'C/copy':>8}{'col2im':>8}{'/NumPy':>8}{'/copy':>7}"
    )
    ratios, large = [], []
    for (shape, window), name in layers([options.net] if options.net else zoo.names()).items():
        c, many, numpy, back, back_numpy, copy = measure(
            shape, window, options.threads, options.seconds, lambda: np.copyto(target, source)
        )
        high, wide = module.output_size(shape[1:], *window)
        size = shape[0] * window[0][0] * window[0][1] * high * wide * 4
        ratios.append((c / numpy, back / back_numpy))
        if size >= LARGE and window[0] in ((3, 3), (11, 11)):
            large.append(c / copy)
        print(
            f"{name:<34}{size / 1e6:7.2f} MB{copy:8.2f}{c:8.2f}{many:8.2f}{numpy:8.2f}"
            f"{c / numpy:9.2f}{c / copy:8.2f}{back:8.2f}{back / back_numpy:8.2f}{back / copy:7.2f}"
        )
    worst = [min(column) for column in zip(*ratios)]
    print(f"\nslowest against NumPy: im2col {worst[0]:.2f}, col2im {worst[1]:.2f}")
    if large:
        print(
            f"slowest against a copy, of {len(large)} 3x3 and 11x11 layers with {LARGE / 1e6:g} MB "
            f"of columns or more: {min(large):.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
