"""Carries out a flow in processes that are killed at random moments; run by ``test_flow_killed``.

    python killing.py FLOW SEED KILLS RUNS

Everything is imported before the first process is forked, so that each begins its work at once.
Prints the names of the output folders: of the flow left alone first, then of those killed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback

import onnxruntime  # noqa: F401  what the flow will need
import torch

import caffesurgery.train.torch.run  # noqa: F401
from caffesurgery.errors import SurgeryError
from caffesurgery.flow import journal
from caffesurgery.flow.read import read_flow
from caffesurgery.flow.run import finetune


def life(flow: str, folder: str) -> int:
    """A process that carries out the flow, or goes on with it if it was begun."""
    process = os.fork()
    if process:
        return process
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        finetune(read_flow(flow), folder, resume=journal.read(folder) is not None)
        os._exit(0)
    except (SurgeryError, KeyboardInterrupt) as error:  # the latter while the flow is read
        print(error, flush=True)
    except BaseException:
        traceback.print_exc()
        os._exit(2)
    os._exit(1)


def ended(process: int) -> int:
    """How a process ended: its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main() -> None:
    """The flow left alone, then ``RUNS`` times with ``KILLS`` kills and an interruption each."""
    flow, seed, kills, runs = sys.argv[1], *map(int, sys.argv[2:])
    started = time.monotonic()
    assert ended(life(flow, "whole")) == 0
    whole = time.monotonic() - started
    moments = random.Random(seed)
    for run in range(runs):
        for index in range(kills + 1):
            process = life(flow, f"killed{run}")
            time.sleep(moments.uniform(0.02, 0.25) * whole)
            os.kill(process, signal.SIGKILL if index else signal.SIGINT)
            assert ended(process) in (0, 1, -signal.SIGKILL)
        assert ended(life(flow, f"killed{run}")) == 0
    print("ended well")


if __name__ == "__main__":
    main()
