"""Measures the main job on the zoo's VGG16 at paper 000's ranks, each command in its own process.

    python tools/bench_compress.py [--net vgg16|alexnet|googlenet] [--threads N]

Prints wall and CPU seconds and the peak of resident memory of: importing the package, inspecting
the prototxt, writing the zoo's net, and `compress` (read, decompose, write, ONNX, compare).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RANKS = {
    "vgg16": "conv1_1=59,conv1_2=50,conv2_1=51,conv2_2=75,conv3_1=115,conv3_2=65,conv3_3=64,"
    "conv4_1=78,conv4_2=80,conv4_3=92,conv5_1=99,conv5_2=110,conv5_3=102,fc6=162,fc7=145,fc8=143",
    "alexnet": "conv1=69,conv2=154,conv3=153,conv4=178,conv5=196,fc6=365,fc7=275,fc8=260",
    "googlenet": "conv1/7x7_s2=35,conv2/3x3=41,inception_3a/3x3=35,inception_3b/3x3=38,"
    "inception_4a/3x3=33,inception_4b/3x3=34,inception_4c/3x3=34,inception_4d/3x3=32,"
    "inception_4e/3x3=32,inception_5a/3x3=36,inception_5b/3x3=35",
}
"""Table 2 of paper 000: average ranks 80 and 150 (VGG16), 150 and 300 (AlexNet), 35 (GoogLeNet)."""


def run(label: str, command: list[str], environment: dict[str, str]) -> None:
    """Run a command to its end and print what it took."""
    started = time.perf_counter()
    child = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    said = child.stderr.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{label}: exit {child.returncode}\n{said}")
    wall, cpu = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    print(f"{label:<10} {wall:8.2f} s wall {cpu:8.2f} s CPU {usage.ru_maxrss / 1024:8.0f} MiB peak")


def main() -> None:
    """Run the four measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=sorted(RANKS), default="vgg16")
    parser.add_argument("--threads", type=int, default=0, help="BLAS threads; 0 leaves the default")
    options = parser.parse_args()
    environment = dict(os.environ)
    if options.threads:
        environment["OPENBLAS_NUM_THREADS"] = str(options.threads)
    tool = [sys.executable, "-m", "caffesurgery"]
    with tempfile.TemporaryDirectory(prefix="bench-compress-") as name:
        folder = Path(name)
        zoo = folder / options.net
        deploy, weights = zoo / "deploy.prototxt", zoo / f"{options.net}.caffemodel"
        run("import", [sys.executable, "-c", "import caffesurgery"], environment)
        run("zoo write", [*tool, "zoo", "write", options.net, "-o", str(zoo)], environment)
        run("inspect", [*tool, "inspect", str(deploy)], environment)
        job = ["compress", str(deploy), str(weights), "--method", "cp"]
        job += ["--ranks", RANKS[options.net], "--also", str(zoo / "train_val.prototxt")]
        run("compress", [*tool, *job, "-o", str(folder / "out")], environment)


if __name__ == "__main__":
    main()
