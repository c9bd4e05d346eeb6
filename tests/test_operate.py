"""A whole net at once: the same for any number of workers, in the memory of what is in flight."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from nets import write_net

import caffesurgery
from caffesurgery.decompose import SCHEMES


def deep(count: int, channels: int) -> str:
    """A net of equal 3 x 3 convolutions, one after the other."""
    lines = [f'name: "deep" input: "c0" input_dim: 1 input_dim: {channels}']
    lines += ["input_dim: 4 input_dim: 4"]
    lines += [
        f'layer {{ name: "c{k}" type: "Convolution" bottom: "c{k - 1}" top: "c{k}" '
        f"convolution_param {{ num_output: {channels} kernel_size: 3 pad: 1 }} }}"
        for k in range(1, count + 1)
    ]
    return "\n".join(lines)


def factors(operated):
    return [
        np.asarray(blob)
        for layers in operated.weights.values()
        for layer in layers
        for blob in layer.blobs
    ]


@pytest.mark.parametrize("method", sorted(SCHEMES))
def test_the_outcome_does_not_depend_on_the_number_of_workers(tmp_path, method):
    if "conv" not in SCHEMES[method].kinds:
        pytest.skip("no convolution")
    model = caffesurgery.load(*write_net(tmp_path, deep(4, 8)))
    plan = caffesurgery.plan(model, method, "ratio=0.5", seed=3, allow_growth=True)
    one, *others = (caffesurgery.apply(model, plan, jobs=jobs) for jobs in (1, 2, 4))
    for other in others:
        assert list(one.operated.weights) == list(other.operated.weights)
        pairs = zip(factors(one.operated), factors(other.operated))
        assert all(np.array_equal(a, b) for a, b in pairs)
        records = ([done.error for done in x.operated.replaced] for x in (one, other))
        assert next(records) == next(records)


def peak(model, plan, jobs) -> int:
    """Bytes above what the outcome itself takes, at the worst moment of an operation."""
    tracemalloc.start()
    try:
        operated = caffesurgery.apply(model, plan, jobs=jobs).operated
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return most - sum(blob.nbytes for blob in factors(operated))


@pytest.mark.parametrize("method", ["cp3", "tucker2", "tucker2-cp", "spatial"])
def test_memory_is_that_of_the_layers_in_flight(tmp_path, method):
    peaks = {}
    for count in (1, 8):
        model = caffesurgery.load(*write_net(tmp_path / str(count), deep(count, 64)))
        plan = caffesurgery.plan(model, method, "ratio=0.2")
        peaks[count] = peak(model, plan, 1)
    kernel = 64 * 64 * 9 * 4
    assert peaks[8] < peaks[1] + kernel, "eight layers, one at a time, take no more than one"
    assert peaks[1] < 12 * kernel
