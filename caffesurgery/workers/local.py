"""Worker processes on this machine behind the interface of ``concurrent.futures``.

Each of several threads keeps one Python process that imports no script of the user's, hands it one
call at a time and starts another process when one dies.  Processes begin when there is work.
"""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from ..errors import WorkerError
from .serve import receive, send
from .share import write_shared
from .threads import one_thread_environment

RETRIES = 2
"""How often a call is made again after the process that worked on it died."""

_START = """import sys
sys.path[:] = {path!r}
from caffesurgery.workers.serve import main
main()
"""


class LocalWorkers(Executor):
    """``jobs`` processes; with one job the calls are made in this process, one after the other."""

    def __init__(self, jobs: int):
        self.jobs = jobs
        self.ahead = 1 if jobs == 1 else 2 * jobs  # calls to keep submitted, so that none waits
        self._threads = ThreadPoolExecutor(jobs, "worker")
        self._local = threading.local()
        self._processes: list[_Process] = []
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, function: Callable, /, *arguments: Any) -> Future:
        """Call ``function``, which must be importable by its name, in one of the processes."""
        if self.jobs == 1:
            return _called(function, arguments)
        call = pickle.dumps((function, arguments), protocol=5)
        return self._threads.submit(self._call, call, function.__name__)

    @contextlib.contextmanager
    def share(self, value: Any) -> Iterator[Any]:
        """A stand-in for ``value`` among the arguments of ``submit``; it travels only once."""
        if self.jobs == 1:
            yield value
            return
        with tempfile.TemporaryDirectory(prefix="caffesurgery-") as folder:
            yield write_shared(value, folder)

    def pids(self) -> list[int]:
        """Process numbers of the workers that there are at the moment."""
        with self._lock:
            return [process.pid for process in self._processes if process.alive()]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers; with ``cancel_futures`` at once, else when all calls are done."""
        if cancel_futures:
            with self._lock:
                self._closed = True
                for process in self._processes:
                    process.end()
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)
        for process in self._processes:
            process.end()

    def _call(self, call: bytes, name: str) -> Any:
        """Runs in a thread: make one call in the thread's process, again where that dies."""
        for _ in range(RETRIES + 1):
            process = self._process()
            try:
                good, result = pickle.loads(process.call(call))
            except (EOFError, OSError):
                process.end()  # it may not be quite dead yet, and would be taken for alive
                continue
            if good:
                return result
            raise result
        raise WorkerError(
            f"{name}: {RETRIES + 1} worker processes died over it, one after the other; if memory "
            "ran out, give fewer --jobs"
        )

    def _process(self) -> _Process:
        """The process of this thread; a new one where there is none or it has died."""
        process = getattr(self._local, "process", None)
        if process is not None and process.alive():
            return process
        with self._lock:
            if self._closed:
                raise WorkerError("the workers were told to end")
            process = self._local.process = _Process()
            self._processes.append(process)
        return process


class _Process:
    """One Python process that answers calls."""

    def __init__(self):
        # a session of its own: Ctrl-C goes to who started it, which then ends it
        self._child = subprocess.Popen(
            [sys.executable, "-c", _START.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=one_thread_environment(),
            start_new_session=True,
        )
        self.pid = self._child.pid

    def call(self, call: bytes) -> bytes:
        """The answer to a call; EOFError or OSError where the process dies."""
        send(self._child.stdin, call)
        return receive(self._child.stdout)

    def alive(self) -> bool:
        return self._child.poll() is None

    def end(self) -> None:
        self._child.kill()
        self._child.wait()


def _called(function: Callable, arguments: tuple) -> Future:
    future: Future = Future()
    try:
        future.set_result(function(*arguments))
    except Exception as error:
        future.set_exception(error)
    return future
