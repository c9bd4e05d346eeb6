"""The command line: exit status, what goes to stdout and stderr, tables on any output, and help."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nets import write_net
from tiny import CP, DEPLOY, D, W, _tiny_net, run, succeed, tiny  # noqa: F401

import caffesurgery
from caffesurgery.cli import console
from caffesurgery.cli.commands import cli
from caffesurgery.cli.commands.catalogue import zoo
from caffesurgery.cli.help import show_topic, topics
from caffesurgery.cli.tables import Table
from caffesurgery.files.resources import resource

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.usefixtures("tiny")


def process(*arguments, **options) -> subprocess.CompletedProcess:
    """Run ``python -m caffesurgery`` as users do."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    environment.update(options.pop("env", {}))
    options = {"capture_output": True, "text": True, "timeout": 60, **options}
    command = [sys.executable, "-m", "caffesurgery", *map(str, arguments)]
    return subprocess.run(command, env=environment, **options)


# -- tables and streams


def test_tables_cut_nothing_off_where_the_output_is_no_terminal():
    long = "layer_" + "very_long_" * 24 + "name"
    write_net(Path("."), DEPLOY.replace('"conv1"', f'"{long}"').replace('"Tiny"', f'"{long}"'))
    for done in (
        succeed("inspect", D, W),
        succeed("compress", D, W, *CP, "-o", "o"),
        succeed("restore", f"o/{D}", f"o/{W}", "-o", "dense"),
        succeed("export", D, W, "-o", "x.onnx", "--blob", long),
    ):
        rows = [line for line in done.out.splitlines() if long in line]
        assert rows, done.out
        assert "…" not in done.out and done.out == "".join(
            line.rstrip() + "\n" for line in done.out.splitlines()
        )
    row = next(line for line in succeed("inspect", D, W).out.splitlines() if " 76,800" in line)
    assert row.split()[:2] == [long, "Convolution"]


def test_a_narrow_terminal_folds_text_and_no_number(monkeypatch, capsys):
    monkeypatch.setattr(console, "_is_terminal", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "20")
    rows = (("a_layer_with_a_name_of_its_own", "1,234,567,890", "9,876,543"),)
    numbers = frozenset(("params", "MACs"))
    columns = ("layer", "params", "MACs")
    console.print_table(Table("t", columns, rows, ("all", "1", "2"), (), numbers))
    printed = capsys.readouterr().out
    assert "1,234,567,890" in printed and "9,876,543" in printed
    assert "a_layer_" in printed and "a_layer_with" not in printed


def test_any_encoding_of_the_output_will_do():
    Path(D).write_text(DEPLOY.replace('"conv1"', '"卷积"'), encoding="utf-8")
    environment = {"PYTHONIOENCODING": "latin-1"}
    done = process("inspect", D, env=environment)
    assert done.returncode == 0 and r"\u5377\u79ef" in done.stdout
    done = process("inspect", D, W, env=environment)
    assert done.returncode == 1 and r"no weights for \u5377\u79ef" in done.stderr
    done = process("inspect", D, "--format", "json", env=environment)
    assert json.loads(done.stdout)["layers"][1]["name"] == "卷积"


def test_results_go_to_stdout_and_progress_to_stderr(monkeypatch):
    monkeypatch.setattr(console, "QUIET_SECONDS", 0.0)
    done = succeed("compress", D, W, *CP, "-o", "o", "--format", "json")
    assert done.json["net"] == "Tiny"
    stages = set(re.findall(r"^ *\d+\.\d s  (\w+) .* \d+%$", done.err, re.MULTILINE))
    assert stages == {"decompose", "write", "export", "compare"}
    assert done.err.splitlines()[-1] == (
        f"wrote {W}, {D}, net.onnx, plan.prototxt, report.json to o"
    )


def test_progress_ends_at_all_of_it(monkeypatch):
    monkeypatch.setattr(console, "QUIET_SECONDS", 0.0)
    err = succeed("compress", D, W, *CP, "-o", "o").err
    last = dict(re.findall(r"^ *\d+\.\d s  (\w+) .* (\d+)%$", err, re.MULTILINE))
    assert last == dict.fromkeys(("decompose", "write", "export", "compare"), "100")


def test_a_closed_pipe_is_no_error_of_ours():
    for arguments in (("inspect", D), ("inspect", D, "--format", "json"), ("help", "start")):
        reader, writer = os.pipe()
        os.close(reader)
        done = process(*arguments, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        assert done.stderr == "" and done.returncode == 1


def test_a_closed_stdout_is_no_error_of_ours():
    command = f"{sys.executable} -m caffesurgery inspect {D} >&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, shell=True, env=environment, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# -- exit status and help


def test_python_m_caffesurgery_prints_versions_and_what_runs_in_c():
    done = process("--version", "-v")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(f"caffesurgery {caffesurgery.__version__}\npython ")
    assert re.search(r"^im2col: (C|NumPy)", done.stdout, re.MULTILINE | re.IGNORECASE)
    assert re.search(r"^tensor power method: (C|Python)$", done.stdout, re.MULTILINE)
    assert re.search(r"^depthwise layers in calibration: (C|columns)$", done.stdout, re.MULTILINE)
    assert re.search(r"^numpy \d", done.stdout, re.MULTILINE)
    assert succeed("--version").out == f"caffesurgery {caffesurgery.__version__}\n"


def test_exit_status_is_0_1_or_2():
    assert process("inspect", D, W).returncode == 0
    assert process("inspect", "none.prototxt").returncode == 1
    assert process("inspect").returncode == 2


def test_every_command_has_help():
    assert succeed("--help").out == succeed().out
    assert "..." not in (succeed("--help").out + succeed("zoo", "--help").out).replace(
        "[ARGS]...", ""
    )
    for name in cli.commands:
        assert re.search(rf"^  {name} +[A-Z]", succeed("--help").out, re.MULTILINE)
        assert succeed(name, "--help").out.startswith(f"Usage: caffesurgery {name} ")
    for name in zoo.commands:
        assert succeed("zoo", name, "--help").out.startswith(f"Usage: caffesurgery zoo {name} ")


def test_help_lists_and_shows_every_topic():
    listed = succeed("help").out
    assert topics().keys() >= {"start", "methods", "ranks", "plan", "json", "onnx", "caffe"}
    for topic, title in topics().items():
        assert f"  {topic} " in listed and title in listed
        assert succeed("help", topic).out == resource("docs", f"{topic}.md").read_text("utf-8")


def test_help_on_a_terminal_is_laid_out(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    show_topic("plan")
    shown = capsys.readouterr().out
    assert "Plans: what will be done" in shown and "# Plans" not in shown
