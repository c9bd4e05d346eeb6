"""Prints how well a profile predicts what `caffesurgery time` measures, net by net.

    python tools/bench_cost.py nets [alexnet googlenet vgg16] [--threads 2] [--profile P.json]
    python tools/bench_cost.py conv1 [--threads 2] [--profile P.json]
    python tools/bench_cost.py plans NET FOLDER [--error 0.5] [--profile P.json]
    python tools/bench_cost.py auto NET FOLDER [--threads 2]

`nets` times each dense and compressed net at the papers' ranks beside its prediction, `conv1` the
forms of AlexNet's first layer.  `plans` plans a net at equal error by every single method and by
auto (this takes minutes), `auto` times what was planned.  Without --profile the machine is
calibrated first.  Run it on a quiet machine, a part at a time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

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

METHODS = ("cp", "cp2", "cp4", "tucker2", "spatial", "svd", "auto")
SECONDS = 2
"""About as long is each net timed."""


def timed(shapes, threads: int):
    """The fastest milliseconds of each layer, and the median of whole runs."""
    runner = forward.Runner(shapes, forward.seeded(shapes), threads=threads)
    once = forward.measure(runner, 1).median
    found = forward.measure(runner, max(3, min(40, round(1000 * SECONDS / once))))
    return [layer.minimum for layer in found.layers], found


def row(name: str, shapes, profile, threads: int) -> float:
    """One line of the table; returns the error of the total."""
    real, found = timed(shapes, threads)
    ours = [one.ms or 0.0 for one in predict(shapes, profile)]
    fit, total = quality(ours, real), sum(ours) / found.minimum
    print(
        f"{name:20} {threads:7} {found.minimum:9.2f} {found.median:9.2f} {sum(ours):9.2f} "
        f"{total:6.3f} {fit['median_error']:7.3f} {fit['order']:7.3f}",
        flush=True,
    )
    return abs(total - 1)


def bench_nets(options, profile) -> None:
    """Every net of the papers, dense and compressed, as measured and as predicted."""
    print(f"{'net':20} threads   fastest    median predicted      x  layers   order")
    errors = [
        row(f"{net} {form}", outlined(net, methods), profile, options.threads)
        for net in options.names or NETS
        for form, methods in NETS[net].items()
    ]
    print(f"error of the totals: median {statistics.median(errors):.3f}, worst {max(errors):.3f}")


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
        real, _ = timed(shapes, options.threads)
        ours = sum(one.ms for one in predict(shapes, profile))
        name = f"{way}-way" if way else "dense"
        print(f"{name:8} {shapes.macs:12,} {sum(real):9.2f} {ours:9.2f}", flush=True)


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
    print(f"{'net':20} threads   fastest    median predicted      x  layers   order")
    row(f"{net} dense", shapes, profile, options.threads)
    for method in METHODS:
        path = Path(folder, f"{method}.plan")
        if path.exists():
            text = outline(shapes.net, shapes, read_plan(path))
            row(f"{net} {method}", infer(parse_net(text), batch=1), profile, options.threads)


def main() -> None:
    """One part of the bench."""
    parts = {"nets": bench_nets, "conv1": bench_conv1, "plans": make_plans, "auto": bench_auto}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=parts)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--error", type=float, default=0.5)
    parser.add_argument("--profile")
    options = parser.parse_args()
    if options.profile:
        profile = load_profile(options.profile)
    else:
        profile = measure_profile("here", options.threads)
    print(f"profile {profile.name}: {profile.machine}, {profile.threads} thread(s), {profile.made}")
    parts[options.part](options, profile)


if __name__ == "__main__":
    main()
