"""The tensor power method's inner loop: C and Python alike to the bit, and refusals of C."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from caffesurgery.decompose import power, scheme
from caffesurgery.workers.threads import scipy_threads

COMPILED = power._power
needs_c = pytest.mark.skipif(COMPILED is None, reason="the C extension was not built")
SEPARATE = {3: power._Merged, 4: power._Separate}


def both(monkeypatch, work):
    """What ``work`` gives with the C extension and without it, BLAS doing the work."""
    monkeypatch.setattr(power, "scipy_threads", lambda: 1)
    found = []
    for module in (COMPILED, None):
        monkeypatch.setattr(power, "_power", module)
        found.append(work())
    return found


def same(first, second):
    return np.array_equal(first, second, equal_nan=True)


@needs_c
@settings(max_examples=30, deadline=None)
@given(
    st.tuples(*(st.integers(1, size) for size in (9, 7, 4, 4))),
    st.sampled_from([3, 4]),
    st.integers(0, 9),
)
def test_components_are_equal_to_the_bit(shape, ways, seed):
    block = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        compiled, plain = both(patch, lambda: list(islice(power.Deflation(block, ways), 12)))
    assert len(compiled) == len(plain)
    for (weight, vectors), (expected, others) in zip(compiled, plain):
        assert weight == expected
        assert all(map(np.array_equal, vectors, others)) and len(vectors) == len(others)


@pytest.mark.parametrize("ways", [3, 4])
def test_what_is_left_is_the_kernel_without_its_components(ways):
    block = np.random.default_rng(0).standard_normal((9, 7, 3, 2)).astype(np.float32)
    deflation = power.Deflation(block, ways)
    left = block.astype(np.float64)
    for weight, (inputs, *spatial, outputs) in islice(deflation, 12):
        pattern = spatial[0].reshape(3, 2) if ways == 3 else np.outer(*spatial)
        left -= weight * np.einsum("t,s,de->tsde", outputs, inputs, pattern)
    assert deflation.lost == pytest.approx(np.square(left).sum(), rel=1e-5)


@needs_c
@pytest.mark.parametrize("ways", [3, 4])
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1e38, 1e-42])
def test_values_at_the_edge_are_treated_alike(monkeypatch, ways, value):
    block = np.random.default_rng(1).standard_normal((5, 4, 3, 2)).astype(np.float32)
    block = np.where(block > 0.5, np.float32(value), np.zeros_like(block) if value == 0 else block)
    starts = np.random.default_rng(2).standard_normal((3, 6)).astype(np.float32)

    def work():
        rest = SEPARATE[ways](block)
        return rest.component(starts), *rest.vectors(), rest.image, rest.cube

    with np.errstate(all="ignore"):
        compiled, plain = both(monkeypatch, work)
    assert all(map(same, compiled, plain))


@needs_c
def test_a_start_with_nan_is_taken_as_by_argmax(monkeypatch):
    block = np.random.default_rng(1).standard_normal((3, 4, 2, 2)).astype(np.float32)
    block[1, 2] = np.nan
    starts = np.full((2, 4), np.nan, np.float32)
    starts[1] = 1

    def work():
        rest = power._Separate(block)
        return rest.component(starts), *rest.vectors()

    with np.errstate(all="ignore"):
        compiled, plain = both(monkeypatch, work)
    assert all(map(same, compiled, plain))


@needs_c
@pytest.mark.parametrize(
    ("sizes", "error"),
    [
        ((3, 4, 2, 2), None),
        ((4, 3, 2, 2), ValueError),
        ((3, 4, 4, 2), ValueError),
        ((0, 4, 2, 2), ValueError),
        ((3, -4, 2, 2), ValueError),
        ((3, 4, 2**31 - 1, 2**31 - 1), OverflowError),
        ((2**31 - 1, 4, 2, 2), OverflowError),
        ((2**40, 4, 2, 2), OverflowError),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, error):
    rest = power._Merged(np.ones((3, 4, 2, 2), np.float32))
    starts = np.ones((1, 4), np.float32)
    arguments = (rest.cube, rest.work, starts, sizes, False, 2, 5, 1e-3, 1e-35, 1)
    if error is None:
        assert COMPILED.component(*arguments) > 0
    else:
        with pytest.raises(error):
            COMPILED.component(*arguments)


@needs_c
def test_buffers_that_do_not_fit_are_refused():
    rest = power._Merged(np.ones((3, 4, 2, 2), np.float32))
    good = [rest.cube, rest.work, np.ones((2, 4), np.float32)]
    frozen = rest.work.copy()
    frozen.flags.writeable = False
    odd = np.zeros(rest.work.nbytes + 1, np.uint8)[1:]
    for place, bad in [
        (0, rest.cube[:1]), (0, rest.cube.astype(np.float64)), (0, rest.cube[..., ::-1]),
        (1, rest.work[1:]), (1, frozen), (1, odd), (2, np.ones((2, 3), np.float32)),
        (2, np.ones((0, 4), np.float32)), (0, None),
    ]:  # fmt: skip
        given_ = [*good[:place], bad, *good[place + 1 :]]
        with pytest.raises((ValueError, TypeError, BufferError)):
            COMPILED.component(*given_, (3, 4, 2, 2), False, 2, 5, 1e-3, 1e-35, 1)
    for count in (-1, 4, 65):
        with pytest.raises(ValueError, match=f"threads is {count}, it must be 0 to 64"):
            COMPILED.component(*good, (3, 4, 2, 2), False, 2, 5, 1e-3, 1e-35, count)
    for counts in ((0, 5), (2, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            COMPILED.component(*good, (3, 4, 2, 2), False, *counts, 1e-3, 1e-35, 1)


def found_by(monkeypatch, threads, block, ways):
    """Components of a kernel by so many threads, as far as it has outputs."""
    monkeypatch.setattr(power, "_WORTH", 1)
    monkeypatch.setattr(power, "scipy_threads", lambda: threads)
    return list(islice(power.Deflation(block, ways), 8))


SHAPES = [(9, 7, 3, 3), (2, 5, 2, 2), (1, 6, 3, 1), (8, 6, 1, 1), (4, 1, 3, 3), (37, 1200, 2, 1)]


@needs_c
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ways", [3, 4])
def test_several_threads_find_what_one_finds(monkeypatch, shape, ways):
    block = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    alone = found_by(monkeypatch, 1, block, ways)
    for threads in (2, 3):
        found = found_by(monkeypatch, threads, block, ways)
        again = found_by(monkeypatch, threads, block, ways)
        assert len(found) == len(again) == len(alone)
        for (weight, vectors), (same_weight, same_vectors) in zip(found, again):
            assert weight == same_weight and all(map(np.array_equal, vectors, same_vectors))
        for (weight, vectors), (expected, others) in zip(found, alone):
            assert weight == pytest.approx(expected, rel=1e-5)
            for vector, other in zip(vectors, others):
                assert np.abs(vector - other).max() < 1e-4


@needs_c
@pytest.mark.parametrize("shape", [(5, 4, 3, 2), (40, 90, 2, 2), (3, 1, 1, 1)])
def test_the_gram_matrix_is_that_of_one_thread(monkeypatch, shape):
    block = np.random.default_rng(6).standard_normal(shape).astype(np.float32)
    monkeypatch.setattr(power, "_WORTH", 1)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(power, "scipy_threads", lambda threads=threads: threads)
        found.append(np.triu(power._Merged(block).gram()))
    assert np.abs(found[1] - found[0]).max() < 1e-6 * found[0].max()
    rest = power._Merged(block)
    for out in (np.zeros(3, np.float32), np.zeros((9, 9), np.float32)):
        with pytest.raises(ValueError, match="fit the sizes"):
            COMPILED.gram(rest.cube, rest.work, out, rest.sizes, rest.threads)


@needs_c
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1e-42])
def test_several_threads_end_at_the_edge_too(monkeypatch, value):
    block = np.random.default_rng(1).standard_normal((5, 4, 3, 2)).astype(np.float32)
    block = np.where(block > 0.5, np.float32(value), np.zeros_like(block) if value == 0 else block)
    starts = np.random.default_rng(2).standard_normal((3, 6)).astype(np.float32)
    weights = []
    monkeypatch.setattr(power, "_WORTH", 1)
    for threads in (1, 3):
        monkeypatch.setattr(power, "scipy_threads", lambda threads=threads: threads)
        weights.append(power._Separate(block).component(starts))
    assert weights[1] == pytest.approx(weights[0], rel=1e-5, nan_ok=True)


@needs_c
def test_several_callers_have_teams_of_their_own(monkeypatch):
    blocks = [np.random.default_rng(i).standard_normal((12, 10, 3, 3)) for i in range(4)]
    alone = [found_by(monkeypatch, 3, block, 4) for block in blocks]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda block: list(islice(power.Deflation(block, 4), 8)), 3 * blocks)
        for one, other in zip(found, 3 * alone):
            assert [weight for weight, _ in one] == [weight for weight, _ in other]
            assert all(map(np.array_equal, one[-1][1], other[-1][1]))


@needs_c
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_starts_helpers_of_its_own():
    code = """
import os
from itertools import islice
import numpy as np
from caffesurgery.decompose import power
power._WORTH, power.scipy_threads = 1, lambda: 2
block = np.ones((8, 6, 3, 3), np.float32)
find = lambda: next(iter(power.Deflation(block, 3)))[0]
first = find()
child = os.fork()
if child == 0:
    os._exit(find() != first)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "0", done.stderr


@needs_c
def test_threads_are_those_of_scipy(monkeypatch):
    for threads, small, large in ((1, 0, 0), (4, 1, 4)):
        monkeypatch.setattr(power, "scipy_threads", lambda threads=threads: threads)
        assert power._threads(100, 100) == small
        assert power._threads(100, 1 << 30) == large
    assert power._threads(2, 1 << 30) == 2
    monkeypatch.setattr(power, "_power", None)
    assert power._threads(100, 1 << 30) == 0
    assert scipy_threads() >= 1


def test_layers_in_threads_are_as_one_by_one():
    kernels = [np.random.default_rng(i).standard_normal((12, 10, 3, 3)) for i in range(4)]
    alone = [scheme("cp4-tpm").decompose(kernel, 1, (9,)).factors for kernel in kernels]
    found: dict = {}

    def run(index):
        found[index] = scheme("cp4-tpm").decompose(kernels[index], 1, (9,)).factors

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, factors in enumerate(alone):
        assert all(map(np.array_equal, factors, found[index]))


def test_the_environment_can_ask_for_python():
    code = "from caffesurgery.decompose import power; print(power.backend)"
    environment = {**os.environ, "CAFFESURGERY_PURE": "1", "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Python"
    assert power.backend == ("Python" if COMPILED is None else "C")
