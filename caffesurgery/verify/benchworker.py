"""One model in a process of its own: told what to do line by line on stdin, answers in JSON.

Imports nothing but NumPy and ONNX Runtime, so that what it measures is theirs: ``load`` makes the
session, ``run N`` runs N forward passes, ``memory`` says what the model has taken.
"""

from __future__ import annotations

import json
import os
import sys
import time

_OPEN_SIDE = 256
_KINDS = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}


def resident() -> int:
    """Bytes of this process in memory now; where the system does not say, at the most so far."""
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return most_resident()


def most_resident() -> int:
    """The largest number of bytes in memory since the start, or since ``forget_peak``."""
    try:
        with open("/proc/self/status", encoding="ascii") as stream:
            for line in stream:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> None:
    """Begin a new peak, where the system can (Linux)."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as stream:
            stream.write("5")
    except OSError:
        pass


def main(path: str, threads: int, shapes: dict[str, list[int]]) -> None:
    """Answer commands until stdin ends."""
    import numpy
    import onnxruntime

    before = resident()
    started = time.perf_counter()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # threads that wait in a loop take the cores from the process that is measured next
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    loaded = time.perf_counter() - started
    after, load_peak = resident(), most_resident()
    feeds = _feeds(session, shapes, numpy)
    _answer(
        load_ms=1e3 * loaded,
        startup_bytes=after - before,
        load_peak_bytes=load_peak - before,
        inputs={name: list(array.shape) for name, array in feeds.items()},
        version=onnxruntime.__version__,
    )
    forget_peak()
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            begun = time.perf_counter()
            session.run(None, feeds)
            times.append(1e3 * (time.perf_counter() - begun))
        _answer(forward_ms=times, running_bytes=most_resident() - before)


def _feeds(session, shapes: dict[str, list[int]], numpy) -> dict:
    """Seeded inputs of one item: pixels where the model takes bytes, else normal numbers."""
    random = numpy.random.default_rng(0)
    feeds = {}
    for value in session.get_inputs():
        kind = _KINDS.get(value.type)
        if kind is None:
            raise ValueError(f"input {value.name} is {value.type}, which is not measured here")
        dims = [1 if not isinstance(axis, int) else axis for axis in value.shape[:1]]
        dims += [axis if isinstance(axis, int) else _OPEN_SIDE for axis in value.shape[1:]]
        shape = shapes.get(value.name, dims)
        if kind == "uint8":
            feeds[value.name] = random.integers(0, 256, shape).astype(kind)
        else:
            feeds[value.name] = random.standard_normal(shape, numpy.float32).astype(kind)
    return feeds


def _answer(**values) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules are no top-level ones
    try:
        main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
    except Exception as error:  # whatever it is, the parent says it
        _answer(error=str(error))
