"""The README's tour is run as it stands, and its Python too."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run(command: list[str], folder: Path) -> None:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr}"


def test_the_tour_runs_as_written(tmp_path):
    assert [kind for kind, _ in BLOCKS] == ["bash"] * 6 + ["python"]
    for kind, block in BLOCKS:
        if kind == "python":
            run([sys.executable, "-c", block], tmp_path)
            continue
        for line in block.replace("\\\n", " ").splitlines():
            program, *arguments = shlex.split(line)
            assert program == "caffesurgery"
            run([sys.executable, "-m", "caffesurgery", *arguments], tmp_path)
    assert (tmp_path / "small" / "train_val.prototxt").exists()
    assert (tmp_path / "dense" / "lenet.caffemodel").exists()
    assert (tmp_path / "tucker.onnx").exists() and (tmp_path / "camera.onnx").exists()


def test_install_commands_are_two_and_named_in_ci():
    section = README.split("## Install")[1].split("\n## ")[0]
    commands = [line for line in section.splitlines() if line.startswith("    ")]
    assert len(commands) == 2
    assert "caffesurgery demo" in commands[0] and "pytest" in commands[1]


@pytest.mark.parametrize("page", sorted((ROOT / "caffesurgery" / "docs").glob("*.md")), ids=str)
def test_documentation_names_only_commands_and_options_that_exist(page):
    from caffesurgery.cli.commands import cli

    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^ {4}caffesurgery (.*)$", text, re.MULTILINE):
        words = line.split()
        command = cli.commands[words[0]]
        command = getattr(command, "commands", {}).get(words[1], command)
        known = {name for param in command.params for name in param.opts}
        assert {word for word in words if word.startswith("-") and word != "-"} <= known, line
