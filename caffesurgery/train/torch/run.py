"""Runs a job in this process, or in several that share every batch."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...errors import TrainError
from ...workers.threads import users_threads
from ..job import Job, Outcome, Tick
from . import distributed
from .loop import Loop
from .session import Session, device_of


def run(job: Job, tick: Callable[[Tick], None] | None = None) -> Outcome:
    """Train; one process for each GPU, or ``job.processes`` on processors."""
    if job.processes > 1 and job.gpus and job.processes != len(job.gpus):
        raise TrainError(
            f"{job.processes} processes for {len(job.gpus)} GPU(s); each GPU takes one: leave "
            "--processes out"
        )
    device_of(job, 0)
    threads = users_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    count = max(job.processes, len(job.gpus))
    if count > 1:
        return distributed.launch(job, count, tick)
    return Loop(Session(job), tick).run()
