"""How far the torch trainer is from real Caffe: losses and weights of the 15 reference runs.

    python tools/compare_training.py [RUN ...]

Each run trains from Caffe's first weights, in Caffe's order of images, for 30 iterations; printed
are the worst relative difference of a loss and the worst distance of a blob in units of its norm.
The runs are `training/` of the reference material (CAFFESURGERY_SHARED, by default ../shared).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from caffesurgery.files import caffemodel  # noqa: E402
from caffesurgery.train.job import Job  # noqa: E402

GOAL = 1e-3


def differences(run: Path, folder: Path) -> tuple[float, float]:
    """(Worst relative difference of a loss, worst relative distance of a blob at the end).

    The losses are those of the last forward pass of each iteration, without the loss_weight.
    """
    from caffesurgery.train.torch.loop import Loop
    from caffesurgery.train.torch.session import Session

    session = Session(Job(run / "solver.prototxt", folder, weights=run / "init.caffemodel"))
    loop, batches, losses = Loop(session), session.batches(), []
    for _ in range(session.solver.max_iter):
        loop.step(batches, outputs=True)
        losses.append(loop.metrics["loss"])
    batches.close()
    weights, _ = session.snapshot()
    real = json.loads((run / "losses.json").read_text())["loss_of_last_forward"]
    if len(losses) != len(real):
        raise AssertionError(f"{run}: {len(losses)} losses, Caffe had {len(real)}")
    of_losses = max(abs(met / loss - 1) for met, loss in zip(losses, real))
    return of_losses, max(distances(weights, run / "final.caffemodel"))


def distances(path: Path, other: Path):
    """How far the blobs of a caffemodel are from those of another, in units of their norms."""
    mine, theirs = caffemodel.read(path), caffemodel.read(other)
    for name in theirs.names():
        for a, b in zip(mine.blobs(name), theirs.blobs(name)) if theirs.blobs(name) else ():
            yield np.linalg.norm(a.array() - b.array()) / max(np.linalg.norm(b.array()), 1e-12)


def main() -> int:
    root = Path(os.environ.get("CAFFESURGERY_SHARED", ROOT.parent / "shared")) / "training"
    runs = sys.argv[1:] or sorted(path.parent.name for path in root.glob("*/losses.json"))
    print(f"{'run':<20}{'worst loss':>12}{'worst blob':>12}")
    good = True
    for name in runs:
        with tempfile.TemporaryDirectory() as folder:
            of_losses, of_weights = differences(root / name, Path(folder))
        good &= max(of_losses, of_weights) < GOAL
        print(f"{name:<20}{of_losses:>12.1e}{of_weights:>12.1e}")
    print(f"goal {GOAL:g}: {'met' if good else 'MISSED'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
