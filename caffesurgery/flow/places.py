"""Where a flow keeps its nets: the user's own files at the start, then a folder for each step.

``steps/NAME/`` holds the prototxts and the caffemodel under the names that they came with, whole or
not at all; ``steps/NAME.work/`` is where a training writes while it runs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import api
from ..errors import DataError, FlowError
from ..files.atomic import staged_folder
from .course import START, Next
from .flow import Flow
from .steps import Step

STEPS = "steps"


@dataclass(frozen=True)
class Places:
    """The folders of one flow."""

    flow: Flow
    folder: Path

    def name(self, step: Step, now: Next) -> str:
        """Folder name of a step: its number, what it does, and the try, from the second on."""
        again = f"-try{now.attempt + 1}" if now.attempt else ""
        return f"{now.index:02d}-{step.kind}{again}"

    def steps(self, name: str) -> Path:
        """The folder of a step's net."""
        return self.folder / STEPS / name

    def work(self, name: str) -> Path:
        """The folder in which a training works."""
        return self.folder / STEPS / f"{name}.work"

    def nets(self, model: str) -> tuple[Path, ...]:
        """The prototxts of a net, that of the model first, then train_val if it is another."""
        if model == START:
            return tuple(Path(path) for path in self.flow.nets)
        return tuple(self.steps(model) / Path(path).name for path in self.flow.nets)

    def weights(self, model: str) -> Path:
        """The caffemodel of a net."""
        own = Path(self.flow.weights)
        return own if model == START else self.steps(model) / own.name

    def load(self, model: str) -> api.Model:
        """A net with its weights."""
        return api.load(self.nets(model)[0], self.weights(model), inputs=self._inputs() or None)

    def _inputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes of data that the nets do not describe: as given, or as the data have them.

        The data are those of the user's own train_val, as its paths do not hold for the others.
        """
        given = dict(self.flow.inputs)
        if self.flow.deploy:
            return given
        with contextlib.suppress(DataError):  # not here; what is missing will be named
            return {**api.data_shapes(self.flow.train_val), **given}
        return given

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other process work in the folder, which must be there, while the block runs.

        FlowError where one does.  The system lets go of the lock of a process that is killed.
        """
        try:
            import fcntl
        except ImportError:  # not on Windows
            yield
            return
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise FlowError(
                f"{self.folder}: another process is at work on this flow; wait for it, or end it"
            ) from None
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            os.close(handle)

    def keep_trained(self, name: str, before: str, weights: Path) -> None:
        """Make the folder of a trained net: the prototxts as before, and the new weights."""
        with staged_folder(self.fresh(name)) as stage:
            for path in self.nets(before):
                shutil.copyfile(path, stage / path.name)
            shutil.copyfile(weights, stage / Path(self.flow.weights).name)

    def fresh(self, name: str) -> Path:
        """The folder of a step that is yet to be made, without what a crash has left there."""
        shutil.rmtree(self.steps(name), ignore_errors=True)
        return self.steps(name)

    def deliver(self, model: str, texts: dict[str, bytes]) -> None:
        """Copy a net to the output folder, with other files by name."""
        with staged_folder(self.folder, force=True) as stage:
            for path in (*self.nets(model), self.weights(model)):
                shutil.copyfile(path, stage / path.name)
            for name, data in texts.items():
                (stage / name).write_bytes(data)

    def tidy(self, needed: set[str]) -> None:
        """Remove what no step can need any more: nets, work folders, and rests of a crash.

        Where the flow says keep_steps, only the rests go.
        """
        for rest in (*self.folder.glob(".*"), *(self.folder / STEPS).glob(".*")):
            _remove(rest)
        steps = self.folder / STEPS
        if self.flow.keep_steps or not steps.is_dir():
            return
        for path in steps.iterdir():
            if path.name not in needed:
                _remove(path)
        if not any(steps.iterdir()):
            steps.rmdir()

    def names(self) -> list[str]:
        """The names under which the outcome is written; FlowError where two would be one."""
        names = [Path(path).name for path in (*self.flow.nets, self.flow.weights)]
        for name in names:
            if names.count(name) > 1 or name in ("plan.prototxt", "report.json", "journal.json"):
                raise FlowError(
                    f"{self.flow.path or 'the flow'}: {name} is the name of more than one file "
                    "that is written; rename one of them"
                )
        return names


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
