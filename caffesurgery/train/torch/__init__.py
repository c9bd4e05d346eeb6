"""The trainer that needs no Caffe: the same prototxt and solver, trained by torch.

Nothing of torch is imported before something is asked of the trainer.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from ...errors import TrainError
from ..job import Job, Outcome, Tick


class TorchTrainer:
    """Trains with torch on processors or GPUs, following Caffe's own arithmetic."""

    name = "torch"

    def available(self) -> str | None:
        """Why it cannot train here, as a sentence; None where it can."""
        if find_spec("torch") is None:
            return 'torch is not installed: pip install "caffesurgery[torch]"'
        return None

    def train(self, job: Job, tick: Callable[[Tick], None] | None = None) -> Outcome:
        """Train until the end, whichever it is; see ``Trainer.train``."""
        reason = self.available()
        if reason is not None:
            raise TrainError(reason)
        from .run import run

        return run(job, tick)


def trainer(**options) -> TorchTrainer:
    """The trainer; options are those of other trainers and mean nothing to it."""
    return TorchTrainer()
