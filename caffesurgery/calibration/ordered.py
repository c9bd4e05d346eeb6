"""Runs batches side by side in threads, while what they add up is added in their order.

So sums of floating-point numbers come out the same however many threads there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition

from ..workers import processors


class Stopped(Exception):
    """Raised in a thread whose work nobody waits for any more."""


class Turns:
    """Lets batch k pass a place only after batch k - 1 has left it behind."""

    def __init__(self):
        self._passed: dict[int, int] = {}
        self._moved = Condition()
        self._stopped = False

    @contextmanager
    def take(self, batch: int, place: int) -> Iterator[None]:
        """The block at ``place`` of a batch; a batch comes to its places in ascending order, and
        may come to one several times."""
        with self._moved:
            self._passed[batch] = max(place - 1, self._passed.get(batch, -1))
            self._moved.notify_all()
            self._moved.wait_for(lambda: self._stopped or self._free(batch, place))
            if self._stopped:
                raise Stopped
        yield

    def _free(self, batch: int, place: int) -> bool:
        return batch == 0 or self._passed.get(batch - 1, -1) >= place

    def finish(self, batch: int) -> None:
        """The batch has left all places behind."""
        self._set(batch, 1 << 60)

    def stop(self) -> None:
        """Let nobody wait any longer."""
        with self._moved:
            self._stopped = True
            self._moved.notify_all()

    def _set(self, batch: int, place: int) -> None:
        with self._moved:
            self._passed[batch] = place
            self._passed.pop(batch - 2, None)
            self._moved.notify_all()


def in_turn(
    work: Callable[[int, Turns], None],
    batches: int,
    jobs: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """``work(batch, turns)`` for every batch, ``jobs`` at a time, by default one a processor.

    ``progress`` is called with the number done.  The first error ends it all.
    """
    turns = Turns()

    def one(batch: int) -> None:
        work(batch, turns)
        turns.finish(batch)

    with ThreadPoolExecutor(jobs or processors()) as pool:
        try:
            for done, _ in enumerate(pool.map(one, range(batches)), 1):
                if progress:
                    progress(done)
        except BaseException:
            turns.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def all_done(work: Callable, items, jobs: int | None = None) -> Iterator:
    """``work(item)`` of every item, the results in their order, ``jobs`` at a time."""
    with ThreadPoolExecutor(jobs or processors()) as pool:
        try:
            yield from pool.map(work, items)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
