"""Runs many independent pieces of work at once: in local processes, or on a Dask cluster.

``open_workers`` gives a ``concurrent.futures`` executor, and ``run_all`` the results of a function
over items in their order, the same whoever computes them.  A worker that dies costs a retry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, wait
from contextlib import contextmanager
from typing import Any

from .count import processors
from .local import LocalWorkers

__all__ = ["open_workers", "processors", "run_all"]

Progress = Callable[[str, float], None]
"""Called with what was done last and the share of all that is done."""


@contextmanager
def open_workers(jobs: int | None = None, dask: str | None = None) -> Iterator[Executor]:
    """An executor with ``submit`` and ``share``, which ends its workers when the block ends.

    jobs: local processes, by default one for each processor; with 1, this process does the work
    dask: address of a Dask scheduler (tcp://host:8786), which then does everything instead
    Raises UsageError where Dask is not installed, and WorkerError where it cannot be reached.
    """
    if dask is None:
        workers: Any = LocalWorkers(jobs or processors())
    else:
        from .cluster import ClusterWorkers

        workers = ClusterWorkers(dask)
    try:
        yield workers
    finally:
        workers.shutdown(wait=True, cancel_futures=True)


def run_all(
    workers,
    function: Callable[[Any, Any], Any],
    shared: Any,
    items: Sequence,
    done: Callable[[int, Any], None] | None = None,
    progress: Progress | None = None,
) -> list:
    """``function(shared, item)`` for every item, the results in the order of the items.

    ``function`` must be importable by its name, ``shared`` travels to each worker once, and
    ``done(index, result)`` is called here as soon as each result is there.  The first error of a
    function is raised, and what has not begun by then does not begin.
    """
    results: dict[int, Any] = {}
    waiting: dict[Any, int] = {}
    with workers.share(shared) as handle:
        try:
            for index, item in enumerate(items):
                waiting[workers.submit(function, handle, item)] = index
                last = index + 1 == len(items)
                while waiting and (last or len(waiting) >= workers.ahead):
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        at = waiting.pop(future)
                        results[at] = future.result()
                        if done:
                            done(at, results[at])
                        if progress:
                            share = len(results) / len(items)
                            progress(f"{len(results)} of {len(items)}", share)
        finally:
            for future in waiting:
                future.cancel()
    return [results[index] for index in range(len(items))]
