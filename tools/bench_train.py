"""Images a second in training: the torch trainer against a plain PyTorch loop of the same net.

    python tools/bench_train.py [--net cifar10_quick|res56] [--gpu 0] [--mixed] [--threads N]

The nets are those of the reference material (CAFFESURGERY_SHARED, by default ../shared), fed from
its .npz files.  The plain loop is written as a PyTorch user writes it: modules, an optimiser,
batches from a tensor in memory, no data layer.  Both take turns; the medians of all turns count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from caffesurgery.train.job import Job  # noqa: E402
from caffesurgery.train.torch.loop import Loop  # noqa: E402
from caffesurgery.train.torch.session import Session  # noqa: E402

GOAL = 0.9
"""Least share of the plain loop's images a second."""


def quick() -> nn.Module:
    """cifar10_quick."""
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 5, padding=2), nn.MaxPool2d(3, 2, ceil_mode=True), nn.ReLU()),
        *(nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(), nn.AvgPool2d(3, 2, ceil_mode=True)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.AvgPool2d(3, 2, ceil_mode=True)),
        *(nn.Flatten(), nn.Linear(1024, 64), nn.Linear(64, 10)),
    )


class Block(nn.Module):
    """Two convolutions and a way around them; as in the net, no ReLU behind the sum."""

    def __init__(self, before: int, channels: int):
        super().__init__()
        stride = channels // before
        self.one = nn.Conv2d(before, channels, 3, stride, 1)
        self.norm_one = nn.BatchNorm2d(channels)
        self.two = nn.Conv2d(channels, channels, 3, 1, 1)
        self.norm_two = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.around = None
        if stride > 1:
            self.around = nn.Sequential(
                nn.Conv2d(before, channels, 2, stride), nn.BatchNorm2d(channels)
            )

    def forward(self, x):
        y = self.relu(self.norm_one(self.one(x)))
        return self.norm_two(self.two(y)) + (x if self.around is None else self.around(x))


def res56() -> nn.Module:
    """ResNet-56 for CIFAR-10, as the reference net has it."""
    blocks, before = [], 16
    for channels in (16, 32, 64):
        for _ in range(9):
            blocks.append(Block(before, channels))
            before = channels
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(inplace=True), *blocks),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )


NETS = {
    "cifar10_quick": (quick, "cifar10_quick/cifar10_quick_train_test.prototxt", "cifar", 100),
    "res56": (res56, "res56/train_val.prototxt", "data", 200),
}
"""Plain module, prototxt, its data layer, batch size."""


TURNS = 7


class Plain:
    """A training loop as a PyTorch user writes it, on images that are in memory as floats."""

    def __init__(self, name: str, images: np.ndarray, labels: np.ndarray, device, mixed: bool):
        make, _, _, self.batch = NETS[name]
        self.device, self.mixed = device, mixed
        self.net = make().to(device)
        self.images = torch.from_numpy((images.astype(np.float32) - 128) / 128)
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self.optimiser = torch.optim.SGD(
            self.net.parameters(), lr=0.001, momentum=0.9, weight_decay=0.004
        )
        self.at = 0

    def train(self, iterations: int) -> None:
        for _ in range(iterations):
            if self.at + self.batch > len(self.images):
                self.at = 0
            part = slice(self.at, self.at + self.batch)
            self.at += self.batch
            images, labels = self.images[part].to(self.device), self.labels[part].to(self.device)
            self.optimiser.zero_grad()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
                loss = nn.functional.cross_entropy(self.net(images), labels)
            loss.backward()
            self.optimiser.step()
        loss.item()


class Ours:
    """The trainer itself, data layer and all."""

    def __init__(self, name: str, data: Path, folder: Path, gpus: tuple[int, ...], mixed: bool):
        _, net, layer, self.batch = NETS[name]
        solver = folder / "solver.prototxt"
        net = data / net
        solver.write_text(
            f'net: "{net}" base_lr: 0.001 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.004 '
            "max_iter: 1000000 solver_mode: CPU"
        )
        images = data / "cifar10/train_first10000.npz"
        job = Job(solver, folder, gpus=gpus, mixed=mixed, data={layer: images})
        self.loop = Loop(Session(job))
        self.batches = self.loop.session.batches()

    def train(self, iterations: int) -> None:
        for number in range(iterations):
            self.loop.step(self.batches, read=number == iterations - 1)


def measure(name: str, data: Path, seconds: float, gpus: tuple[int, ...], mixed: bool) -> dict:
    """Images a second of both, in turns of at least ``seconds`` each."""
    stored = np.load(data / "cifar10/train_first10000.npz")
    device = torch.device("cuda", gpus[0]) if gpus else torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        both = {
            "plain": Plain(name, stored["images"], stored["labels"], device, mixed),
            "torch trainer": Ours(name, data, Path(folder), gpus, mixed),
        }
        found: dict[str, list[float]] = {key: [] for key in both}
        count = {}
        for key, one in both.items():
            one.train(2)
            began = time.perf_counter()
            one.train(2)
            count[key] = max(1, round(seconds / (time.perf_counter() - began) * 2))
        for _ in range(TURNS):
            for key, one in both.items():
                began = time.perf_counter()
                one.train(count[key])
                took = time.perf_counter() - began
                found[key].append(count[key] * one.batch / took)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=NETS, action="append")
    parser.add_argument("--gpu", type=int)
    parser.add_argument("--mixed", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = Path(os.environ.get("CAFFESURGERY_SHARED", ROOT.parent / "shared")) / "data"
    gpus = () if args.gpu is None else (args.gpu,)
    good = True
    print(f"{'net':<15}{'plain loop':>12}{'trainer':>12}{'share':>8}  images a second")
    for name in args.net or NETS:
        plain, ours = measure(name, data, args.seconds, gpus, args.mixed).values()
        share = statistics.median(b / a for a, b in zip(plain, ours))
        print(
            f"{name:<15}{statistics.median(plain):>12.1f}{statistics.median(ours):>12.1f}"
            f"{share:>8.2f}  {'met' if share >= GOAL else 'MISSED'}: goal {GOAL}"
        )
        good &= share >= GOAL
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
