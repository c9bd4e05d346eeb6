"""Several processes that share every batch, started by torch's own launcher and joined by DDP.

Each process has the items rank, rank + of, ... of every batch, and a loss that is its share of the
whole; BatchNorm's statistics are those of all.  So the losses are those of one process with the
same batches, up to the order of sums.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from ...errors import SurgeryError, TrainError
from ...workers.threads import users_threads
from ..interrupts import interrupts
from ..job import Job, Outcome, Tick

_PATIENCE = timedelta(days=1)
"""How long processes wait for one that tests or reads."""


def together(net: torch.nn.Module) -> torch.nn.Module:
    """The net with gradients that are the mean over all processes."""
    if not any(value.requires_grad for value in net.values):
        return net
    return torch.nn.parallel.DistributedDataParallel(net, find_unused_parameters=net.has_idle_blobs)


def launch(job: Job, count: int, tick: Callable[[Tick], None] | None) -> Outcome:
    """Train a job by ``count`` processes; ticks and the outcome are those of the first.

    Ctrl-C goes on to all of them, which end with a snapshot.  What fails in one ends all.
    """
    # it says what it terminates, which here is no news
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    told = torch.multiprocessing.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="caffesurgery-") as place:
        workers = torch.multiprocessing.start_processes(
            _work, (job, count, place, told), count, join=False, start_method="spawn"
        )
        try:
            with interrupts(partial(_pass_on, workers.pids())):
                return _followed(workers, told, tick or (lambda _: None))
        finally:
            for process in workers.processes:
                process.terminate()
                process.join()


def _followed(workers, told, tick: Callable[[Tick], None]) -> Outcome:
    """Pass ticks on until there is an outcome; raises the first error that a process tells of."""
    died = None
    while True:
        while not told.empty():
            message = told.get()
            if isinstance(message, Outcome):
                return message
            if not isinstance(message, Tick):
                raise message
            tick(message)
        if died is not None:
            raise TrainError(f"a process of the training died: {died}")
        try:
            if workers.join(timeout=0.1):
                died = "it ended without a word"
        except (ProcessRaisedException, ProcessExitedException) as error:
            died = str(error).strip().splitlines()[-1]


def _work(rank: int, job: Job, count: int, place: str, told) -> None:
    """What one process does; the first tells its outcome, the others only that they failed."""
    from .loop import Loop
    from .session import Session

    os.setsid()  # so that Ctrl-C reaches only who passes it on
    if job.gpus:
        torch.cuda.set_device(job.gpus[rank])
    else:
        threads = users_threads() or torch.get_num_threads()
        torch.set_num_threads(max(1, threads // count))
    torch.distributed.init_process_group(
        "nccl" if job.gpus else "gloo",
        init_method=(Path(place) / "meeting").as_uri(),
        rank=rank,
        world_size=count,
        timeout=_PATIENCE,
    )
    try:
        outcome = Loop(Session(job, rank, count), told.put if rank == 0 else None).run()
    except SurgeryError as error:
        told.put(error)
        return
    if rank == 0 or outcome.ending == "failed":
        told.put(outcome)
    torch.distributed.barrier()


def _pass_on(pids) -> None:
    """Let Ctrl-C reach the training processes, however it was sent."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
