"""Solvers: read as Caffe reads them, with its learning rates, and edited without losing a byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caffesurgery.errors import FileError, ParseError, SolverError
from caffesurgery.train.solver import TYPES, current_step, edited, learning_rate, read_solver

NET = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 4 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 } }
"""
LEAST = 'net: "net.prototxt"\nbase_lr: 0.1\nlr_policy: "fixed"\nmax_iter: 40\n'
# what `caffe train` printed in 40 iterations with display: 1, of every policy
RATES = json.loads((Path(__file__).parent / "data/training/rates.json").read_text())


@pytest.fixture(name="write")
def _write(tmp_path):
    """Writes a solver beside a small net; gives its path."""
    (tmp_path / "net.prototxt").write_text(NET)

    def write(text: str, name: str = "solver.prototxt") -> Path:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.mark.parametrize("case", RATES)
def test_learning_rates_are_those_that_caffe_prints(case, write):
    text = f'net: "net.prototxt" max_iter: 40 {RATES[case]["solver"]}'
    solver = read_solver(write(text))
    printed = [f"{learning_rate(solver, iteration):.6g}" for iteration in range(40)]
    assert printed == RATES[case]["rates"].split()


def test_steps_are_counted_as_a_solverstate_counts_them(write):
    values = "".join(f"stepvalue: {value} " for value in (0, 9, 4, 9, 9, 20))
    solver = read_solver(write(f"{LEAST.replace('fixed', 'multistep')} gamma: 0.5 {values}"))
    steps = [current_step(solver, iteration) for iteration in (0, 8, 9, 10, 11, 12, 19, 20)]
    assert steps == [1, 1, 2, 3, 4, 5, 5, 6]


def test_every_solver_of_the_reference_runs_is_read(shared):
    found = set()
    for path in sorted(shared("training").glob("*/solver.prototxt")):
        solver = read_solver(path)
        assert solver.folder.resolve() == path.parent.parent.resolve()
        assert solver.train.read().layers and solver.tests == ()
        found.add(solver.type)
    assert found == set(TYPES)


def test_a_solver_of_the_zoo_in_full(write):
    root = Path(__file__).resolve().parent.parent
    solver = read_solver(root / "models/alexnet/solver.prototxt")
    assert (solver.base_lr, solver.stepsize, solver.momentum) == (0.01, 100000, 0.9)
    assert solver.train.phase == "TRAIN" and solver.train.iterations == 0
    (test,) = solver.tests
    assert (test.phase, test.iterations) == ("TEST", 1000)
    assert test.path == solver.train.path == root / "models/alexnet/train_val.prototxt"
    assert solver.delta == 1e-8 and solver.snapshot_format == "BINARYPROTO"


def test_old_files_give_the_type_by_number_or_name(write):
    for old, kind in (("1", "Nesterov"), ("ADAGRAD", "AdaGrad"), ("5", "Adam")):
        assert read_solver(write(f"{LEAST}solver_type: {old}")).type == kind
    with pytest.raises(SolverError, match="both type and solver_type"):
        read_solver(write(LEAST + 'solver_type: SGD type: "SGD"'))


def test_a_net_inside_the_solver_keeps_its_lines(write):
    text = LEAST.replace('net: "net.prototxt"', f"net_param {{\n{NET}}}")
    net = read_solver(write(text)).train.read()
    assert [layer.name for layer in net.layers] == ["data", "ip"] and net.layers[1].line == 4


def test_test_nets_come_in_caffes_order_with_their_states(write):
    text = (
        LEAST + 'test_net: "net.prototxt" test_iter: 3 test_iter: 7 test_interval: 5\n'
        'test_state { stage: "a" } test_state { level: 2 stage: "b" } train_state { stage: "c" }'
    )
    solver = read_solver(write(text))
    first, second = solver.tests
    assert (first.iterations, first.stages, first.level) == (3, ("a",), None)
    assert (second.iterations, second.stages, second.level) == (7, ("b",), 2)
    assert solver.train.stages == ("c",) and solver.train.level == 0


def test_nets_are_found_from_the_working_folder_and_from_above(write, tmp_path, monkeypatch):
    path = write(LEAST, "models/mine/solver.prototxt")
    assert read_solver(path).folder == tmp_path
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "net.prototxt").write_text(NET)
    monkeypatch.chdir(elsewhere)
    solver = read_solver(path)
    assert solver.folder == Path() and solver.train.path == Path("net.prototxt")


@pytest.mark.parametrize(
    "text, said",
    [
        (LEAST.replace("net.proto", "gone.proto"), "solver.prototxt:1: net 'gone.prototxt' is not"),
        (LEAST + "base_rate: 1", ":5: SolverParameter has no field 'base_rate'; did you mean"),
        (LEAST + "momentum: high", ":5: momentum is high, expected a number"),
        (LEAST.replace("fixed", "plateau"), ":3: lr_policy is 'plateau', expected one of fixed"),
        (LEAST.replace("fixed", "step"), "stepsize is 0, expected 1 or more"),
        (LEAST.replace("max_iter: 40", ""), "max_iter is 0, expected the number of iterations"),
        (LEAST + 'type: "Sgd"', ":5: type is 'Sgd', expected one of SGD"),
        (LEAST + 'type: "AdaGrad" momentum: 0.9', ":5: momentum is 0.9, expected none"),
        (LEAST + 'type: "RMSProp" rms_decay: 1', ":5: rms_decay is 1.0"),
        (LEAST + "test_iter: 10", "test_interval is 0 where test_iter asks for tests"),
        (LEAST + 'test_net: "net.prototxt"', "0 test_iter for 1 test net"),
        (LEAST + 'train_net: "net.prototxt"', "names train_net and net to train"),
        (LEAST + "base_lr: 0.2", "base_lr is given 2 times"),
        (LEAST + 'regularization_type: "L3"', "expected 'L1' or 'L2'"),
        (LEAST + "iter_size: 0", "iter_size is 0"),
    ],
)
def test_what_caffe_would_refuse_is_refused_with_its_place(text, said, write):
    with pytest.raises(SolverError) as error:
        read_solver(write(text))
    assert said in str(error.value)


def test_files_that_are_no_solvers(write, tmp_path):
    with pytest.raises(FileError, match="no such file"):
        read_solver(tmp_path / "none.prototxt")
    with pytest.raises(ParseError):
        read_solver(write("net: {"))
    with pytest.raises(SolverError, match="has no field 'layer'"):
        read_solver(write(NET.replace("name", "# name", 1)))


def test_fields_of_forks_pass_where_the_binary_knows_them(write):
    path = write(LEAST.replace("fixed", "plateau") + 'eval_type: "detection"')
    solver = read_solver(path, forks=True)
    assert solver.unknown == ("eval_type",) and solver.lr_policy == "plateau"
    with pytest.raises(SolverError, match="none of BVLC Caffe's"):
        learning_rate(solver, 0)


def test_editing_keeps_every_other_byte(write):
    before = (
        '# mine\r\nnet: "net.prototxt"  # here\r\nstepvalue: 3\r\nstepvalue: 5 # second\r\n'
        'base_lr: 0.1; lr_policy: "multistep" max_iter: 40\r\nsnapshot: 10\r\n# the end'
    )
    path = write("")
    path.write_bytes(before.encode())
    after = edited(
        path, base_lr=0.00025, stepvalue=[7, 8, 9], snapshot=None, snapshot_prefix='a"b',
        test_initialization=False, max_iter=None,
    )  # fmt: skip
    assert after.replace("\r\n", "\n") == (
        '# mine\nnet: "net.prototxt"  # here\nstepvalue: 7 stepvalue: 8 stepvalue: 9\n'
        ' # second\nbase_lr: 0.00025 lr_policy: "multistep" \n# the end\n'
        'snapshot_prefix: "a\\"b"\ntest_initialization: false\n'
    )
    assert edited(path) == before
    with pytest.raises(SolverError, match="no field 'lr'"):
        edited(path, lr=1)


def test_edited_values_are_read_back(write):
    changes = {"base_lr": 1e-5, "gamma": 1 / 3, "max_iter": 123456, "type": "Adam",
               "solver_mode": "CPU", "average_loss": 20, "net": "net.prototxt"}  # fmt: skip
    path = write(LEAST)
    solver = read_solver(write(edited(path, **changes), "second.prototxt"))
    for name, value in changes.items():
        if name != "net":
            read = getattr(solver, name)
            assert read == (pytest.approx(value, 1e-8) if name == "gamma" else value), name
