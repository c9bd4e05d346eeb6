"""Prints what each rank rule leaves of a net's accuracy at one budget, without fine-tuning.

    python tools/bench_ranks_accuracy.py --data DIR [--samples 2000] [--jobs N] [--dask ADDRESS]

Compares with paper 004, Table I: ResNet-56 for CIFAR-10 at half of its multiply-adds by spatial
decomposition, its first convolution and its classifier left alone.  DIR has the folders ``res56``
(deploy, train_val, res56_jpgft.caffemodel) and ``cifar10`` (training and test images as .npz).
Rules measure on training images; the test images are for the last column alone.  What was measured
is kept, so that a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import caffesurgery  # noqa: E402

RULES = {
    "uniform": ("uniform:{budget}", 12.7),
    "enc-map": ("enc-map:{budget}", 3.3),
    "enc-model": ("enc-model:{budget}", 3.5),
    "enc-inf": ("enc-inf:{budget},candidates={candidates}", 2.9),
}
"""The rules, and the points of top-1 that Table I says they lose on the original images."""


def measure(rule: str, model, judge, test, layers: str) -> dict:
    """Plan with a rule, carry the plan out, and evaluate the net that is written."""
    started = time.perf_counter()
    plan = caffesurgery.plan(model, "spatial", rule, layers, evaluate=judge)
    planned = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        smaller = caffesurgery.save(caffesurgery.apply(model, plan), folder)
        found = test(smaller)
        macs = caffesurgery.inspect(smaller)["totals"]["macs"]
    return {"macs": macs, "top1": found["top1"], "seconds": planned}


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = os.environ.get("CAFFESURGERY_SHARED", ROOT.parent / "shared")
    parser.add_argument("--data", type=Path, default=Path(shared, "data"))
    parser.add_argument("--weights", default="res56_jpgft.caffemodel")
    parser.add_argument("--budget", default="macs=0.5")
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--samples", type=int, default=2000, help="training images to measure on")
    parser.add_argument("--metric", default="top1")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--dask")
    parser.add_argument("--cache", help="folder for what was measured")
    parser.add_argument("--rules", nargs="*", default=list(RULES), choices=list(RULES))
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    given = arguments()
    res56, cifar = given.data / "res56", given.data / "cifar10"
    transform = {"transform": res56 / "train_val.prototxt", "jobs": given.jobs}
    transform["cache"] = given.cache or True
    model = caffesurgery.load(res56 / "deploy.prototxt", res56 / given.weights)
    test = caffesurgery.Evaluator(cifar / "test_first5000.npz", **transform)
    judge = caffesurgery.Evaluator(
        cifar / "train_first10000.npz", samples=given.samples, metric=given.metric,
        dask=given.dask, **transform,
    )  # fmt: skip
    whole, base = caffesurgery.inspect(model)["totals"]["macs"], test(model)["top1"]
    print(f"{'rule':<10} {'MACs':>7} {'top-1':>8} {'lost':>7} {'paper':>6} {'plan':>9}")
    print(f"{'none':<10} {1:7.4f} {100 * base:7.2f}%")
    with judge:
        for name in given.rules:
            rule, paper = RULES[name]
            text = rule.format(budget=given.budget, candidates=given.candidates)
            found = measure(text, model, judge, test, "group*")
            lost = 100 * (base - found["top1"])
            print(
                f"{name:<10} {found['macs'] / whole:7.4f} {100 * found['top1']:7.2f}% "
                f"{lost:7.2f} {paper:6.1f} {found['seconds']:7.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
