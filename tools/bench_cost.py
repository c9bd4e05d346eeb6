"""Prints how well a profile predicts what `caffesurgery time` measures, net by net.

    python tools/bench_cost.py nets [alexnet googlenet vgg16] [--threads 2] [--profile P.json]
    python tools/bench_cost.py onnx [alexnet googlenet vgg16] [--threads 2] [--profile P.json]
    python tools/bench_cost.py conv1 [--threads 2] [--profile P.json]
    python tools/bench_cost.py plans NET FOLDER [--error 0.5] [--profile P.json]
    python tools/bench_cost.py auto NET FOLDER [--threads 2]

`nets` times each dense and compressed net at the papers' ranks beside its prediction, `onnx` the
same nets in ONNX Runtime, with a profile of that, `conv1` the forms of AlexNet's first layer.
`plans` plans a net at equal error by every single method and by auto (this takes minutes), `auto`
times what was planned.  Without --profile the machine is calibrated first.  Run it on a quiet
machine, a part at a time.  Nets take turns, five times over, so that what disturbs one of them
disturbs its neighbours too and not all of its turns; a turn in which other programs computed is
taken again (on Linux, which tells).  Where other machines share the processors, take more seconds.
"fastest" is the fastest whole run, "layers" the sum of the fastest times of each layer, which is
the same where nothing disturbs; "x" is the prediction over the former.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from timings import CONV1_GEOMETRY, NETS, outlined, zoo  # noqa: E402

from caffesurgery import SurgeryError, forward  # noqa: E402
from caffesurgery import zoo as nets_of_the_zoo  # noqa: E402
from caffesurgery.api import load, plan, read_plan  # noqa: E402
from caffesurgery.decompose import scheme  # noqa: E402
from caffesurgery.net.net import parse_net  # noqa: E402
from caffesurgery.net.shapes import infer  # noqa: E402
from caffesurgery.surgery.apply import outline  # noqa: E402
from caffesurgery.timing import load_profile, predict  # noqa: E402
from caffesurgery.timing.calibrate import measure_profile  # noqa: E402
from caffesurgery.timing.fit import quality  # noqa: E402
from caffesurgery.timing.quiet import undisturbed  # noqa: E402
from caffesurgery.verify.calibrate import (  # noqa: E402
    measure_onnxruntime,
    opened,
    seeded_model,
    session_options,
)

METHODS = ("cp", "cp2", "cp4", "tucker2", "spatial", "svd", "auto")
ROUNDS = 5
"""In so many turns is each net timed."""
HEAD = f"{'net':20} threads   fastest    median    layers predicted      x   error   order"


@dataclass
class Timed:
    """Milliseconds: the fastest of each layer, and the fastest and the median whole runs."""

    layers: list[float]
    fastest: float
    median: float


def timed(runner: forward.Runner, seconds: float) -> Timed:
    """A net's times."""
    once = forward.measure(runner, 1).median
    found = forward.measure(runner, max(8, round(1000 * seconds / once)))
    return Timed([layer.minimum for layer in found.layers], found.minimum, found.median)


def runner_of(shapes, threads: int) -> forward.Runner:
    """A net with seeded weights, ready to run."""
    return forward.Runner(shapes, forward.seeded(shapes), threads=threads)


def in_turns(nets: dict, options) -> dict:
    """The times of each of these nets, by name."""
    found: dict = {}
    runners = {name: runner_of(shapes, options.threads) for name, shapes in nets.items()}
    for _ in range(ROUNDS):
        for name, runner in runners.items():
            new = undisturbed(partial(timed, runner, options.seconds / ROUNDS))
            if old := found.get(name):
                new.layers = list(map(min, new.layers, old.layers))
                new.fastest = min(new.fastest, old.fastest)
                new.median = min(new.median, old.median)
            found[name] = new
    return found


def table(nets: dict, profile, options) -> None:
    """One line for each net by its name, and the errors of their totals."""
    errors = []
    print(HEAD)
    for name, found in in_turns(nets, options).items():
        ours = [one.ms or 0.0 for one in predict(nets[name], profile)]
        fit, total = quality(ours, found.layers), sum(ours) / found.fastest
        errors.append((abs(total - 1), abs(sum(ours) / sum(found.layers) - 1)))
        print(
            f"{name:20} {options.threads:7} {found.fastest:9.2f} {found.median:9.2f} "
            f"{sum(found.layers):9.2f} {sum(ours):9.2f} {total:6.3f} {fit['median_error']:7.3f} "
            f"{fit['order']:7.3f}"
        )
    for label, those in zip(("fastest", "layers"), zip(*errors)):
        middle = statistics.median(those)
        print(f"error of the totals against {label}: median {middle:.3f}, worst {max(those):.3f}")


def nets_of(names) -> dict:
    """Shapes of every net of the papers by its name, dense and compressed."""
    return {
        f"{net} {form}": outlined(net, methods)
        for net in names or NETS
        for form, methods in NETS[net].items()
    }


def bench_nets(options, profile) -> None:
    """Every net of the papers as measured and as predicted."""
    table(nets_of(options.names), profile, options)


def bench_onnx(options, profile) -> None:
    """The same in ONNX Runtime, as whole nets."""
    nets, sessions, found, errors = nets_of(options.names), {}, {}, []
    turn = options.seconds / ROUNDS
    with tempfile.TemporaryDirectory(prefix="caffesurgery-") as folder:
        for name, shapes in nets.items():
            path = seeded_model(shapes, Path(folder))
            sessions[name] = opened(path, session_options(options.threads))
    for _ in range(ROUNDS):
        for name, (session, feeds) in sessions.items():
            found.setdefault(name, []).extend(undisturbed(partial(run_times, session, feeds, turn)))
    print(f"{'net':20} threads   fastest    median predicted      x")
    for name, times in found.items():
        ours = sum(one.ms or 0.0 for one in predict(nets[name], profile))
        errors.append(abs(ours / min(times) - 1))
        print(
            f"{name:20} {options.threads:7} {min(times):9.2f} {statistics.median(times):9.2f} "
            f"{ours:9.2f} {ours / min(times):6.3f}"
        )
    print(f"error of the totals: median {statistics.median(errors):.3f}, worst {max(errors):.3f}")


def run_times(session, feeds, seconds: float) -> list[float]:
    """Milliseconds of the runs of a session that fit into one turn, of two at least."""
    session.run(None, feeds)
    times, began = [], time.perf_counter()
    while len(times) < 2 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(1000 * (time.perf_counter() - start))
    return times


def bench_conv1(options, profile) -> None:
    """AlexNet's conv1 as it is, 2-, 3- and 4-way at rank 50."""
    text = 'input: "data" input_shape { dim: 1 dim: 3 dim: 227 dim: 227 }\n' + (
        'layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" '
        "convolution_param { num_output: 96 kernel_size: 11 stride: 4 } }"
    )
    dense = infer(parse_net(text))
    print(f"{'conv1':8} {'MACs':>12} {'measured':>9} {'predicted':>9}")
    for way in (0, 2, 3, 4):
        shapes = dense
        if way:
            parts = scheme(f"cp{way}").parts(CONV1_GEOMETRY, (50,))
            shapes = infer(parse_net(chain_text(parts)))
        real = sum(in_turns({way: shapes}, options)[way].layers)
        ours = sum(one.ms for one in predict(shapes, profile))
        name = f"{way}-way" if way else "dense"
        print(f"{name:8} {shapes.macs:12,} {real:9.2f} {ours:9.2f}", flush=True)


def chain_text(parts) -> str:
    """The chain of small layers in place of conv1, as a net."""
    lines, bottom = ['input: "data" input_shape { dim: 1 dim: 3 dim: 227 dim: 227 }'], "data"
    for part in parts:
        h, w = (4 if axis in part.axes else 1 for axis in "hw")
        lines.append(
            f'layer {{ name: "{part.suffix}" type: "Convolution" bottom: "{bottom}" '
            f'top: "{part.suffix}" convolution_param {{ num_output: {part.out} group: {part.group} '
            f"kernel_h: {part.kh} kernel_w: {part.kw} stride_h: {h} stride_w: {w} }} }}"
        )
        bottom = part.suffix
    return "\n".join(lines)


def make_plans(options, profile) -> None:
    """Plans of one net at equal error, by each method, written to a folder."""
    (net, folder), size = options.names, zoo(options.names[0]).layers[0].tops[0]
    folder = Path(folder)
    if not (folder / f"{net}.caffemodel").exists():
        nets_of_the_zoo.write(net, folder)
    model = load(folder / "deploy.prototxt", folder / f"{net}.caffemodel", inputs={"data": size})
    for method in METHODS:
        path = folder / f"{method}.plan"
        if path.exists():
            continue
        try:
            made = plan(model, method, f"error={options.error}", profile=profile)
        except SurgeryError as error:
            print(f"{net} {method}: {error}")
            continue
        path.write_text(made.dumps())
        print(f"{net} {method}: {len(made.layers)} layers", flush=True)


def bench_auto(options, profile) -> None:
    """Times of the plans in a folder."""
    (net, folder), shapes = options.names, zoo(options.names[0])
    nets = {f"{net} dense": shapes}
    for method in METHODS:
        path = Path(folder, f"{method}.plan")
        if path.exists():
            text = outline(shapes.net, shapes, read_plan(path))
            nets[f"{net} {method}"] = infer(parse_net(text), batch=1)
    table(nets, profile, options)


def main() -> None:
    """One part of the bench."""
    parts = {
        "nets": bench_nets, "onnx": bench_onnx, "conv1": bench_conv1, "plans": make_plans,
        "auto": bench_auto,
    }  # fmt: skip
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=parts)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each net, in all turns")
    parser.add_argument("--error", type=float, default=0.5)
    parser.add_argument("--profile")
    options = parser.parse_args()
    if options.profile:
        profile = load_profile(options.profile)
    else:
        measure = measure_onnxruntime if options.part == "onnx" else measure_profile
        profile = measure("here", options.threads)
    print(f"profile {profile.name}: {profile.machine}, {profile.threads} thread(s), {profile.made}")
    parts[options.part](options, profile)


if __name__ == "__main__":
    main()
