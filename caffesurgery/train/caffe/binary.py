"""Where the user's Caffe is: named, in $CAFFE_BIN, or on the PATH."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ...errors import TrainError

VARIABLE = "CAFFE_BIN"
_NAMES = ("caffe", "caffe.bin")


def find_caffe(given=None) -> Path:
    """The binary; TrainError where there is none, or where the one named cannot be run."""
    named = given or os.environ.get(VARIABLE)
    if named:
        found = shutil.which(str(Path(named).expanduser()))
        if found is None:
            source = "" if given else f" (${VARIABLE})"
            raise TrainError(
                f"{named}{source}: no program that can be run; expected Caffe's own binary, often "
                "build/tools/caffe"
            )
        return Path(found).absolute()
    for name in _NAMES:
        found = shutil.which(name)
        if found:
            return Path(found).absolute()
    raise TrainError(
        "no Caffe here: there is no 'caffe' on the PATH; name the binary with --caffe or "
        f"${VARIABLE}"
    )
