"""Work that is shared out: order, errors, retries, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from caffesurgery.errors import DecomposeError, UsageError, WorkerError
from caffesurgery.workers import open_workers, run_all

ROOT = Path(__file__).resolve().parent.parent


def scaled(shared, item):
    """Work that may end where another began: the later items are the faster ones."""
    time.sleep(0.02 * (item == 0))
    return float(shared["numbers"].sum()) * item


def worker_of(shared, item):
    print("a library that talks", flush=True)
    time.sleep(0.05)
    return os.getpid()


def refuse(shared, item):
    if item == 3:
        raise DecomposeError("layer 'conv3': refused")
    return item


def odd_error(shared, item):
    class Local(Exception):
        pass

    raise Local("cannot travel")


def die_once(shared, item):
    """Kills its own process unless the file of this item says that it has done so before."""
    mark = Path(shared) / str(item)
    if item == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def die_always(shared, item):
    os.kill(os.getpid(), signal.SIGKILL)


def writable(shared, item):
    return shared.flags.writeable


@pytest.mark.parametrize("jobs", [1, 3])
def test_results_come_in_the_order_of_the_items(jobs):
    seen = {}
    with open_workers(jobs) as workers:
        found = run_all(workers, scaled, {"numbers": np.arange(5.0)}, range(7), seen.__setitem__)
    assert found == [10.0 * item for item in range(7)] == [seen[k] for k in range(7)]


def test_jobs_are_processes_and_what_they_print_harms_nothing(capfd):
    with open_workers(2) as workers:
        found = set(run_all(workers, worker_of, None, range(8)))
        assert found == set(workers.pids()) and len(found) == 2 and os.getpid() not in found
    with open_workers(1) as workers:
        assert run_all(workers, worker_of, None, [0]) == [os.getpid()]


def test_no_process_begins_without_work():
    with open_workers(4) as workers:
        assert run_all(workers, worker_of, None, []) == []
        assert workers.pids() == []
        run_all(workers, worker_of, None, [0])
        assert len(workers.pids()) == 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_is_raised_as_it_is_and_ends_the_rest(jobs):
    done = []
    with open_workers(jobs) as workers, pytest.raises(DecomposeError, match="conv3"):
        run_all(workers, refuse, None, range(1000), lambda index, result: done.append(index))
    assert len(done) < 20


def test_an_error_that_cannot_travel_is_told():
    with open_workers(2) as workers, pytest.raises(WorkerError, match="Local: cannot travel"):
        run_all(workers, odd_error, None, [0])


def test_a_worker_that_dies_costs_a_retry_and_not_the_job(tmp_path):
    with open_workers(2) as workers:
        assert run_all(workers, die_once, str(tmp_path), range(6)) == [k * k for k in range(6)]
    assert (tmp_path / "2").exists()


def test_work_that_kills_every_worker_is_given_up():
    with open_workers(2) as workers, pytest.raises(WorkerError, match="die_always: 3 worker"):
        run_all(workers, die_always, None, [0])


def test_shared_arrays_are_not_copied():
    with open_workers(2) as workers:
        assert run_all(workers, writable, np.zeros(1000), [0]) == [False]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_who_started_it(stop):
    code = (
        "import signal, time\n"
        "from caffesurgery.workers import open_workers, run_all\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored under nohup and &\n"
        "with open_workers(2) as workers:\n"
        "    tasks = [workers.submit(time.sleep, 600) for _ in range(4)]\n"
        "    while len(workers.pids()) < 2: time.sleep(0.01)\n"
        "    print(*workers.pids(), flush=True)\n"
        "    tasks[0].result()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    pids = [int(pid) for pid in child.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    child.send_signal(stop)
    child.wait(timeout=20)
    deadline = time.monotonic() + 20
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, pids))


@pytest.fixture(name="cluster", scope="module")
def _cluster():
    """The address of a real Dask cluster of two workers on this machine."""
    distributed = pytest.importorskip("distributed", reason="needs caffesurgery[dask]")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=None,
        silence_logs=50,
        env={"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
    ) as cluster:
        yield cluster.scheduler_address


def test_a_cluster_gives_what_processes_give(cluster):
    numbers = {"numbers": np.arange(5.0)}
    with open_workers(dask=cluster) as workers:
        assert run_all(workers, scaled, numbers, range(7)) == [10.0 * k for k in range(7)]
        assert len(set(run_all(workers, worker_of, None, range(12)))) == 2


def test_a_cluster_worker_that_dies_costs_a_retry(cluster, tmp_path):
    with open_workers(dask=cluster) as workers:
        assert run_all(workers, die_once, str(tmp_path), range(6)) == [k * k for k in range(6)]
        with pytest.raises(DecomposeError, match="conv3"):
            run_all(workers, refuse, None, range(6))
    assert (tmp_path / "2").exists()


def test_a_cluster_that_is_not_there_is_one_message(monkeypatch):
    monkeypatch.setattr("caffesurgery.workers.cluster._PATIENCE", 1)
    pytest.importorskip("distributed", reason="needs caffesurgery[dask]")
    with (
        pytest.raises(WorkerError, match="no Dask scheduler can be reached"),
        open_workers(dask="tcp://127.0.0.1:9"),
    ):
        pass


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"caffesurgery\[dask\]"), open_workers(dask="tcp://x:1"):
        pass
