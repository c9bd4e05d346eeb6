"""Finds what a data layer names: files and folders, as Caffe does, or beside the prototxt."""

from __future__ import annotations

from pathlib import Path

from ..errors import DataError


def find(named: str, folder: Path | None, where: str, what: str) -> Path:
    """The path that ``named`` means; DataError that begins with ``where`` and lists what was tried.

    Caffe takes names from the folder that it is run in; nets are often run from another one, so
    the folder of the prototxt and the last part of the name in it are tried too.
    """
    if not named:
        raise DataError(f"{where}: names no {what}; say where the data are")
    path = Path(named)
    tried = [path]
    if folder is not None and not path.is_absolute():
        tried.append(folder / path)
    if folder is not None and len(path.parts) > 1:
        tried.append(folder / path.name)
    for candidate in tried:
        if candidate.exists():
            return candidate
    names = ", ".join(dict.fromkeys(str(candidate.absolute()) for candidate in tried))
    raise DataError(
        f'{where}: {what} "{named}" is not there (tried {names}); put the data there, change '
        "the prototxt, or give other data"
    )
