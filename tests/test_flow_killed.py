"""Flows trained by torch, killed at ten random moments: they end in the same net, to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from flows import FLOW, write_files

pytest.importorskip("torch", reason="the torch trainer is an extra")
ROOT = Path(__file__).resolve().parent.parent
SEED = 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_flow_killed_at_any_moment_ends_in_the_same_net(tmp_path):
    write_files(tmp_path)
    asked = FLOW.replace("iterations: 4 snapshot: 2", "iterations: 24 snapshot: 3")
    asked += 'trainer { name: "torch" } scheme: hybrid every: 2 freeze: decomposed\n'
    asked += "choose_ranks: each_step finish { iterations: 10 } stop { floor: 0.2 tries: 1 }\n"
    (tmp_path / "flow.prototxt").write_text(asked)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "killing.py", "flow.prototxt", str(SEED), "5", "2"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0 and "ended well" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    reports = []
    for name in ("whole", "killed0", "killed1"):
        found = sorted(path.name for path in (tmp_path / name).iterdir())
        assert found == [
            "deploy.caffemodel", "deploy.prototxt", "journal.json", "plan.prototxt", "report.json",
            "train_val.prototxt",
        ]  # fmt: skip
        reports.append(json.loads((tmp_path / name / "report.json").read_text()))
        for file in ("deploy.caffemodel", "deploy.prototxt", "train_val.prototxt", "plan.prototxt"):
            same = (tmp_path / "whole" / file).read_bytes()
            assert (tmp_path / name / file).read_bytes() == same, (name, file)
    whole, *others = reports
    assert all(other["after"] == whole["after"] for other in others)
    assert whole["before"]["loss"] > whole["after"]["loss"]
