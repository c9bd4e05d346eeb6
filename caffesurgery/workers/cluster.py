"""A Dask cluster behind the interface of ``concurrent.futures``: the only importer of Dask.

Arrays travel with the shared value, so its workers need caffesurgery and no file of the user's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

from .. import __version__
from ..errors import UsageError, WorkerError
from .local import RETRIES

_PATIENCE = 10
"""Seconds to wait for a scheduler to answer, and for a first worker to join it."""


class ClusterWorkers(Executor):
    """The workers of the Dask cluster whose scheduler is at ``address``."""

    def __init__(self, address: str):
        self._client = _connect(address)
        try:
            self.ahead = 4 * _check_workers(self._client, address)
        except BaseException:
            self._client.close()
            raise
        self._executor = self._client.get_executor(pure=False, retries=RETRIES)

    def submit(self, function: Callable, /, *arguments: Any) -> Future:
        """Call ``function``, which must be importable by its name, on the cluster."""
        return self._executor.submit(_told, function, *arguments)

    @contextlib.contextmanager
    def share(self, value: Any) -> Iterator[Any]:
        """A stand-in for ``value`` among the arguments of ``submit``; it travels only once."""
        yield self._client.scatter([value], broadcast=True, hash=False)[0]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let go of the cluster, which goes on; with ``cancel_futures`` drop what has not begun."""
        self._executor.shutdown(wait=wait and not cancel_futures)  # without waiting it cancels
        self._client.close()


def _told(function: Callable, *arguments: Any) -> Any:
    return function(*arguments)


def _connect(address: str):
    try:
        from distributed import Client
    except ImportError:
        raise UsageError(
            f"--dask {address}: Dask is not installed; `pip install 'caffesurgery[dask]'`, or "
            "leave --dask out to work in local processes"
        ) from None
    try:
        return Client(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WorkerError(
            f"--dask {address}: no Dask scheduler can be reached there ({reason}); expected the "
            "address that `dask scheduler` prints, for example tcp://host:8786"
        ) from None


def _check_workers(client, address: str) -> int:
    """How many calls the cluster takes at once.

    Every worker must have this version, or results would depend on who computes them.
    """
    try:
        client.wait_for_workers(1, timeout=_PATIENCE)
    except TimeoutError:
        raise WorkerError(
            f"--dask {address}: the scheduler has no worker; start some with `dask worker "
            f"{address}`"
        ) from None
    try:
        versions = client.run(_version)
    except ImportError as error:
        raise WorkerError(
            f"--dask {address}: a worker cannot import caffesurgery ({error}); install it there"
        ) from None
    for worker, version in versions.items():
        if version != __version__:
            raise WorkerError(
                f"--dask {address}: the worker {worker} has caffesurgery {version}, and here it is "
                f"{__version__}; install the same version there"
            )
    return max(1, sum(client.nthreads().values()))


def _version() -> str:
    return __version__
