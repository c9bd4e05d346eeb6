"""Prints what calibrated compression takes, phase by phase: seconds, and memory at its highest.

    python tools/bench_memory.py vgg16                  of the zoo, with seeded weights
    python tools/bench_memory.py vgg16 --method svd --images 32 --jobs 1
    python tools/bench_memory.py NET.prototxt NET.caffemodel --onnx

The images are the 300 of ImageNet, as many of them as ``--images`` says.  Memory is what is
resident of this process, files that it has mapped included, and of all that it has started; looked
at every 20 ms, so Linux only.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from bench_accuracy import squeezenet  # noqa: E402

import caffesurgery  # noqa: E402
from caffesurgery import zoo  # noqa: E402
from caffesurgery.api.calibrated import LEVERS  # noqa: E402

_PAGE = os.sysconf("SC_PAGE_SIZE")
_EVERY = 0.02


def resident(process: int) -> int:
    """Bytes of a process and of its children; 0 for one that has ended."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        tasks = Path(f"/proc/{process}/task").iterdir()
        children = [child for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return 0
    return pages * _PAGE + sum(resident(int(child)) for child in children)


def spent() -> float:
    """Seconds that processors have worked for this process and for its children that have ended."""
    return sum(os.times()[:4])


class Watch:
    """Follows the memory of this process while ``told`` says which phase it is in."""

    def __init__(self):
        self.phases: list[list] = []
        self._now = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self.told("start", "", 0.0)
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._ended.set()
        self._thread.join()
        self._close()

    def told(self, stage: str, what: str, share: float) -> None:
        """The progress of a command."""
        if not self.phases or self.phases[-1][0] != stage:
            self._close()
            self.phases.append([stage, time.perf_counter(), spent(), 0, ""])
        self._now = what

    def _close(self) -> None:
        if self.phases:
            name, began, before, most, what = self.phases[-1]
            print(f"{name:<16} {time.perf_counter() - began:8.1f} s {spent() - before:8.1f} s of "
                  f"processor {most / 2**20:8.0f} MiB  {what}", flush=True)  # fmt: skip

    def _look(self) -> None:
        while not self._ended.wait(_EVERY):
            phase, now = self.phases[-1], resident(os.getpid())
            if now > phase[3]:
                phase[3:] = now, self._now


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = os.environ.get("CAFFESURGERY_SHARED", ROOT.parent / "shared")
    parser.add_argument("net", nargs="+", help="a net of the zoo, or a prototxt and a caffemodel")
    parser.add_argument("--data", type=Path, default=Path(shared, "data"))
    parser.add_argument("--method", default="spatial")
    parser.add_argument("--ranks", default="enc-model:macs=0.5")
    parser.add_argument("--layers", default="*")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--levers", nargs="*", default=LEVERS, help="what is done, by default all")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--onnx", action="store_true", help="export and compare too")
    return parser.parse_args()


def main() -> None:
    """Compress one net."""
    how, prepare = arguments(), {"mean": "104,117,123", "bgr": True, "crop": True}
    with tempfile.TemporaryDirectory() as folder:
        if len(how.net) == 1:
            zoo.write(how.net[0], f"{folder}/zoo")
            how.net = [f"{folder}/zoo/deploy.prototxt", f"{folder}/zoo/{how.net[0]}.caffemodel"]
        images = squeezenet(how.data).test[: how.images].copy()
        calibrator = caffesurgery.Calibrator(
            images, seed=0, jobs=how.jobs, levers=how.levers, **prepare
        )
        started = time.perf_counter()
        model = caffesurgery.load(*how.net)
        with Watch() as watch:
            report = caffesurgery.compress(
                model, f"{folder}/small", how.method, how.ranks, how.layers, onnx=how.onnx,
                calibrate=calibrator, jobs=how.jobs, progress=watch.told,
            )  # fmt: skip
    seconds, told = time.perf_counter() - started, report["calibration"]
    own, spilled = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, told["spilled_bytes"]
    print(f"{seconds:.0f} s, {max(p[3] for p in watch.phases) / 2**20:.0f} MiB at the most "
          f"({own / 2**10:.0f} of this process by the kernel's count), "
          f"{spilled / 2**20:.0f} MiB of activations on the disk")  # fmt: skip
    steps = [f"{stage['name']} {stage['divergence']:.4g}" for stage in told["stages"]]
    print(f"divergence: {', '.join(steps)}")


if __name__ == "__main__":
    main()
