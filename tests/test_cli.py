"""What the command line promises: commands, exit status, streams, JSON, and the files it leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nets import write_net
from tiny import DEPLOY, PLAN, D, W, _tiny_net, run, succeed, tiny, tree  # noqa: F401

import caffesurgery
from caffesurgery.cli import console
from caffesurgery.cli.commands import cli, zoo
from caffesurgery.cli.help import topics
from caffesurgery.cli.tables import Table
from caffesurgery.files import caffemodel
from caffesurgery.files.resources import resource
from caffesurgery.net.net import read_net

ROOT = Path(__file__).resolve().parent.parent
CP = ("--method", "cp", "--ranks", "ratio=0.5")

pytestmark = pytest.mark.usefixtures("tiny")

INSPECT = {"net", "file", "phase", "batch", "inputs", "layers", "totals", "notes"}
LAYER = {"name", "type", "params", "macs"}
INSPECT_LAYER = LAYER | {"line", "bottoms", "tops", "shapes", "blobs"}
PLANNED = {"net", "method", "ranks", "layers", "kept", "totals", "notes"}
PLANNED_LAYER = LAYER | {"method", "ranks", "new_params", "new_macs"}
DONE_LAYER = PLANNED_LAYER | {"error", "new_layers"}
TOTALS = {"params", "macs", "new_params", "new_macs"}
COMPARE = {"images", "source", "blobs", "accuracy"}
BLOB = {"name", "shape", "max_abs", "relative", "frobenius", "agreement"}
EXPORT = {
    "path", "opset", "inputs", "outputs", "nodes", "parameters", "bytes", "dynamic_batch",
    "fixed_because", "left_out", "unused",
}  # fmt: skip


def process(*arguments, **options) -> subprocess.CompletedProcess:
    """Run ``python -m caffesurgery`` as users do."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    environment.update(options.pop("env", {}))
    options = {"capture_output": True, "text": True, "timeout": 60, **options}
    command = [sys.executable, "-m", "caffesurgery", *map(str, arguments)]
    return subprocess.run(command, env=environment, **options)


# -- JSON


def test_inspect_prints_the_documented_json():
    found = succeed("inspect", D, W, "--format", "json").json
    assert INSPECT <= set(found)
    assert all(INSPECT_LAYER <= set(layer) for layer in found["layers"])
    by_name = {layer["name"]: layer for layer in found["layers"]}
    assert by_name["conv2"] == {
        "name": "conv2", "type": "Convolution", "line": 15, "bottoms": ["conv1"],
        "tops": ["conv2"], "shapes": [[2, 24, 8, 8]], "blobs": [[24, 8, 3, 3], [24]],
        "params": 24 * 8 * 9 + 24, "macs": 24 * 8 * 9 * 64,
    }  # fmt: skip
    assert found["inputs"] == {"data": [2, 3, 16, 16]} and found["batch"] == 2
    assert found["totals"] == {
        key: sum(layer[key] for layer in found["layers"]) for key in ("params", "macs")
    }


def test_inspect_takes_phase_batch_and_input():
    shape = ("--input", "data=3,16,16", "--format", "json")
    test = succeed("inspect", "train_val.prototxt", W, *shape).json
    train = succeed("inspect", "train_val.prototxt", *shape, "--phase", "train").json
    assert (test["phase"], test["batch"]) == ("TEST", 4)
    assert (train["phase"], train["batch"]) == ("TRAIN", 8)
    assert {layer["type"] for layer in test["layers"]} - {"Accuracy"} == {
        layer["type"] for layer in train["layers"]
    }
    again = succeed("inspect", D, "--batch", 7, "--format", "json").json
    assert again["layers"][1]["shapes"] == [[7, 16, 8, 8]]
    assert again["totals"] == test["totals"]


def test_plan_apply_and_compress_print_the_documented_json():
    planned = succeed("plan", D, W, *CP, "-o", "plan.prototxt", "--format", "json").json
    applied = succeed("apply", D, W, "plan.prototxt", "-o", "a", "--format", "json").json
    compressed = succeed("compress", D, W, *CP, "-o", "b", "--format", "json").json
    for report, keys in (
        (planned, PLANNED_LAYER | {"why"}),
        (applied, DONE_LAYER),
        (compressed, DONE_LAYER),
    ):
        assert PLANNED <= set(report) and set(report["totals"]) == TOTALS
        assert report["method"] == "cp" and report["ranks"] == "ratio=0.5"
        assert [layer["name"] for layer in report["layers"]] == ["conv1", "conv2", "fc3", "fc4"]
        assert all(keys <= set(layer) for layer in report["layers"])
        assert report["totals"] == compressed["totals"]
    assert applied["layers"] == compressed["layers"]
    assert applied["layers"][1]["new_layers"] == ["conv2_s", "conv2_dd", "conv2_t"]
    assert COMPARE <= set(compressed["comparison"])
    assert compressed == json.loads(Path("b", "report.json").read_bytes())
    assert compressed["files"] == {
        path.name: path.stat().st_size
        for path in sorted(Path("b").iterdir())
        if path.name != "report.json"
    }


def test_totals_are_those_of_the_written_net():
    report = succeed("compress", D, W, *CP, "-o", "b", "--no-onnx", "--format", "json").json
    written = succeed("inspect", f"b/{D}", f"b/{W}", "--format", "json").json
    assert written["totals"] == {key: report["totals"][f"new_{key}"] for key in ("params", "macs")}


@pytest.mark.parametrize(
    "method, rule, layer, ranks",
    [
        ("cp3", "conv2=10", "conv2", {"rank": 10}),
        ("svd", "fc4=3", "fc4", {"rank": 3}),
        ("spatial", "conv2=6", "conv2", {"rank": 6}),
        ("channel", "conv2=4", "conv2", {"rank": 4}),
        ("tucker2", "conv2=4x6", "conv2", {"in": 4, "out": 6}),
        ("tucker1-in", "conv2=4", "conv2", {"in": 4}),
        ("tucker1-out", "conv2=6", "conv2", {"out": 6}),
        ("tucker2", "fc3=5x7", "fc3", {"in": 5, "out": 7}),
    ],
)
def test_ranks_are_named_as_documented(method, rule, layer, ranks):
    out = ("-o", "o", "--format", "json")
    report = succeed("compress", D, W, "--method", method, "--ranks", rule, "--no-onnx", *out).json
    assert [(one["name"], one["method"], one["ranks"]) for one in report["layers"]] == [
        (layer, method, ranks)
    ]


def test_restore_export_compare_and_zoo_list_print_the_documented_json():
    succeed("compress", D, W, *CP, "-o", "small", "--no-onnx")
    small = ("small/" + D, "small/" + W)
    restored = succeed("restore", *small, "-o", "dense", "--format", "json").json
    assert {"net", "layers", "totals", "notes"} <= set(restored)
    assert restored["layers"][1]["from"] == ["conv2_s", "conv2_dd", "conv2_t"]
    assert all(LAYER | {"from", "new_params"} <= set(layer) for layer in restored["layers"])
    exported = succeed("export", D, W, "-o", "x.onnx", "--format", "json").json
    assert EXPORT <= set(exported)
    assert exported["inputs"] == {"data": ["batch", 3, 16, 16]}
    assert exported["bytes"] == Path("x.onnx").stat().st_size
    compared = succeed("compare", D, W, *small, "--format", "json").json
    assert COMPARE <= set(compared) and BLOB <= set(compared["blobs"][0])
    assert compared["accuracy"] == {}
    listed = succeed("zoo", "list", "--format", "json").json
    keys = {"name", "net", "input", "layers", "params", "macs"}
    assert all(keys <= set(net) for net in listed["nets"])
    assert {net["name"]: net["params"] for net in listed["nets"]}["alexnet"] == 60_965_224


def test_a_layer_of_an_unknown_type_is_carried_and_what_hangs_on_it_is_null():
    Path(D).write_text(DEPLOY.replace('"Pooling"', '"FancyPooling"'))
    found = succeed("inspect", D, W, "--format", "json").json
    by_name = {layer["name"]: layer for layer in found["layers"]}
    assert by_name["pool2"]["shapes"] == [None] and by_name["conv2"]["macs"] > 0
    assert by_name["fc3"]["blobs"] is None and by_name["fc3"]["macs"] is None
    (note,) = found["notes"]
    assert note.startswith("layer 'pool2' has the unknown type 'FancyPooling'")
    table = succeed("inspect", D, W).out
    assert re.search(r"^ fc3 +InnerProduct +unknown +\? +\?$", table, re.MULTILINE)
    report = succeed("compress", D, W, *CP, "-o", "o", "--format", "json").json
    assert [layer["name"] for layer in report["layers"]] == ["conv1", "conv2"]
    assert report["comparison"] is None and "net.onnx" not in report["files"]
    (note,) = report["notes"]
    assert note.startswith("no net.onnx, and nothing compared: o/deploy.prototxt:")


def test_layers_that_share_weights_take_the_ranks_of_either():
    blob = "input_shape { dim: 1 dim: 8 dim: 9 dim: 9 }"
    layers = "".join(
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
        'param { name: "w" } convolution_param { num_output: 8 kernel_size: 3 bias_term: false } }'
        for name, bottom in (("left", "a"), ("right", "b"))
    )
    net = write_net(Path("."), f'input: "a" {blob} input: "b" {blob} {layers}', "twin")
    form = ("--method", "cp", "--ranks", "right=5", "--no-onnx", "--format", "json")
    report = succeed("compress", *net, *form, "-o", "o").json
    assert [(layer["name"], layer["ranks"]) for layer in report["layers"]] == [
        ("left", {"rank": 5}), ("right", {"rank": 5})
    ]  # fmt: skip


def test_every_json_key_is_documented():
    succeed("plan", D, W, *CP, "-o", "plan.prototxt")
    np.save("images.npy", np.random.default_rng(0).random((4, 3, 16, 16), np.float32))
    np.save("labels.npy", np.arange(4))
    form = ("--format", "json")
    labels = ("--images", "images.npy", "--labels", "labels.npy")
    reports = [
        succeed("inspect", D, W, *form).json,
        succeed("plan", D, W, *CP, "-o", "p", *form).json,
        succeed("compress", D, W, *CP, "-o", "small", *form).json,
        succeed("restore", "small/" + D, "small/" + W, "-o", "dense", *form).json,
        succeed("export", D, W, "-o", "x.onnx", *form).json,
        succeed("compare", D, W, "small/" + D, "small/" + W, *labels, *form).json,
        succeed("zoo", "list", *form).json,
    ]
    documented = set(re.findall(r"`(\w+)`", resource("docs", "json.md").read_text("utf-8")))
    documented |= {"rank", "in", "out"}
    names = {"files", "inputs", "outputs"}  # objects whose keys are names, not words of ours
    used: set[str] = set()

    def gather(value):
        for key, item in value.items() if isinstance(value, dict) else ():
            used.add(key)
            gather(item if key not in names else None)
        for item in value if isinstance(value, list) else ():
            gather(item)

    gather(reports)
    assert used <= documented, sorted(used - documented)


def test_json_names_in_any_encoding():
    Path(D).write_bytes(DEPLOY.replace('"conv1"', '"卷积"').encode("gbk"))
    found = succeed("inspect", D, "--format", "json").json
    name = found["layers"][1]["name"]
    assert name.encode("utf-8", "surrogateescape") == "卷积".encode("gbk")
    assert r"\udc" in succeed("inspect", D).out


def test_names_in_any_encoding_go_through_the_whole_job():
    net = write_net(Path("."), DEPLOY.replace('"conv1"', '"卷积"').encode("gbk"), "gbk")
    succeed("compress", *net, *CP, "-o", "small", "--no-onnx")
    name = read_net(Path("small", net[0])).layers[1].name
    assert name.encode("utf-8", "surrogateescape") == "卷积_sdd".encode("gbk")
    succeed("apply", *net, "small/plan.prototxt", "-o", "again")
    assert Path("small", net[1]).read_bytes() == Path("again", net[1]).read_bytes()
    succeed("restore", *(Path("small", path) for path in net), "-o", "dense")
    assert [layer.name for layer in read_net(Path("dense", net[0])).layers] == [
        layer.name for layer in read_net(net[0]).layers
    ]


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


def test_python_m_caffesurgery_prints_versions_and_the_im2col_that_runs():
    done = process("--version", "-v")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(f"caffesurgery {caffesurgery.__version__}\npython ")
    assert re.search(r"^im2col: (C|NumPy)", done.stdout, re.MULTILINE | re.IGNORECASE)
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


def test_help_on_a_terminal_is_laid_out(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    succeed("help", "plan")


# -- the files that are left


def test_compress_leaves_exactly_the_documented_files(tiny):  # noqa: F811
    before = tree(tiny)
    also = ("--also", "train_val.prototxt")
    succeed("compress", D, W, *CP, *also, "-o", "deep/er/out")
    after = tree(tiny)
    made = {name for name in after if name not in before}
    assert made == {"deep", "deep/er", "deep/er/out"} | {
        f"deep/er/out/{name}"
        for name in (D, W, "train_val.prototxt", "net.onnx", "plan.prototxt", "report.json")
    }
    assert {name: after[name] for name in before} == before
    assert Path("deep/er/out").stat().st_mode == Path("deep").stat().st_mode


def test_no_onnx_leaves_it_out_and_compares_nothing():
    out = ("--no-onnx", "-o", "o", "--format", "json")
    report = succeed("compress", D, W, *CP, *out).json
    assert report["comparison"] is None
    assert set(os.listdir("o")) == {D, W, "plan.prototxt", "report.json"}


def test_also_is_rewritten_in_the_same_way():
    succeed("compress", D, W, *CP, "--no-onnx", "--also", "train_val.prototxt", "-o", "o")
    rewritten, deploy = read_net("o/train_val.prototxt"), read_net(f"o/{D}")
    chain = ["conv2_s", "conv2_dd", "conv2_t"]
    for net in (rewritten, deploy):
        assert [layer.name for layer in net.layers if layer.name.startswith("conv2")] == chain
    text, old = (Path(folder, "train_val.prototxt").read_text() for folder in ("o", "."))
    assert text.startswith(old[: old.index("layer {\n")])
    assert text.endswith(old[old.index('layer { name: "accuracy"') :])
    shape = ("--input", "data=3,16,16")
    succeed("inspect", "o/train_val.prototxt", f"o/{W}", *shape, "--phase", "train")


def test_a_train_val_can_be_compressed_itself():
    shape = ("--input", "data=3,16,16")
    succeed("compress", "train_val.prototxt", W, *CP, *shape, "-o", "o")
    assert set(os.listdir("o")) == {
        "train_val.prototxt", W, "net.onnx", "plan.prototxt", "report.json"
    }  # fmt: skip


def test_nothing_is_overwritten_without_force(tiny):  # noqa: F811
    commands = (
        ("plan", D, W, *CP, "-o", "plan.prototxt"),
        ("apply", D, W, "edited.prototxt", "-o", "a"),
        ("compress", D, W, *CP, "-o", "b"),
        ("restore", f"b/{D}", f"b/{W}", "-o", "c"),
        ("export", D, W, "-o", "net.onnx"),
        ("zoo", "write", "lenet", "-o", "z"),
    )
    for command in commands:
        succeed(*command)
    before = tree(tiny)
    for command in commands:
        done = run(*command)
        assert done.code == 1 and "already there" in done.err and "--force" in done.err
        assert done.out == ""
    assert tree(tiny) == before
    Path("b", "mine.txt").write_text("kept")
    for command in commands:
        succeed(*command, "--force")
    assert tree(tiny) == {**before, "b/mine.txt": b"kept"}


def test_force_replaces_the_inputs_themselves():
    succeed("compress", D, W, *CP, "--no-onnx", "-o", "apart")
    succeed("compress", D, W, *CP, "--no-onnx", "-o", ".", "--force")
    for name in (D, W, "plan.prototxt"):
        assert Path(name).read_bytes() == Path("apart", name).read_bytes()


def test_two_runs_give_the_same_bytes():
    also = ("--also", "train_val.prototxt", "--seed", "3")
    for folder in ("one", "two"):
        succeed("compress", D, W, *CP, *also, "-o", folder)
    assert tree(Path("one")) == tree(Path("two"))
    for folder in ("z1", "z2", "z3"):
        succeed("zoo", "write", "lenet", "-o", folder, "--seed", len(folder + folder[1:]))
    assert tree(Path("z1")) == tree(Path("z2"))


# -- what is decomposed


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("conv1", ["conv1"]),
        ("conv*", ["conv1", "conv2"]),
        ("fc4, conv2", ["conv2", "fc4"]),
        ("*[13]", ["conv1", "fc3"]),
        ("*", ["conv1", "conv2", "fc3", "fc4"]),
    ],
)
def test_layers_takes_names_and_patterns(pattern, names):
    form = ("--layers", pattern, "-o", "p", "--format", "json")
    report = succeed("plan", D, W, *CP, *form).json
    assert [layer["name"] for layer in report["layers"]] == names


def test_layers_that_would_grow_are_left_alone_unless_allowed():
    form = ("--method", "cp", "--ranks", "conv1=6,conv2=max", "--format", "json", "--no-onnx")
    small = succeed("compress", D, W, *form, "-o", "a").json
    assert [layer["name"] for layer in small["layers"]] == ["conv1"]
    kept = {one["name"]: one["why"] for one in small["kept"]}
    assert "times its MACs" in kept["conv2"] and "no rank given" in kept["fc3"]
    grown = succeed("compress", D, W, *form, "-o", "b", "--allow-growth").json
    assert [layer["name"] for layer in grown["layers"]] == ["conv1", "conv2"]
    assert grown["totals"]["new_macs"] > grown["totals"]["macs"]


def test_a_plan_edited_by_hand_is_carried_out():
    succeed("plan", D, W, *CP, "-o", "plan.prototxt")
    text = Path("plan.prototxt").read_text()
    edited = re.sub(r'(?s)("conv2"\n  method: )"cp3"\n  rank: \d+', r'\1"spatial"\n  rank: 4', text)
    edited = re.sub(r'(?s)layer \{\n  name: "fc4".*?\n\}\n', "# not fc4\n", edited)
    assert edited != text
    Path("plan.prototxt").write_text(edited)
    report = succeed("apply", D, W, "plan.prototxt", "-o", "o", "--format", "json").json
    done = {layer["name"]: (layer["method"], layer["ranks"]) for layer in report["layers"]}
    assert list(done) == ["conv1", "conv2", "fc3"] and done["conv2"] == ("spatial", {"rank": 4})
    assert set(os.listdir("o")) == {D, W, "plan.prototxt"}
    assert "conv2_v" in caffemodel.read(f"o/{W}") and "fc4" in caffemodel.read(f"o/{W}")


def test_apply_does_what_compress_planned():
    succeed("compress", D, W, *CP, "-o", "a", "--no-onnx")
    succeed("apply", D, W, "a/plan.prototxt", "-o", "b")
    for name in (D, W):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()


@pytest.mark.parametrize("method", ["cp", "tucker2", "spatial"])
def test_restore_gives_a_net_that_computes_the_same(method):
    rule = ("--method", method, "--ranks", "ratio=0.5", "--no-onnx")
    succeed("compress", D, W, *rule, "-o", "small")
    small, dense = (("/".join(pair) for pair in ((f, D), (f, W))) for f in ("small", "dense"))
    small, dense = list(small), list(dense)
    succeed("restore", *small, "-o", "dense")
    assert [layer.name for layer in read_net(dense[0]).layers] == [
        layer.name for layer in read_net(D).layers
    ]
    found = succeed("compare", *small, *dense, "--format", "json").json
    assert found["blobs"][0]["relative"] < 1e-4
    assert succeed("compare", D, W, *dense, "--format", "json").json["blobs"][0]["relative"] > 1e-3


def test_compare_counts_the_accuracy_of_both_nets():
    succeed("compress", D, W, *CP, "-o", "o", "--no-onnx")
    images = np.random.default_rng(0).integers(0, 255, (20, 3, 20, 20), np.uint8)
    np.savez("set.npz", images=images, labels=np.arange(20) % 10)
    prepare = ("--mean", "100,110,120", "--scale", "0.01", "--bgr", "--crop")
    given = ("--images", "set.npz", *prepare, "--blob", "prob", "--blob", "conv2")
    nets = (D, W, f"o/{D}", f"o/{W}")
    found = succeed("compare", *nets, *given, "--format", "json").json
    assert found["images"] == 20 and set(found["accuracy"]) == {"first", "second"}
    assert set(found["accuracy"]["first"]) == {"top1", "top5"}
    assert [blob["name"] for blob in found["blobs"]] == ["prob", "conv2"]
    table = succeed("compare", *nets, *given).out
    assert re.search(r"first: top1 \d\.\d+, top5 \d\.\d+\n  second: top1", table)


def test_compare_says_that_outputs_are_not_finite():
    np.save("nan.npy", np.full((8, 3, 16, 16), np.nan, np.float32))
    table = succeed("compare", D, W, D, W, "--images", "nan.npy").out
    assert "prob: NaN or infinite values: 80 in the first net, 80 in the second" in table


# -- zoo and demo


def test_zoo_write_prints_the_files_that_it_wrote():
    done = succeed("zoo", "write", "lenet", "-o", "z", "--seed", "5")
    paths = done.out.split()
    assert sorted(paths) == sorted(str(path) for path in Path("z").iterdir())
    weights = next(path for path in paths if path.endswith(".caffemodel"))
    succeed("inspect", "z/deploy.prototxt", weights)


def test_demo_goes_through_the_main_job(tiny, monkeypatch):  # noqa: F811
    from caffesurgery.cli import demo

    def small_zoo(name, folder, force=False, progress=None):
        assert name == "alexnet"
        write_net(folder, DEPLOY)
        (folder / W).rename(folder / "alexnet.caffemodel")
        (folder / "train_val.prototxt").write_bytes(Path("train_val.prototxt").read_bytes())

    monkeypatch.setattr(demo.zoo, "write", small_zoo)
    monkeypatch.setattr(demo, "RANKS", "conv1=6,conv2=10,fc3=4")
    before = tree(tiny)
    done = succeed("demo", "-o", "kept")
    assert "whole net" in done.out and "seconds." in done.out
    assert {D, "train_val.prototxt", "net.onnx"} <= set(os.listdir("kept/compressed"))
    assert [line[:20] for line in done.err.splitlines() if line.startswith("$")] == [
        "$ caffesurgery zoo w", "$ caffesurgery compr"
    ]  # fmt: skip
    assert "already there" in run("demo", "-o", "kept").err
    succeed("demo")
    assert {name for name in tree(tiny) if not name.startswith("kept")} == set(before)


def test_a_plan_holds_what_its_page_says():
    assert PLAN.startswith("version: 1")
    succeed("apply", D, W, "edited.prototxt", "-o", "o")


@pytest.mark.parametrize(
    "line, spread",
    [
        ("N W --also a b -o D", "N W --also a --also b -o D"),
        ("--also a N W -o D", "--also a N W -o D"),
        ("N W -o D --also a b c", "N W -o D --also a --also b --also c"),
        ("N W --force --also a", "N W --force --also a"),
        ("N --also a b W", "N --also a --also b W"),
    ],
)
def test_repeatable_options_take_several_values(line, spread):
    from caffesurgery.cli.commands import cli

    assert cli.commands["compress"]._spread(line.split()) == spread.split()
