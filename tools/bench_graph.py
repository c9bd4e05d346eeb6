"""What onnxslim and onnxsim can still take out of the exported zoo, and whether that is faster.

    python tools/bench_graph.py [NAME ...] [--runs 30] [--opset 13]

Prints for each net the nodes without and with folding and after each tool, the median time of a
forward pass of the last three in ONNX Runtime (one thread, batch 1, runs in changing order), and
which tools left every operation and every number as it was: their times are those of one graph.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxsim
import onnxslim

from caffesurgery import zoo
from caffesurgery.export.onnx import export_onnx
from caffesurgery.files import caffemodel
from caffesurgery.net.net import read_net


def exported(name: str, folder: Path, opset: int) -> dict[str, Path]:
    """Files of one net: unfolded, ours, and ours after each tool."""
    files = {Path(path).name: Path(path) for path in zoo.write(name, folder / "zoo")}
    net = read_net(files["deploy.prototxt"])
    path = next(path for path in files.values() if path.suffix == ".caffemodel")
    weights = caffemodel.read(path)
    made = {kind: folder / f"{kind}.onnx" for kind in ("unfolded", "ours", "onnxslim", "onnxsim")}
    for kind in ("unfolded", "ours"):
        export_onnx(net, weights, made[kind], opset=opset, batch=1, fold=kind == "ours")
    model = onnx.load(made["ours"])
    onnx.save(onnxslim.slim(model), made["onnxslim"])
    simple, _ = onnxsim.simplify(onnx.load(made["ours"]))
    onnx.save(simple, made["onnxsim"])
    return made


def content(path: Path) -> list[tuple]:
    """All operations of a model with their attributes, and all constants, whatever their names."""
    graph = onnx.load(path).graph
    nodes = [(n.op_type, *sorted(a.SerializeToString() for a in n.attribute)) for n in graph.node]
    values = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    return sorted(nodes) + sorted(
        (str(value.shape), hashlib.sha256(value.tobytes()).hexdigest()) for value in values
    )


def medians(files: dict[str, Path], runs: int) -> dict[str, float]:
    """Milliseconds of a forward pass of each file, in changing order."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {
        kind: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for kind, path in files.items()
    }
    first = next(iter(sessions.values())).get_inputs()[0]
    feed = {first.name: np.random.default_rng(0).random(first.shape, np.float32)}
    times: dict[str, list[float]] = {kind: [] for kind in sessions}
    order = random.Random(0)
    for _ in range(runs):
        for kind in order.sample(list(sessions), len(sessions)):
            begin = time.perf_counter()
            sessions[kind].run(None, feed)
            times[kind].append(1000 * (time.perf_counter() - begin))
    return {kind: statistics.median(found) for kind, found in times.items()}


def main() -> None:
    """Measure the nets that are named, or all of the zoo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--opset", type=int, default=13)
    given = parser.parse_args()
    known = [net["name"] for net in zoo.catalogue()["nets"]]
    print(f"{'net':14}{'nodes: unfolded':>16}{'ours':>7}{'onnxslim':>10}{'onnxsim':>9}", end="")
    print(f"{'ms: ours':>12}{'onnxslim':>10}{'onnxsim':>9}  the same as ours")
    for name in given.names or known:
        with tempfile.TemporaryDirectory() as folder:
            files = exported(name, Path(folder), given.opset)
            nodes = {kind: len(onnx.load(path).graph.node) for kind, path in files.items()}
            files.pop("unfolded")
            ours = content(files["ours"])
            same = [kind for kind, path in files.items() if content(path) == ours][1:]
            spent = medians(files, given.runs)
        print(
            f"{name:14}{nodes['unfolded']:16}{nodes['ours']:7}{nodes['onnxslim']:10}"
            f"{nodes['onnxsim']:9}{spent['ours']:12.2f}{spent['onnxslim']:10.2f}"
            f"{spent['onnxsim']:9.2f}  {', '.join(same) or '-'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
