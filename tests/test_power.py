"""The tensor power method's inner loop: C and Python alike to the bit, and refusals of C."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from itertools import islice

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from caffesurgery.decompose import power, scheme

COMPILED = power._power
needs_c = pytest.mark.skipif(COMPILED is None, reason="the C extension was not built")
SEPARATE = {3: power._Merged, 4: power._Separate}


def both(monkeypatch, work):
    """What ``work`` gives with the C extension and without it."""
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
        compiled, plain = both(patch, lambda: list(islice(power.components(block, ways), 12)))
    assert len(compiled) == len(plain)
    for (weight, vectors), (expected, others) in zip(compiled, plain):
        assert weight == expected
        assert all(map(np.array_equal, vectors, others)) and len(vectors) == len(others)


@needs_c
@pytest.mark.parametrize("ways", [3, 4])
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1e38, 1e-42])
def test_values_at_the_edge_are_treated_alike(monkeypatch, ways, value):
    block = np.random.default_rng(1).standard_normal((5, 4, 3, 2)).astype(np.float32)
    block = np.where(block > 0.5, np.float32(value), np.zeros_like(block) if value == 0 else block)
    starts = np.random.default_rng(2).standard_normal((3, 6)).astype(np.float32)

    def work():
        rest = SEPARATE[ways](block)
        return rest.component(starts), *rest.vectors(), rest.image

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
    arguments = (rest.cube, rest.work, starts, sizes, False, 2, 5, 1e-3, 1e-35)
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
            COMPILED.component(*given_, (3, 4, 2, 2), False, 2, 5, 1e-3, 1e-35)
    for counts in ((0, 5), (2, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            COMPILED.component(*good, (3, 4, 2, 2), False, *counts, 1e-3, 1e-35)


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
