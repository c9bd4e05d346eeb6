"""Compares ways to cut and fine-tune a trained net on real images; prints tables for the docs.

    python tools/bench_finetune.py schemes|hybrid|calibrated|start|freezing|ranks|passes|res56|all

Nets, weights and images are those of ``CAFFESURGERY_SHARED`` (by default ../shared): cifar10_quick
and ResNet-56, 10,000 training images and 5,000 test images of CIFAR-10.  Every flow of a comparison
trains for the same number of epochs in all, however many trainings share them, and in each training
the rate falls to 0.  A run that was stopped goes on; flows that are done are not done again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from caffesurgery import Evaluator, load, train_net  # noqa: E402
from caffesurgery.flow.journal import NAME  # noqa: E402
from caffesurgery.flow.preview import preview  # noqa: E402
from caffesurgery.flow.read import parse_flow  # noqa: E402
from caffesurgery.flow.run import finetune  # noqa: E402

QUICK = """train_val: "{data}/cifar10_quick/cifar10_quick_train_test.prototxt"
deploy: "{data}/cifar10_quick/deploy.prototxt"
weights: "{data}/cifar10_quick/cifar10_quick.caffemodel"
train {{ solver: "{folder}/solver.prototxt" epochs: {epochs} }}
"""
RES56 = """train_val: "{data}/res56/train_val.prototxt"
deploy: "{data}/res56/deploy.prototxt"
weights: "{data}/res56/res56_jpgft.caffemodel"
train {{ solver: "{folder}/solver.prototxt" epochs: {epochs} batch: 100 snapshot: 10 }}
"""
IMAGES = """data {{ phase: TRAIN source: "{data}/cifar10/train_first10000.npz" }}
evaluate {{ images: "{data}/cifar10/test_first5000.npz" {samples} }}
trainer {{ name: "{trainer}" {gpu} }}
"""
FITTED = 'calibrate {{ images: "{data}/cifar10/train_first10000.npz" }}'
SOLVER = """net: "train_val.prototxt"
base_lr: {rate}
lr_policy: "poly"
power: 1
momentum: 0.9
weight_decay: {decay}
max_iter: 100
"""
RATES = {QUICK: (0.0003, 0.004), RES56: (0.001, 0.0001)}
"""Learning rate to begin with, and decay; the decays are those that the nets were trained with."""
IMAGES_IN_ALL, BATCH = 10_000, 100
IP2 = 'method_for: "ip2=svd" pin: "ip2=8"'
FLAT = 'method_for: "ip1=svd" pin: "ip1=56"'


def quick(method: str, budget: str, more: str) -> tuple[str, str]:
    """cifar10_quick at a budget for the whole net's multiply-adds."""
    share = {"half": 0.5, "quarter": 0.25}[budget]
    return QUICK, f'method: "{method}" ranks: "enc-model:macs={share}" {FLAT} {more}'


def runs() -> dict[str, dict[str, tuple[str, str]]]:
    """By comparison, the flows: the net, and what is asked of it."""
    vbmf = 'method: "cp" ranks: "vbmf" layers: "conv*" scheme: iterative choose_ranks:'
    return {
        "schemes": {
            f"{method}, {budget}, {scheme}": quick(method, budget, f'scheme: {scheme} keep: "ip2"')
            for method in ("cp", "tucker2")
            for budget in ("half", "quarter")
            for scheme in ("one_shot", "iterative")
        },
        "hybrid": {  # it differs from iterative where several layers are fully connected
            f"cp, half with ip2, {scheme}": quick("cp", "half", f"scheme: {scheme} {IP2}")
            for scheme in ("one_shot", "iterative", "hybrid")
        },
        "calibrated": {
            f"{method}, {budget}, calibrated": quick(
                method, budget, f'scheme: one_shot keep: "ip2" {FITTED}'
            )
            for method in ("cp", "tucker2")
            for budget in ("half", "quarter")
        },
        "start": {  # 000, section 3.4: either without the other
            f"{method}, {scheme}": quick(method, "half", f'scheme: {scheme} keep: "ip2"')
            for method, scheme in (
                ("cp-tpm", "iterative"),
                ("cp-tpm", "one_shot"),
                ("cp-random", "iterative"),
            )
        },
        "freezing": {  # none: among the schemes
            f"cp, half, {freeze}": quick(
                "cp", "half", f'scheme: iterative keep: "ip2" freeze: {freeze}'
            )
            for freeze in ("decomposed", "others")
        },
        "ranks": {f"vbmf {when}": (QUICK, f"{vbmf} {when}") for when in ("once", "each_step")},
        "passes": {
            name: (QUICK, f'method: "two-pass" ranks: "ratio=0.3" layers: "conv*" {more}')
            for name, more in {
                "one pass": "scheme: one_shot",
                "two passes": "scheme: two_pass every: 9",
            }.items()
        },
        "res56": {
            f"spatial, half{said}": (
                RES56,
                'method: "spatial" ranks: "enc-model:macs=0.5" scheme: one_shot '
                f'keep: "first" keep: "last" {more}',
            )
            for said, more in {"": "", ", calibrated": FITTED}.items()
        },
    }


def carry_out(label: str, net: str, asked: str, options: argparse.Namespace) -> dict:
    """The report of one flow, whose epochs are shared out evenly among its trainings."""
    folder = options.output / label.replace(", ", "_").replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    rate, decay = RATES[net]
    (folder / "solver.prototxt").write_text(SOLVER.format(rate=rate, decay=decay))
    words = {
        "data": options.data.absolute(),
        "folder": folder.absolute(),
        "trainer": options.trainer,
        "gpu": f"gpu: {options.gpu} mixed: true" if options.gpu is not None else "",
        "samples": f"samples: {options.samples}" if options.samples else "",
    }
    text = net + IMAGES + asked
    whole = parse_flow(text.format(epochs=options.epochs, **words), str(folder / "flow"))
    trainings = sum(step["kind"] == "train" for step in preview(whole)["steps"])
    share = round(options.epochs / trainings, 4)
    flow = parse_flow(text.format(epochs=share, **words), str(folder / "flow"))
    resume = (Path(flow.output) / NAME).is_file()
    return finetune(flow, resume=resume, tell=lambda *_: print(".", end="", file=sys.stderr))


def dense(options: argparse.Namespace) -> str:
    """A line of the table for cifar10_quick as it is, trained for as long: what cuts are up to."""
    net, folder = options.data / "cifar10_quick", options.output / "dense"
    train_val, (rate, decay) = net / "cifar10_quick_train_test.prototxt", RATES[QUICK]
    count, began = round(options.epochs * IMAGES_IN_ALL / BATCH), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    text = SOLVER.format(rate=rate, decay=decay).replace("train_val.prototxt", str(train_val))
    solver = folder / "solver.prototxt"
    solver.write_text(text.replace("max_iter: 100", f"max_iter: {count}"))
    trained = train_net(
        solver, folder, net / "cifar10_quick.caffemodel", trainer=options.trainer, force=True,
        data={"TRAIN:cifar": options.data / "cifar10/train_first10000.npz"},
    )  # fmt: skip
    judge = Evaluator(
        options.data / "cifar10/test_first5000.npz",
        transform=train_val, samples=options.samples, cache=None,
    )  # fmt: skip
    before, after = (
        100 * judge(load(net / "deploy.prototxt", weights))["top1"]
        for weights in (net / "cifar10_quick.caffemodel", trained["weights"])
    )
    took = time.monotonic() - began
    return (
        f"| not cut | 0 | 1.00 | 1.00 | {before:.2f} | {before:.2f} | {after:.2f} | {count} | "
        f"{took:.0f} |"
    )


def row(label: str, report: dict) -> str:
    """One line of a table in Markdown."""
    cuts = [s["metrics"]["top1"] for s in report["steps"] if s["moment"] == "cut" and s["metrics"]]
    totals = report["totals"]
    trained = [step for step in report["steps"] if step["kind"] == "train"]
    cells = (
        label,
        len(report["layers"]),
        f"{totals['macs'] / totals['new_macs']:.2f}",
        f"{totals['params'] / totals['new_params']:.2f}",
        f"{100 * report['before']['top1']:.2f}",
        f"{100 * min(cuts):.2f}",
        f"{100 * report['after']['top1']:.2f}",
        sum(step["training"]["iterations"] for step in trained),
        f"{report['seconds']:.0f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


HEAD = (
    "flow", "layers cut", "MACs x", "params x", "before", "lowest after a cut", "after training",
    "iterations", "s",
)  # fmt: skip


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = os.environ.get("CAFFESURGERY_SHARED", ROOT.parent / "shared")
    parser.add_argument("comparison", choices=[*runs(), "all"])
    parser.add_argument("--data", type=Path, default=Path(shared, "data"))
    parser.add_argument("--output", type=Path, default=Path("bench_finetune.out"))
    parser.add_argument("--epochs", type=float, default=1, help="of each flow, in all")
    parser.add_argument("--samples", type=int, help="only the first so many test images")
    parser.add_argument("--trainer", default="torch")
    parser.add_argument("--gpu", type=int)
    parser.add_argument("--only", default="", help="flows whose name holds this word")
    return parser.parse_args()


def main() -> None:
    """Carry out the flows of one comparison, or of all, and print a table for each."""
    options = arguments()
    for name, flows in runs().items():
        if options.comparison not in (name, "all"):
            continue
        print(f"\n### {name}, {options.epochs:g} epochs in all\n")
        print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
        if name == "schemes" and not options.only:
            print(dense(options), flush=True)
        for label, (net, asked) in flows.items():
            if options.only in label:
                print(row(label, carry_out(label, net, asked, options)), flush=True)


if __name__ == "__main__":
    main()
