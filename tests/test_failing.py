"""Every failure that a user can cause: one message, nothing left, and nothing overwritten.

The cases are data: ``data/failing/TOPIC.json`` gives for each the files that it needs beside those
of the tiny net, the command, the exit status, and what the message must say.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nets import write_net
from tiny import CP, D, W, _tiny_net, run, tiny, tree  # noqa: F401

from caffesurgery import zoo
from caffesurgery.files import caffemodel

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(__file__).parent / "data" / "failing"
OTHERS = json.loads((FOLDER / "others" / "system.json").read_text(encoding="utf-8"))
CASES = {
    case["name"]: case
    for path in sorted(FOLDER.glob("*.json"))
    for case in json.loads(path.read_text(encoding="utf-8"))
}


def make(path: Path, content) -> None:
    """Make one file of a case: a text, a folder (null), or what an object says."""
    path.parent.mkdir(exist_ok=True)
    if content is None:
        path.mkdir()
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif "weights for" in content:
        write_weights(path, content["weights for"], content.get("nan in"))
    elif "of" in content:
        path.write_bytes(damaged(Path(content["of"]).read_bytes(), content))
    else:
        np.save(path, np.full(content["shape"], content.get("all", 0.0)))


def damaged(data: bytes, how: dict) -> bytes:
    """A file's bytes, cut off, overwritten with zeros, or with words replaced; else as they are."""
    if "bytes" in how:
        assert how["bytes"] < len(data)
        return data[: how["bytes"]]
    if "zeros" in how:
        start, end = how["zeros"]
        return data[:start] + bytes(end - start) + data[end:]
    words = iter(how.get("replace", ()))
    for old, new in zip(words, words):
        assert old.encode() in data
        data = data.replace(old.encode(), new.encode())
    return data


def write_weights(path: Path, net: str, spoiled: str | None) -> None:
    """Seeded weights for a prototxt, with a NaN in the layer ``spoiled``."""
    made = write_net(path.parent / "made", Path(net).read_bytes())[1]
    model = caffemodel.read(made)
    layers = []
    for layer in model.layers:
        blobs = [np.array(blob.array()) for blob in layer.blobs]
        if layer.name == spoiled:
            blobs[0].flat[3] = np.nan
        layers.append(caffemodel.NewLayer(layer.name, layer.type, (), (), blobs))
    caffemodel.write(path, "net", layers, force=True)
    for rest in made.parent.iterdir():
        rest.unlink()
    made.parent.rmdir()


def refused(code: int, err: str, case: dict) -> None:
    """It ended as the case says: with its status and with one message that holds its words."""
    assert code == case["code"], err
    assert "Traceback" not in err and err.count("caffesurgery: ") == 1, err
    assert err.startswith("caffesurgery: ") and err.endswith("\n"), err
    for words in case["says"]:
        assert words in err


@pytest.mark.parametrize("name", CASES)
def test_failure_is_one_message_and_leaves_nothing(name, tiny):  # noqa: F811
    case = CASES[name]
    for path, content in case.get("files", {}).items():
        make(tiny / path, content)
    before = tree(tiny)
    done = run(*shlex.split(case["run"]))
    refused(done.code, done.err, case)
    assert done.out == ""
    assert tree(tiny) == before


def process(*arguments, **options) -> subprocess.Popen:
    """The command line in a process of its own, which tells its progress at once.

    Its temporary files go to the folder ``temporary``.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OPENBLAS_NUM_THREADS": "1",
        "TMPDIR": os.path.abspath("temporary"),
    }
    chatty = "from caffesurgery.cli import console, main; console.QUIET_SECONDS = 0; main()"
    command = [sys.executable, "-c", chatty, *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen(command, env=environment, **options)


def interruptible() -> None:
    """Ctrl-C reaches the process, even where the tests run in the background of a shell."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def small_files_only() -> None:
    """No file larger than 8 kB, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("full disk", ("compress", D, W, *CP, "-o", "deep/out")),
        ("full disk", ("apply", D, W, "edited.prototxt", "-o", "deep/out")),
        ("full disk while ONNX is written", ("export", D, W, "-o", "net.onnx")),
        ("full disk while nets run", ("compare", D, W, D, W)),
        ("full disk", ("zoo", "write", "lenet", "-o", "deep/out")),
    ],
)
def test_a_full_disk_leaves_nothing(name, arguments, tiny):  # noqa: F811
    os.makedirs("temporary")
    before = tree(tiny)
    done = process(*arguments, preexec_fn=small_files_only)
    out, err = done.communicate(timeout=60)
    said = "".join(line for line in err.splitlines(True) if "%" not in line)
    refused(done.returncode, said, OTHERS[name])
    assert out == "" and tree(tiny) == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [("inspect", D), ("inspect", D, "--format", "json")])
def test_a_result_that_cannot_be_printed(arguments, tiny):  # noqa: F811
    with open("/dev/full", "w") as full:
        done = process(*arguments, stdout=full)
        err = done.communicate(timeout=60)[1]
    refused(done.returncode, err, OTHERS["standard output on a full disk"])


def test_a_folder_that_may_not_be_written(tiny):  # noqa: F811
    forbidden = Path("/sys/caffesurgery-out")  # even root may not
    if os.geteuid():
        os.mkdir("locked", 0o555)
        forbidden = tiny / "locked" / "out"
    elif not forbidden.parent.is_dir():
        pytest.skip("needs a folder that root may not write")
    before = tree(tiny)
    for place in (forbidden, forbidden / "er"):
        done = run("compress", D, W, *CP, "-o", place)
        refused(done.code, done.err, OTHERS["unwritable folder"])
    assert tree(tiny) == before


def test_running_out_of_memory(tiny, monkeypatch):  # noqa: F811
    def too_much(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("caffesurgery.files.caffemodel.rewrite", too_much)
    before = tree(tiny)
    done = run("compress", D, W, *CP, "-o", "deep/out")
    refused(done.code, done.err, OTHERS["out of memory"])
    assert tree(tiny) == before


@pytest.fixture(name="medium", scope="module")
def _medium(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    zoo.write("squeezenet", folder)
    return folder


@pytest.mark.parametrize(
    "stage, stop",
    [
        ("decompose", signal.SIGINT),
        ("export", signal.SIGINT),
        ("compare", signal.SIGINT),
        ("decompose", signal.SIGTERM),
    ],
)
def test_an_interrupted_run_leaves_nothing(stage, stop, medium, tiny):  # noqa: F811
    os.makedirs("temporary")
    before = tree(tiny)
    net = (medium / "deploy.prototxt", medium / "squeezenet.caffemodel")
    work = process("compress", *net, *CP, "-o", "deep/out", preexec_fn=interruptible)
    while stage not in (line := work.stderr.readline()):
        assert line and work.poll() is None
    work.send_signal(stop)
    out, err = work.communicate(timeout=60)
    said = "".join(line for line in err.splitlines(True) if "%" not in line).lstrip("\n")
    refused(work.returncode, said, OTHERS["interrupted"])
    assert out == "" and tree(tiny) == before
