"""What decompositions refuse: ranks, numbers, arrays and chains that cannot be, each saying why."""

from __future__ import annotations

import numpy as np
import pytest

from caffesurgery.decompose import SCHEMES, Geometry, Part, compose, scheme
from caffesurgery.errors import DecomposeError


def kernel(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def refused(text, call, *args, **kwargs):
    with pytest.raises(DecomposeError) as error:
        call(*args, **kwargs)
    assert str(error.value) == text


def test_unknown_scheme_lists_the_known_ones():
    with pytest.raises(DecomposeError, match="unknown decomposition 'tucker'.*cp3.*svd.*tucker2"):
        scheme("tucker")


def test_ranks_that_are_not_possible_are_refused_with_those_that_are():
    grouped = Geometry(8, 6, 3, 3, group=2)
    cp3, tucker2 = scheme("cp3"), scheme("tucker2")
    refused(
        "cp3: rank 5 does not divide over 2 groups (ranks are totals over the groups): use 4 or 6",
        cp3.parts,
        grouped,
        (5,),
    )
    refused(
        "cp3: rank 1 does not divide over 2 groups (ranks are totals over the groups): use 2",
        cp3.parts,
        grouped,
        (1,),
    )
    refused(
        "tucker2: in rank 7 is more than a 8 x 6 x 3 x 3 kernel has: the largest possible is 6",
        tucker2.check_ranks,
        Geometry(8, 6, 3, 3),
        (7, 2),
    )
    refused(
        "cp3: rank 25 is more than a 4 x 6 x 3 x 3 kernel has: the largest possible is 24",
        cp3.decompose,
        kernel(4, 6, 3, 3),
        1,
        (25,),
    )
    refused("cp3: rank 0: expected an integer from 1", cp3.parts, grouped, (0,))
    refused("cp3: rank 2.5: expected an integer from 1", cp3.parts, grouped, (2.5,))
    refused("tucker2 takes 2 rank(s) (in, out), met (4,)", tucker2.parts, grouped, (4,))
    refused(
        "energy 1.5: expected a share of the squared norm in (0, 1]",
        cp3.ranks_for_energy,
        kernel(4, 2, 3, 3),
        1,
        1.5,
    )


def test_numbers_that_are_not_weights_are_refused_saying_how_many_and_where():
    weight = kernel(4, 2, 3, 3)
    weight[1, 0, 2, 1] = np.nan
    weight[3, 1] = np.inf
    for name in SCHEMES:
        refused(
            "the kernel holds 1 NaN, 9 infinite of 72 values, the first at "
            "[t, s, y, x] = [1, 0, 2, 1]: only finite weights can be decomposed",
            scheme(name).decompose,
            weight,
            1,
            [2] * len(scheme(name).rank_names),
        )
    large = np.ones((2, 3))
    large[1, 2] = -1e39
    refused(
        "the kernel holds 1 too large for float32 of 6 values, the first at "
        "[t, s, y, x] = [1, 2, 0, 0]: only finite weights can be decomposed",
        scheme("svd").decompose,
        large,
        1,
        (1,),
    )


def test_arrays_that_are_not_kernels_are_refused():
    svd = scheme("svd").decompose
    with pytest.raises(DecomposeError, match=r"shape \(3,\): expected \(T, S, D, E\)"):
        svd(np.ones(3), 1, (1,))
    with pytest.raises(DecomposeError, match="without empty axes"):
        svd(np.ones((3, 0)), 1, (1,))
    with pytest.raises(DecomposeError, match="int64: expected float16, 32 or 64"):
        svd(np.ones((3, 3), np.int64), 1, (1,))
    with pytest.raises(DecomposeError, match="3 output channels do not divide into 2 groups"):
        svd(kernel(3, 3), 2, (2,))
    with pytest.raises(DecomposeError, match="8 output and 6 input channels do not divide into 4"):
        Geometry(8, 6, 3, 3, group=4)


def test_a_scheme_says_why_it_does_not_apply():
    pointwise, flat = Geometry(8, 6, 1, 1), Geometry(8, 6, 1, 1, kind="fc")
    assert scheme("cp3").applies(pointwise) == "needs a kernel larger than 1 x 1"
    assert scheme("cp4").applies(Geometry(8, 6, 3, 1)) == "needs a kernel larger than 1 both ways"
    assert scheme("tucker2").applies(flat) == "needs a kernel larger than 1 x 1"
    assert scheme("cp2").applies(flat) == "cp2 is for conv layers"
    assert scheme("svd").applies(pointwise) == "svd is for fc layers"
    assert scheme("cp2").applies(pointwise) is None
    assert scheme("svd").applies(flat) is None


def test_chains_that_do_not_fit_together_are_refused():
    parts = scheme("cp3").parts(Geometry(8, 6, 3, 3), (4,))
    factors = [np.zeros(p.weight_shape, np.float32) for p in parts]
    with pytest.raises(DecomposeError, match="2 factors for a chain of 3 layers"):
        compose(factors[:2], parts)
    with pytest.raises(DecomposeError, match=r"factor _s has shape \(8, 4, 1, 1\), expected"):
        compose(factors[::-1], parts)
    with pytest.raises(DecomposeError, match="_t gives 8 channels, _s takes 6"):
        compose([factors[2], factors[0]], [parts[2], parts[0]])
    with pytest.raises(DecomposeError, match=r"groups \[1, 4, 1\] .* 2 groups"):
        compose(factors, parts, 2)
    twice = [Part("_a", 4, 2, 3, 3), Part("_b", 4, 4, 3, 1)]
    with pytest.raises(DecomposeError, match="larger than 1 on one spatial axis"):
        compose([np.zeros(p.weight_shape) for p in twice], twice)
