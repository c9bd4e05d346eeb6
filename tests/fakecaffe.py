"""A `caffe` for the tests that prints what the real one prints and ends in every way it can end.

Run as `caffe train -solver ...`; the environment says how: FAKE_CAFFE names the ending, and
FAKE_WEIGHTS a caffemodel that its snapshots are copies of.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time

from caffesurgery.files import wire
from caffesurgery.files.solverstate import read_state

FATAL = {
    "disk": ("io.cpp:91", "Check failed: proto.SerializeToOstream(&output) "),
    "memory": ("syncedmem.cpp:71", "Check failed: error == cudaSuccess (2 vs. 0)  out of memory"),
    "layer": ("layer_factory.hpp:81", "Check failed: registry.count(type) == 1 (0 vs. 1) Unknown "
              "layer type: Fancy (known types: AbsVal, Accuracy)"),
    "shape": ("net.cpp:757", "Cannot copy param 0 weights from layer 'ip'; shape mismatch.  Source "
              "param shape is 10 256 (2560); target param shape is 11 256 (2816). "),
    "gpu": ("common.cpp:66", "Cannot use GPU in CPU-only Caffe: check mode."),
    "odd": ("odd.cpp:1", "Check failed: nobody knows this"),
}  # fmt: skip


def say(text: str, severity: str = "I", place: str = "solver.cpp:239") -> None:
    print(f"{severity}20261121 03:35:04.334359  3604 {place}] {text}", file=sys.stderr, flush=True)


def snapshot(prefix: str, iteration: int, cut: bool = False) -> None:
    model, state = (f"{prefix}_iter_{iteration}.{end}" for end in ("caffemodel", "solverstate"))
    say(f"Snapshotting to binary proto file {model}", place="solver.cpp:464")
    shutil.copyfile(os.environ["FAKE_WEIGHTS"], model)
    if cut:
        with open(model, "r+b") as file:
            file.truncate(40)
    say(f"Snapshotting solver state to binary proto file {state}", place="sgd_solver.cpp:284")
    with open(state, "wb") as file:
        file.write(wire.integer(1, iteration) + wire.string(2, model))


def fatal(kind: str) -> None:
    place, text = FATAL[kind]
    say(text, "F", place)
    print("*** Check failure stack trace: ***\n    @     0x7f  google::LogMessage::Fail()",
          file=sys.stderr, flush=True)  # fmt: skip
    signal.signal(signal.SIGABRT, signal.SIG_DFL)
    os.abort()


def main() -> None:
    flags = dict(zip(sys.argv[2::2], sys.argv[3::2]))
    how = os.environ.get("FAKE_CAFFE", "done")
    with open(flags["-solver"], encoding="utf-8") as file:
        text = file.read()
    value = {m[1]: m[2].strip('"') for m in re.finditer(r'(\w+): ("[^"]*"|\S+)', text)}
    prefix, most, every = value["snapshot_prefix"], int(value["max_iter"]), int(value["snapshot"])
    stop = []
    signal.signal(signal.SIGINT, lambda *_: stop.append(1))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if how == "library":
        sys.exit(print("caffe: error while loading shared libraries: libcudart.so.8.0: cannot open "
                       "shared object file", file=sys.stderr) or 127)  # fmt: skip
    say(f"flags {flags} in {os.getcwd()} as {os.getpid()}", place="caffe.cpp:1")
    begin = 0
    if "-snapshot" in flags:
        begin = read_state(flags["-snapshot"]).iteration
    for iteration in range(begin, most):
        if iteration == most // 2:
            if how in FATAL:
                fatal(how)
            elif how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            elif how == "large":
                os.kill(os.getpid(), signal.SIGXFSZ)
            elif how == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            elif how == "silent":
                sys.exit(0)
            elif how == "cut":
                snapshot(prefix, iteration, cut=True)
                os.kill(os.getpid(), signal.SIGKILL)
        if iteration % 4 == 0:
            say(f"Iteration {iteration}, Testing net (#0)", place="solver.cpp:347")
            say(f"    Test net output #0: accuracy = {iteration / most:g}", place="solver.cpp:414")
            say("    Test net output #1: loss = 2.5 (* 1 = 2.5 loss)", place="solver.cpp:414")
        loss = "nan" if how == "nan" and iteration > most // 2 else f"{3 - iteration / most:g}"
        say(f"Iteration {iteration} (500 iter/s, 0.002s/1 iters), loss = {loss}")
        say(f"    Train net output #0: loss = {loss} (* 1 = {loss} loss)", place="solver.cpp:258")
        say(f"Iteration {iteration}, lr = 0.01", place="sgd_solver.cpp:112")
        if how == "wait":
            time.sleep(0.05)
        if (iteration + 1) % every == 0:
            snapshot(prefix, iteration + 1)
        if stop:
            snapshot(prefix, iteration + 1)
            say("Optimization stopped early.", place="solver.cpp:308")
            return
    if most % every:
        snapshot(prefix, most)
    say("Optimization Done.", place="caffe.cpp:250")


if __name__ == "__main__":
    main()
