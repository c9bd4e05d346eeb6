"""Writes a file, or a folder of files, whole or not at all: beside its target, then renamed.

A full disk, Ctrl-C or a crash leaves the target as it was and no partial file behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import FileError, SurgeryError

_ELSEWHERE = "choose another place with -o"
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), f"free some space or {_ELSEWHERE}"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        f"you may not write there: change its permissions or {_ELSEWHERE}",
    ),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EEXIST), f"a part of this path is a file, not a folder: {_ELSEWHERE}"
    ),
}


def refuse_existing(paths: Iterable, force: bool) -> None:
    """Raise FileError when any of ``paths`` exists and ``force`` is not given, or is a folder."""
    paths = [Path(path) for path in paths]
    for path in paths:
        if path.is_dir():
            raise FileError(f"{path}: is a folder; expected the name of a file to write")
    there = [str(path) for path in paths if path.exists()]
    if there and not force:
        raise FileError(
            f"{', '.join(there)}: already there, and nothing is overwritten unasked; "
            "choose another place or say --force"
        )


def refuse_folder(folder: str | os.PathLike, names: Iterable[str], force: bool) -> None:
    """Raise FileError when the files ``names`` cannot come into ``folder``, before any work."""
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise FileError(f"{target}: is a file; expected a folder to write to, {_ELSEWHERE}")
    refuse_existing([target / name for name in names], force)


@contextlib.contextmanager
def writing(path: str | os.PathLike, force: bool = False) -> Iterator[BinaryIO]:
    """A binary stream whose content becomes ``path`` when the block ends without an error."""
    target = Path(path)
    refuse_existing([target], force)
    with contextlib.ExitStack() as undo:
        try:
            _make_parents(target, undo)
            handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            undo.callback(Path(temporary).unlink, missing_ok=True)
            with os.fdopen(handle, "wb") as stream:
                yield stream
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, target)
        except OSError as error:
            raise _not_written(target, error) from error


@contextlib.contextmanager
def staged_folder(
    folder: str | os.PathLike, names: Iterable[str] = (), force: bool = False
) -> Iterator[Path]:
    """A temporary folder whose files move into ``folder`` when the block ends without an error.

    ``names`` are the files that will come, so that one that is there is refused before the work.
    """
    target = Path(folder)
    refuse_folder(target, names, force)
    with contextlib.ExitStack() as undo:
        try:
            _make_parents(target, undo)
            # inside a folder that is there: it may be a mount, and its parent read-only
            place = target if target.is_dir() else target.parent
            stage = Path(tempfile.mkdtemp(prefix=f".{target.name or 'out'}.", dir=place))
            undo.callback(shutil.rmtree, stage, ignore_errors=True)
            try:
                yield stage
            except SurgeryError as error:  # the user knows no stage
                error.args = (str(error).replace(str(stage), str(target)),)
                raise
            _move(stage, target, force)
        except OSError as error:
            raise _not_written(target, error) from error


def _make_parents(target: Path, undo: contextlib.ExitStack) -> None:
    """Make the folders that lead to ``target``; those that stay empty go again at the end."""
    for parent in reversed(target.parents):
        if not parent.exists():
            undo.callback(_remove_empty, parent)
            parent.mkdir(exist_ok=True)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _move(stage: Path, target: Path, force: bool) -> None:
    """The files of ``stage`` into ``target``: all at once where there is no such folder yet."""
    if not target.exists():
        stage.chmod(0o777 & ~_umask())
        stage.rename(target)
        return
    made = sorted(stage.iterdir())
    refuse_existing([target / path.name for path in made], force)
    for path in made:
        os.replace(path, target / path.name)


def _not_written(target: Path, error: OSError) -> FileError:
    advice = _ADVICE.get(error.errno, _ELSEWHERE)
    return FileError(
        f"{target}: cannot be written ({error.strerror or error}); nothing was left there; {advice}"
    )


def write_bytes(path: str | os.PathLike, data: bytes, force: bool = False) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with writing(path, force) as stream:
        stream.write(data)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
