"""How ``caffe train`` ended, in plain words: what its last lines mean, and what to do."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from .log import Log

_CRASHES = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGSYS", "SIGTRAP")
_LONGEST = 500
"""Characters of Caffe's own words that are passed on."""

_MEANINGS = (
    (
        r"out of memory|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED|bad_alloc",
        "there is too little memory for this batch: lower batch_size in the net, and raise "
        "iter_size in the solver by as much",
    ),
    (
        r"Cannot copy param \d+ weights from layer '(?P<layer>[^']+)'",
        "layer '{layer}' has another shape in the weights than in the net: these weights belong to "
        "another net",
    ),
    (
        r"Incompatible number of blobs for layer (?P<layer>\S+)",
        "layer '{layer}' has more or fewer blobs in the weights than in the net: these weights "
        "belong to another net",
    ),
    (
        r"Incorrect length of history blobs",
        "the .solverstate belongs to another net or another type of solver: begin from weights "
        "instead",
    ),
    (r"Unknown layer type: (?P<layer>\w+)", "this Caffe has no layer type '{layer}'"),
    (r"Unknown (?:solver|learning rate)", "this Caffe knows no such solver type or lr_policy"),
    (
        r"no field named \"(?P<field>\w+)\"",
        "this Caffe does not know the field '{field}' of the prototxt; it may be an older one, or "
        "lack a fork's layers",
    ),
    (
        r"Cannot use GPU in CPU-only|Multi-GPU execution not available",
        "this Caffe was built without what the solver or --gpu asks for: write solver_mode: CPU, "
        "or name one GPU, or another binary with --caffe",
    ),
    (
        r"CUDA driver version|no CUDA-capable device|invalid device ordinal|error == cudaSuccess",
        "the GPU cannot be used: see what nvidia-smi says, or write solver_mode: CPU",
    ),
    (
        r"SerializeToOstream|No space left|ENOSPC",
        "the snapshot could not be written, most likely because the disk is full: free some space "
        "or choose another folder with -o, and go on with --resume",
    ),
    (
        r"Cannot write to snapshot prefix",
        "the folder cannot be written to: choose another with -o",
    ),
    (
        r"mdb_status|[Ff]ailed to open (?:leveldb|lmdb|HDF5)|Could not (?:open|load|find)|"
        r"[Ff]ailed to open|File not found",
        "data that the net names are not there or cannot be opened",
    ),
    (
        r"Check failed: .*(?:num_axes|shape|count\(\)|channels\(\))",
        "the shapes in the net and in its data do not go together",
    ),
    (r"cannot open shared object", "the binary lacks a library that it was built with"),
)


def meaning(words: str) -> str:
    """What Caffe's own words say, and what to do; '' where that is not known here."""
    for pattern, plain in _MEANINGS:
        if found := re.search(pattern, words):
            return plain.format(**found.groupdict())
    return ""


def ending(code: int, log: Log) -> tuple[str, str]:
    """One of ``ENDINGS``, and a sentence for the user, from the exit status and the log."""
    if log.diverged:
        return "diverged", (
            f"the loss is {log.loss} at iteration {log.iteration}: try a base_lr ten times "
            "smaller, or clip_gradients (10, say) in the solver"
        )
    if log.fatal:
        return "failed", _explained(" ".join(log.fatal), log.words)
    if log.stopped:
        return "interrupted", "stopped as asked"
    if code == 0 and log.done:
        return "done", ""
    number = -code if code < 0 else code - 128 if 128 < code < 160 else 0
    if number:
        return _by_signal(number, log)
    status = f"Caffe ended with status {code}" if code else "Caffe ended without saying so"
    last = " / ".join(list(log.words)[-3:])
    return "failed", _explained(f"{status}: {last}", log.words)


def _explained(words: str, all_words: Sequence[str]) -> str:
    """Caffe's own words after what they mean, with what protobuf said of a text before them."""
    parsing = [line for line in all_words if "libprotobuf ERROR" in line]
    if parsing:
        words = f"{parsing[-1].split('] ', 1)[-1]} / {words}"
    plain = meaning(words)
    short = words if len(words) <= _LONGEST else words[: _LONGEST - 3] + "..."
    return f"{plain} (Caffe says: {short})" if plain else f"Caffe says: {short}"


def _by_signal(number: int, log: Log) -> tuple[str, str]:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if name == "SIGINT":
        return "interrupted", "stopped before training began"
    if name == "SIGXFSZ":
        return "failed", "a snapshot became larger than files may be here; see `ulimit -f`"
    if name in _CRASHES:
        last = log.words[-1] if log.words else ""
        return "failed", _explained(f"it crashed ({name}): {last}", ())
    advice = "the system kills the largest program when memory runs out; lower batch_size"
    return "killed", (
        f"Caffe was killed ({name}) after {log.iteration} iterations"
        + (f": {advice} if nobody else did it" if name == "SIGKILL" else "")
    )
