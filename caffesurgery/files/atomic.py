"""Writes a file, or a folder of files, whole or not at all: beside its target, then renamed.

A full disk, Ctrl-C or a crash leaves the target as it was and no partial file behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import FileError


def refuse_existing(paths, force: bool) -> None:
    """Raise FileError when any of ``paths`` exists and ``force`` is not given."""
    there = [str(path) for path in paths if Path(path).exists()]
    if there and not force:
        raise FileError(
            f"{', '.join(there)}: already there, and nothing is overwritten unasked; "
            "choose another place or say --force"
        )


@contextlib.contextmanager
def writing(path: str | os.PathLike, force: bool = False) -> Iterator[BinaryIO]:
    """A binary stream whose content becomes ``path`` when the block ends without an error."""
    target = Path(path)
    refuse_existing([target], force)
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "wb") as stream:
            yield stream
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise _not_written(target, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


@contextlib.contextmanager
def staged_folder(
    folder: str | os.PathLike, names: Iterable[str] = (), force: bool = False
) -> Iterator[Path]:
    """A temporary folder whose files move into ``folder`` when the block ends without an error.

    ``names`` are the files that will come, so that one that is there is refused before the work.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise FileError(f"{target}: is a file; expected a folder to write to, choose another -o")
    refuse_existing([target / name for name in names], force)
    stage = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name or 'out'}.", dir=target.parent))
        yield stage
        made = sorted(stage.iterdir())
        refuse_existing([target / path.name for path in made], force)
        target.mkdir(exist_ok=True)
        for path in made:
            os.replace(path, target / path.name)
    except OSError as error:
        raise _not_written(target, error) from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)


def _not_written(target: Path, error: OSError) -> FileError:
    return FileError(
        f"{target}: cannot be written ({error.strerror or error}); "
        "nothing was left there. Free some space or choose another place with -o"
    )


def write_bytes(path: str | os.PathLike, data: bytes, force: bool = False) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with writing(path, force) as stream:
        stream.write(data)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
