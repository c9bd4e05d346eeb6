"""What runs in a local worker process: calls come in on stdin, results go out on stdout.

The process ends when its stdin does, whatever it is doing: no worker outlives who started it.
"""

from __future__ import annotations

import os
import pickle
import queue
import struct
import sys
import threading
from typing import Any, BinaryIO

from ..errors import WorkerError
from .share import SharedFile

_LENGTH = struct.Struct("<Q")


def send(stream: BinaryIO, payload: bytes) -> None:
    """Write one message."""
    stream.write(_LENGTH.pack(len(payload)))
    stream.write(payload)
    stream.flush()


def receive(stream: BinaryIO) -> bytes:
    """Read one message; EOFError where the other side is gone."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (size,) = _LENGTH.unpack(head)
    payload = stream.read(size)
    if len(payload) < size:
        raise EOFError
    return payload


def main() -> None:
    """Answer calls until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    calls: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_listen, args=(calls,), daemon=True).start()
    while True:
        send(answers, _answer(calls.get()))


def _listen(calls: queue.Queue) -> None:
    """Queue the calls; end the whole process, also in the midst of one, when no more can come."""
    while True:
        try:
            calls.put(receive(sys.stdin.buffer))
        except EOFError:
            os._exit(0)


def _answer(call: bytes) -> bytes:
    """(Whether it went well, the result or the error) of one call, pickled."""
    try:
        function, arguments = pickle.loads(call)
        return pickle.dumps((True, function(*map(_resolve, arguments))), protocol=5)
    except Exception as error:
        return _failure(error)


def _failure(error: Exception) -> bytes:
    """An error as it is where it can travel, else its words."""
    try:
        payload = pickle.dumps((False, error), protocol=5)
        pickle.loads(payload)
    except Exception:
        told = WorkerError(f"a worker failed: {type(error).__name__}: {error}")
        payload = pickle.dumps((False, told), protocol=5)
    return payload


def _resolve(argument: Any) -> Any:
    return argument.load() if isinstance(argument, SharedFile) else argument
