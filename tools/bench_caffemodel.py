"""Measures reading, rewriting and writing of a caffemodel of VGG16's size (528 MiB).

    python tools/bench_caffemodel.py [--folder DIR]

Each step runs in a process of its own on a temporary file that the first step writes; printed are
CPU seconds and the peak of resident memory.  The protobuf library is measured beside it where
grpcio-tools is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from caffesurgery.files import caffemodel  # noqa: E402

CHANNELS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512))
FULLY_CONNECTED = {"fc6": (4096, 25088), "fc7": (4096, 4096), "fc8": (1000, 4096)}


def vgg16_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of the weights by layer name; a bias goes with each."""
    shapes = {}
    for stage, channels in enumerate((*CHANNELS, (512, 512, 512, 512)), 1):
        for i, (before, after) in enumerate(zip(channels, channels[1:]), 1):
            shapes[f"conv{stage}_{i}"] = (after, before, 3, 3)
    return {**shapes, **FULLY_CONNECTED}


def vgg16_layers():
    """The layers with weights, whose blobs are made one after the other."""
    rng = np.random.default_rng(0)

    def blobs(shape):
        return lambda: [rng.random(shape, np.float32), np.zeros(shape[0], np.float32)]

    bottom = "data"
    for name, shape in vgg16_shapes().items():
        kind = "Convolution" if len(shape) == 4 else "InnerProduct"
        yield caffemodel.NewLayer(name, kind, [bottom], [name], blobs(shape))
        bottom = name


def step_write(path: Path) -> None:
    """write: 16 layers of random numbers, streamed"""
    caffemodel.write(path, "VGG16", vgg16_layers())


def step_read(path: Path) -> None:
    """read, and sum every blob"""
    model = caffemodel.read(path)
    total = sum(float(b.array().sum()) for layer in model.layers for b in layer.blobs)
    assert model.parameters() == 138_357_544 and total > 6e7


def step_rewrite(path: Path) -> None:
    """rewrite: fc6 at rank 160, the rest copied"""
    model = caffemodel.read(path)
    bias = np.zeros(4096, np.float32)
    factors = np.ones((160, 25088), np.float32), np.ones((4096, 160), np.float32)
    new = [
        caffemodel.NewLayer("fc6_vt", "InnerProduct", ["pool5"], ["fc6_vt"], factors[:1]),
        caffemodel.NewLayer("fc6_ud", "InnerProduct", ["fc6_vt"], ["fc6"], [factors[1], bias]),
    ]
    caffemodel.rewrite(model, {"fc6": new}, path.with_suffix(".fc6"), force=True)


def step_copy(path: Path) -> None:
    """rewrite: nothing replaced"""
    caffemodel.rewrite(caffemodel.read(path), {}, path.with_suffix(".copy"), force=True)


def step_protobuf(path: Path) -> None:
    """protobuf library: parse, and sum np.array(blob.data)"""
    net = _protobuf_net()
    net.ParseFromString(path.read_bytes())
    total = sum(float(np.array(b.data, np.float32).sum()) for e in net.layer for b in e.blobs)
    assert total > 6e7


STEPS = {
    "write": step_write,
    "read": step_read,
    "rewrite": step_rewrite,
    "copy": step_copy,
    "protobuf": step_protobuf,
}


def _protobuf_net():
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "caffe.bin")
        argv = ["protoc", f"-I{ROOT / 'proto'}", f"--descriptor_set_out={out}", "caffe.proto"]
        protoc.main(argv)
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(files.file[0])
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))()


def peak_bytes() -> int:
    """The most memory this process has had resident; Linux also tells it without the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(step: str, path: Path) -> dict[str, float]:
    """Run one step in this process."""
    started, cpu = time.perf_counter(), time.process_time()
    STEPS[step](path)
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - started,
        "peak": peak_bytes(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="where the temporary files go (needs 1.7 GB)")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(measure(arguments.step, Path(arguments.folder, "vgg16.caffemodel"))))
        return
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        print(f"{'step':<55} {'CPU s':>7} {'wall s':>7} {'peak MiB':>9}  of file")
        for step, function in STEPS.items():
            command = [sys.executable, __file__, "--folder", folder, "--step", step]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                reason = done.stderr.strip().splitlines()[-1]
                print(f"{function.__doc__:<55} not measured: {reason}")
                continue
            found = json.loads(done.stdout)
            share = found["peak"] / Path(folder, "vgg16.caffemodel").stat().st_size
            print(
                f"{function.__doc__:<55} {found['cpu']:7.2f} {found['wall']:7.2f} "
                f"{found['peak'] / 2**20:9.0f}  {share:.2f}"
            )


if __name__ == "__main__":
    main()
