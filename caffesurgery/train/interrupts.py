"""Ctrl-C while something trains asks for a snapshot; the third time it ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

_PATIENCE = 2
"""Times that Ctrl-C asks before it insists."""


def stop_here() -> None:
    """Insist in this process."""
    raise KeyboardInterrupt


@contextmanager
def interrupts(
    ask: Callable[[], None],
    insist: Callable[[], None] = stop_here,
    also: Sequence[int] = (signal.SIGTERM,),
) -> Iterator[None]:
    """While the block runs, Ctrl-C and the signals in ``also`` call ``ask``, later ``insist``.

    Only the main thread of a process can be told.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = 0

    def handle(*_) -> None:
        nonlocal asked
        asked += 1
        (ask if asked <= _PATIENCE else insist)()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, *also)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
