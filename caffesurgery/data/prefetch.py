"""Makes values ahead of time in background threads and hands them over in order.

Decoding and arithmetic release Python's lock, so threads keep several processors busy while the
consumer computes.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Value = TypeVar("Value")

_MOST_THREADS = 16


def default_threads() -> int:
    """Threads that make batches where nobody says: one for each processor, up to 16."""
    usable = getattr(os, "sched_getaffinity", None)
    return min(len(usable(0)) if usable else os.cpu_count() or 1, _MOST_THREADS)


def in_order(
    make: Callable[[int], Value],
    start: int = 0,
    threads: int | None = None,
    stop: int | None = None,
) -> Iterator[Value]:
    """make(start), make(start + 1), ... before ``stop``; one more than ``threads`` are under way.

    With 0 threads each is made when it is asked for.  An error comes out in its turn.  Closing the
    iterator drops what nobody has begun and waits for the rest.
    """
    numbers = iter(itertools.count(start) if stop is None else range(start, stop))
    if threads == 0:
        yield from map(make, numbers)
        return
    count = threads or default_threads()
    pool = ThreadPoolExecutor(count, "caffesurgery-data")
    try:
        first = itertools.islice(numbers, count + 1)
        under_way = deque(pool.submit(make, number) for number in first)
        while under_way:
            value = under_way.popleft().result()
            under_way.extend(pool.submit(make, number) for number in itertools.islice(numbers, 1))
            yield value
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
