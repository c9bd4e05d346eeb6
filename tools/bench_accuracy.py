"""Prints what calibrated surgery leaves of a net's accuracy, beside what it loses uncalibrated.

    python tools/bench_accuracy.py res56 --macs 0.5     (0.35, 0.25)
    python tools/bench_accuracy.py quick                cifar10_quick at half of its MACs
    python tools/bench_accuracy.py squeezenet           on 300 ImageNet images, at 0.7 of its MACs
    python tools/bench_accuracy.py ablation --macs 0.35 what each step brings, and how many images

Nothing is trained, and no labels are seen: 1,000 training images calibrate, drawn anew for each
seed; mean and spread are over the seeds.  Test images are for the accuracies alone.  Of ImageNet
there are only 300 images: one half calibrates, the other is classified, then the other way round,
so that each image is classified once by a net that has not seen it; seeds are ways to halve.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np  # noqa: E402
from scipy.stats import binomtest  # noqa: E402

import caffesurgery  # noqa: E402
from caffesurgery import forward  # noqa: E402
from caffesurgery.api.calibrated import LEVERS  # noqa: E402
from caffesurgery.calibration import Shaped, outputs, sample_of, watched  # noqa: E402
from caffesurgery.calibration.guard import fed_shapes  # noqa: E402
from caffesurgery.data.images import Preprocessing  # noqa: E402
from caffesurgery.files.mean import load_mean  # noqa: E402
from caffesurgery.net.shapes import infer  # noqa: E402

PAPER = {0.5: "2.7 to 3.5 (paper 004, Table I, on the original images)"}
"""Points of top-1 that papers lose of ResNet-56 without fine-tuning, by the share of MACs."""
COUNTS = (50, 100, 200, 500, 1000, 2000)
BATCH = 50
"""Test images that are classified at a time."""


@dataclass(frozen=True)
class Problem:
    """A net with the images that it is calibrated and tested on, and how they are prepared."""

    model: caffesurgery.Model
    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    prepare: dict
    layers: str = "*"


def res56(data: Path) -> Problem:
    """ResNet-56 of paper 004, after a short training on the JPEG form of CIFAR-10."""
    folder = data / "res56"
    model = caffesurgery.load(folder / "deploy.prototxt", folder / "res56_jpgft.caffemodel")
    return _cifar(data, model, {"mean": 128, "scale": 1 / 128}, "group*")


def quick(data: Path) -> Problem:
    """Caffe's example cifar10_quick."""
    folder = data / "cifar10_quick"
    model = caffesurgery.load(folder / "deploy.prototxt", folder / "cifar10_quick.caffemodel")
    return _cifar(data, model, {"mean": str(folder / "mean.binaryproto")}, "*")


def _cifar(data: Path, model, prepare: dict, layers: str) -> Problem:
    train = np.load(data / "cifar10" / "train_first10000.npz")["images"]
    test = np.load(data / "cifar10" / "test_first5000.npz")
    return Problem(model, train, test["images"], test["labels"], prepare, layers)


def squeezenet(data: Path) -> Problem:
    """SqueezeNet v1.0; its 300 images serve as both, see ``halves``."""
    from PIL import Image

    folder = data / "squeezenet"
    model = caffesurgery.load(folder / "deploy.prototxt", folder / "squeezenet_v1.0.caffemodel")
    stored = np.load(data / "imagenet_sample" / "images300.npz")
    ends, jpeg = stored["offsets"], stored["jpeg"].tobytes()
    images = np.stack(
        [np.asarray(Image.open(io.BytesIO(jpeg[a:b])).convert("RGB")).transpose(2, 0, 1)
         for a, b in zip(ends, ends[1:])]
    )  # fmt: skip
    prepare = {"mean": "104,117,123", "bgr": True, "crop": True}
    return Problem(model, images, images, stored["labels"], prepare)


@dataclass(frozen=True)
class Found:
    """One smaller net: which test images it has right, and what making it took."""

    right: np.ndarray
    macs: float
    seconds: float
    divergence: float | None = None
    stages: tuple = ()

    @property
    def score(self) -> float:
        """The accuracy."""
        return float(self.right.mean())


def right(problem: Problem, model, most: int, chosen=slice(None)) -> np.ndarray:
    """Whether the class of each test image is among the ``most`` first of the net."""
    given = dict(problem.prepare)
    prepare = Preprocessing(load_mean(given.pop("mean")), given.pop("scale", 1.0), **given)
    ((name, shape),) = fed_shapes(model.shapes).items()
    images = sample_of({name: prepare(problem.test[chosen], shape[1:])}, BATCH)
    shaped = Shaped(lambda count: infer(model.net, model.phase, model.inputs, count))
    (watch,) = watched(model.shapes)
    blobs = forward.load(model.shapes, model.require_weights())
    made = [each[watch.blob] for each in outputs(shaped, blobs, images, [watch])]
    scores = np.concatenate(made).reshape(images.images, -1)
    first = np.argsort(-scores, 1, kind="stable")[:, :most]
    return (first == problem.labels[chosen, None]).any(1)


def compressed(problem: Problem, how: argparse.Namespace, rule: str, calibrator=None):
    """(Smaller model, report, seconds)."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = caffesurgery.compress(
            problem.model, folder + "/net", how.method, rule, problem.layers, onnx=False,
            calibrate=calibrator, jobs=how.jobs,
        )  # fmt: skip
        name = Path(problem.model.net.doc.path).name
        weights = Path(problem.model.require_weights().path).name
        smaller = caffesurgery.load(f"{folder}/net/{name}", f"{folder}/net/{weights}")
        seconds = time.perf_counter() - started
        yield smaller, report, seconds


def once(problem: Problem, how, calibrator=None, rule=None) -> Found:
    """One smaller net, measured on all test images."""
    for smaller, report, seconds in compressed(problem, how, rule or how.ranks, calibrator):
        totals, told = report["totals"], report["calibration"] or {}
        return Found(
            right(problem, smaller, how.most),
            totals["new_macs"] / totals["macs"],
            seconds,
            told.get("kept"),
            tuple(told.get("stages", ())),
        )
    raise AssertionError


def halves(problem: Problem, how, seed: int) -> Found:
    """Each half of the images classified by the net that the other half has calibrated."""
    order = np.random.default_rng(seed).permutation(len(problem.test))
    middle, took, found = len(order) // 2, 0.0, None
    well = np.zeros(len(order), bool)
    for seen, asked in ((order[:middle], order[middle:]), (order[middle:], order[:middle])):
        calibrator = caffesurgery.Calibrator(
            problem.test[seen], seed=seed, jobs=how.jobs, **problem.prepare
        )
        for smaller, report, seconds in compressed(problem, how, how.ranks, calibrator):
            well[asked] = right(problem, smaller, how.most, asked)
            took, found = took + seconds, report
    totals = found["totals"]
    share = totals["new_macs"] / totals["macs"]
    told = found["calibration"]
    return Found(well, share, took, told["kept"], tuple(told["stages"]))


def chance(before: np.ndarray, after: np.ndarray) -> str:
    """How many images were lost and won, and how likely a net that is as good loses or wins so many
    more than it wins or loses (the sign test)."""
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    p = binomtest(lost, lost + won).pvalue if lost + won else 1.0
    return f"{lost} lost, {won} won, p {p:.2f}"


def figures(problem: Problem, how) -> None:
    """The table of one net at one budget."""
    before = right(problem, problem.model, how.most)
    print(f"the net as it is: top-{how.most} {100 * before.mean():.2f}")

    def told(what: str, one: Found) -> None:
        lost = 100 * (before.mean() - one.score)
        print(f"{what}: {100 * one.score:.2f}, {lost:.2f} points lost "
              f"({chance(before, one.right)}), {100 * one.macs:.1f} % of the MACs, "
              f"{one.seconds:.0f} s", flush=True)  # fmt: skip

    told(f"uncalibrated, {how.plain}", once(problem, how, rule=how.plain))
    found = []
    for seed in how.seeds:
        if how.what == "squeezenet":
            one = halves(problem, how, seed)
        else:
            one = once(problem, how, _calibrator(problem, how, how.images, seed))
        found.append(one)
        told(f"calibrated, {how.ranks}, seed {seed}", one)
        steps = [f"{stage['name']} {stage['divergence']:.4f}" for stage in one.stages]
        print(f"    divergence on held-out images: {', '.join(steps)}")
    lost = [100 * (before.mean() - one.score) for one in found]
    spread = statistics.stdev(lost) if len(lost) > 1 else 0.0
    print(f"calibrated: {statistics.mean(lost):.2f} points lost, spread {spread:.2f}")
    if how.what == "res56" and how.macs in PAPER:
        print(f"papers at this share of the MACs: {PAPER[how.macs]}")


def ablation(problem: Problem, how) -> None:
    """What each step brings, and how many images it takes."""
    base = right(problem, problem.model, how.most).mean()
    print(f"the net as it is: top-{how.most} {100 * base:.2f}\n")
    print(f"| ranks | steps | images | top-{how.most} | lost | divergence | s |\n|" + "---|" * 7)

    def row(rule: str, levers: Sequence[str], images: int) -> None:
        calibrator = _calibrator(problem, how, images, how.seeds[0], levers) if levers else None
        one = once(problem, how, calibrator, rule)
        told = "" if one.divergence is None else f"{one.divergence:.4f}"
        print(f"| {rule} | {' '.join(levers) or 'none'} | {images if levers else ''} | "
              f"{100 * one.score:.2f} | {100 * (base - one.score):.2f} | {told} | "
              f"{one.seconds:.0f} |", flush=True)  # fmt: skip

    row(how.plain, (), 0)
    for levers in (("statistics",), ("whitening",), ("refit",), ("refit", "polish")):
        row(how.plain, levers, how.images)
    for count in range(2, len(LEVERS)):
        row(how.ranks, LEVERS[:count], how.images)
    for images in how.counts:
        row(how.ranks, LEVERS, images)


def _calibrator(problem: Problem, how, images: int, seed: int, levers=LEVERS):
    return caffesurgery.Calibrator(
        problem.train, samples=images, seed=seed, jobs=how.jobs, levers=levers, **problem.prepare
    )


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = os.environ.get("CAFFESURGERY_SHARED", ROOT.parent / "shared")
    parser.add_argument("what", choices=["res56", "quick", "squeezenet", "ablation"])
    parser.add_argument("--data", type=Path, default=Path(shared, "data"))
    parser.add_argument("--macs", type=float, help="share of the MACs; by default the net's own")
    parser.add_argument("--method", help="by default cp3; cp4 for quick, spatial for squeezenet")
    parser.add_argument("--ranks", help="rank rule of the calibrated net")
    parser.add_argument("--plain", help="rank rule of the uncalibrated net")
    parser.add_argument("--images", type=int, default=1000, help="to calibrate with")
    parser.add_argument("--counts", type=int, nargs="*", default=COUNTS, help="of the ablation")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--tests", type=int, help="only the first so many test images")
    parser.add_argument("--jobs", type=int)
    given = parser.parse_args()
    squeeze = given.what == "squeezenet"
    given.most = 5 if squeeze else 1
    given.macs = given.macs or (0.7 if squeeze else 0.5)
    given.method = given.method or {"squeezenet": "spatial", "quick": "cp4"}.get(given.what, "cp3")
    given.plain = given.plain or f"enc-map:macs={given.macs:g}"
    given.ranks = given.ranks or f"enc-model:macs={given.macs:g}"
    return given


def main() -> None:
    """Measure one net."""
    how = arguments()
    problems = {"res56": res56, "quick": quick, "squeezenet": squeezenet, "ablation": res56}
    problem = problems[how.what](how.data)
    problem = replace(problem, test=problem.test[: how.tests], labels=problem.labels[: how.tests])
    (ablation if how.what == "ablation" else figures)(problem, how)


if __name__ == "__main__":
    main()
