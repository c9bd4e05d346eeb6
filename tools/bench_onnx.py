"""Paper 000's Table 4 on this machine: original nets against compressed ones, in ONNX Runtime.

    python tools/bench_onnx.py DIR [--net alexnet|googlenet|vgg16 ...] [--threads N] [--runs N]

Writes the zoo's nets, the nets at the paper's ranks and both as ONNX to DIR, unless they are there
(--prepare stops after that), then measures each in a process of its own, in turns, and prints the
ratios beside the paper's, which are of a phone.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from bench_compress import RANKS

import caffesurgery
from caffesurgery import zoo

_FC = "fc6=365,fc7=275,fc8=260"


@dataclass(frozen=True)
class Case:
    """A compressed net and the paper's ratios: load, forward, start-up, running memory."""

    label: str
    ranks: str
    paper: tuple[float, float, float, float] | None


CASES = {
    "alexnet": (
        Case("conv 150, fc 300", RANKS["alexnet"], (4.32, 2.22, 4.32, 2.45)),
        Case(
            "conv 100, fc 300",
            f"conv1=47,conv2=102,conv3=103,conv4=118,conv5=130,{_FC}",
            (4.40, 2.42, 4.32, 3.14),
        ),
    ),
    "googlenet": (Case("conv 35", RANKS["googlenet"], (3.11, 1.68, 1.07, 1.10)),),
    # the phone could not load the original
    "vgg16": (Case("conv 80, fc 150", RANKS["vgg16"], None),),
}
"""Table 4 of paper 000, named by the average ranks."""


def prepare(name: str, folder: Path) -> list[Path]:
    """The ONNX files of a net, the original first; made where they are not there."""
    paths = [folder / f"{name}.onnx"]
    paths += [folder / f"{name}-{index}.onnx" for index in range(len(CASES[name]))]
    if all(path.exists() for path in paths):
        return paths
    original = folder / name
    zoo.write(name, original, force=True)
    model = caffesurgery.load(original / "deploy.prototxt", original / f"{name}.caffemodel")
    caffesurgery.export_onnx(model, paths[0], force=True)
    for case, path in zip(CASES[name], paths[1:]):
        plan = caffesurgery.plan(model, "cp", case.ranks)
        result = caffesurgery.apply(model, plan)
        smaller = caffesurgery.save(result, path.with_suffix(""), force=True)
        caffesurgery.export_onnx(smaller, path, force=True)
        print(f"{path}: {name}, {case.label}", file=sys.stderr)
    return paths


def rows(name: str, report: dict) -> list[str]:
    """Lines of the table: figures of each model, ratios to the original, and the paper's."""
    lines = []
    for case, model in zip((None, *CASES[name]), report["models"]):
        figures = (
            f"{model['load_ms']:8.1f} {model['forward_ms']:8.1f} {model['forward_p90_ms']:8.1f} "
            f"{model['startup_bytes'] / 1e6:8.1f} {model['running_bytes'] / 1e6:8.1f}"
        )
        line = f"{name:<10} {case.label if case else 'original':<17} {figures}"
        if case:
            keys = ("load", "forward", "startup", "running")
            line += "  " + " ".join(f"{model['ratios'][key] or 0:5.2f}" for key in keys)
            line += "   " + (
                " ".join(f"{ratio:5.2f}" for ratio in case.paper)
                if case.paper
                else "original cannot be loaded"
            )
        lines.append(line)
    return lines


def main() -> None:
    """Prepare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--net", nargs="+", choices=sorted(CASES), default=list(CASES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--loads", type=int, default=5)
    parser.add_argument("--prepare", action="store_true", help="only write the files")
    options = parser.parse_args()
    files = {name: prepare(name, options.folder) for name in options.net}
    if options.prepare:
        return
    print(f"{options.threads} threads; medians of {options.loads} loads, {options.runs} passes")
    heads = "load ms   forward      p90 start MB   run MB"
    ratios = " load  forw start   run"
    print(f"{'net':<10} {'average ranks':<17} {heads}  {ratios}   paper: the same")
    for name, paths in files.items():
        report = caffesurgery.bench(
            paths, threads=options.threads, runs=options.runs, loads=options.loads
        )
        print("\n".join(rows(name, report)), flush=True)


if __name__ == "__main__":
    main()
