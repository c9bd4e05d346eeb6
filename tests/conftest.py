"""What the tests share: the folder of reference material, and how they skip without it."""

from __future__ import annotations

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before NumPy is there: a worker for each core is enough
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared_root() -> Path:
    """The folder of reference material: CAFFESURGERY_SHARED, by default ../shared."""
    return Path(os.environ.get("CAFFESURGERY_SHARED", ROOT.parent / "shared"))


def shared(*parts: str) -> Path:
    """A path in the reference material; skips the test, saying why, where it is absent."""
    path = shared_root().joinpath(*parts)
    if not path.exists():
        pytest.skip(f"reference material not found: {path} (set CAFFESURGERY_SHARED)")
    return path


@pytest.fixture(name="shared")
def _shared():
    return shared
