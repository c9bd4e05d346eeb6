"""The journal of a flow: what it was begun from, its plan, and a record of every step that is done.

One JSON file in the output folder, replaced as a whole after each step, so that a process that is
killed at any moment leaves either the old one or the new one.  A step counts once it is written
here; whatever else lies in the folder is made again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .. import __version__
from ..errors import FlowError
from ..files.atomic import write_bytes
from ..report import encode_json
from ..surgery.made import sha256
from .course import Record
from .flow import Flow

NAME = "journal.json"
VERSION = 1
_FREE = ("output", "keep_steps")
"""What may be said otherwise when a flow goes on."""


@dataclass(frozen=True)
class Journal:
    """What is known of a flow that was begun.

    said: the flow's own content; files: SHA-256 of each file that it names, by what it is
    plan: the text of the plan, "" before there is one; fitness: of its layers, where asked for
    """

    said: Mapping
    files: Mapping[str, str]
    plan: str = ""
    fitness: Mapping[str, float] | None = None
    records: tuple[Record, ...] = ()

    def with_record(self, record: Record) -> Journal:
        """The journal with one more step."""
        return replace(self, records=(*self.records, record))


def begin(flow: Flow) -> Journal:
    """The journal of a flow of which nothing is done yet; reads every file that it names."""
    return Journal(json.loads(flow.said), digests(flow))


def digests(flow: Flow) -> dict[str, str]:
    """SHA-256 of the files that a flow names; folders (LMDB, images) are not read."""
    return {name: sha256(path) for name, path in flow.files().items() if Path(path).is_file()}


def write(journal: Journal, folder) -> None:
    """Replace the journal in ``folder``."""
    content = {"version": VERSION, "writer": f"caffesurgery {__version__}", **asdict(journal)}
    write_bytes(Path(folder) / NAME, encode_json(content), force=True)


def read(folder) -> Journal | None:
    """The journal in a folder; None where there is none, FlowError where it cannot be read."""
    path = Path(folder) / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if content.get("version") != VERSION:
        raise _unreadable(path, f"version {content.get('version')}, expected {VERSION}")
    try:
        records = tuple(
            Record(**{**record, "layers": tuple(record["layers"])}) for record in content["records"]
        )
        return Journal(*(content[key] for key in ("said", "files", "plan", "fitness")), records)
    except (KeyError, TypeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, why) -> FlowError:
    return FlowError(
        f"{path}: cannot be read as the journal of a flow ({why}); begin anew in another folder"
    )


def check_same(journal: Journal, flow: Flow, folder) -> None:
    """FlowError, naming what is different, where a flow is not the one that was begun."""
    now = json.loads(flow.said)
    names = [name for name in {**journal.said, **now} if name not in _FREE]
    fields = [name for name in names if journal.said.get(name) != now.get(name)]
    found = digests(flow)
    files = {**journal.files, **found}
    files = [name for name in files if journal.files.get(name) != found.get(name)]
    if not fields and not files:
        return
    paths = flow.files()
    changed = [f"field {name}" for name in fields]
    changed += [f"{name} ({paths.get(name, 'not named any more')})" for name in files]
    raise FlowError(
        f"{flow.path or 'the flow'}: not the flow that {Path(folder) / NAME} was begun with; "
        f"changed since: {', '.join(changed)}; put that back to go on, or begin anew in another "
        "folder with -o"
    )
