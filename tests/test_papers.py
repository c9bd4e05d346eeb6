"""The papers' numbers come out of our counting: layer tables, totals, equations, rearrangements."""

from __future__ import annotations

import json

import pytest

from caffesurgery.cost import (
    Cost,
    Sizes,
    chain_cost,
    chain_sizes,
    column_elements,
    dense_cost,
    rearrangements,
)
from caffesurgery.decompose import Geometry, scheme
from caffesurgery.files.resources import resource
from caffesurgery.net.net import read_net
from caffesurgery.net.shapes import infer


@pytest.fixture(name="tables")
def _tables(shared):
    return json.loads(shared("papers", "tables.json").read_text())


def geometry(row) -> Geometry:
    """A row's geometry: a convolution, whose S is that of one group, or a matrix M to N."""
    if "M" in row:
        return Geometry(row["N"], row["M"], 1, 1, kind="fc")
    return Geometry(row["T"], row["S"] * row["group"], row["D"], row["D"], row["group"])


def sizes(row, which="H_in") -> Sizes:
    if "M" in row:
        return Sizes()
    return Sizes(row[which], row[which], row["H_out"], row["H_out"])


def dense(row) -> Cost:
    return dense_cost(geometry(row), sizes(row), bias=False)


def chain(row, method, ranks, which="H_in") -> Cost:
    parts = scheme(method).parts(geometry(row), ranks)
    return chain_cost(parts, sizes(row, which), bias=False)


def total(costs) -> Cost:
    return sum(costs, Cost(0, 0))


def cp_svd(net, conv_ranks, fc_ranks, which) -> Cost:
    """A net of paper 000: its first convolution 2-way, the others 3-way, matrices by SVD; what
    has no ranks is kept."""
    conv, fc = net["conv"], net.get("fc", [])
    methods = ["cp2"] + ["cp3"] * (len(conv) - 1)
    small = total(chain(r, m, (n,), which) for r, m, n in zip(conv, methods, conv_ranks))
    small += total(chain(r, "svd", (n,)) for r, n in zip(fc, fc_ranks))
    cut = total(dense(row) for row in (*conv, *fc[: len(fc_ranks)]))
    kept_params = net["total_params"] - cut.params
    return small + Cost(kept_params, net["total_macs"] - cut.macs)


def test_layer_tables_and_totals_come_out(tables):
    for name, net in tables["networks"].items():
        for row in net["conv"]:
            assert dense(row) == Cost(row["params"], row["macs"]), (name, row["layer"])
        listed = total(dense(row) for row in (*net["conv"], *net.get("fc", [])))
        if "decomposed_params" in net:
            assert listed == Cost(net["decomposed_params"], net["decomposed_macs"])
        else:
            assert listed == Cost(net["total_params"], net["total_macs"])


def test_totals_are_those_of_the_zoo_without_biases(tables):
    for name, net in tables["networks"].items():
        shapes = infer(read_net(resource("models", name, "deploy.prototxt")), batch=1)
        weights = sum(
            entry.parameters - (entry.params[-1][0] if len(entry.params) > 1 else 0)
            for entry in shapes.layers
        )
        assert (weights, shapes.macs) == (net["total_params"], net["total_macs"])


def test_alexnet_s_true_input_sizes_are_those_of_the_zoo(tables):
    shapes = infer(read_net(resource("models", "alexnet", "deploy.prototxt")), batch=1)
    for row in tables["networks"]["alexnet"]["conv"]:
        entry = shapes.layer(row["layer"])
        assert (entry.bottoms[0][2], entry.tops[0][2]) == (row["H_in"], row["H_out"])


@pytest.mark.parametrize("index", range(4))
def test_cp_svd_nets_of_paper_000_have_their_parameters_and_macs(tables, index):
    case = tables["etri_cp_svd"]["cases"][index]
    net = tables["networks"][case["net"]]
    ranks = case["conv_ranks"], case.get("fc_ranks", [])
    met = {which: cp_svd(net, *ranks, which) for which in ("H_in", "H_paper")}
    assert met["H_in"] == Cost(case["exact_params"], case["exact_macs_H_in"])
    paper = case.get("exact_macs_H_paper", case["exact_macs_H_in"])
    assert met["H_paper"] == Cost(case["exact_params"], paper)
    assert f"{round(met['H_paper'].macs / 1e6)}M" == case["printed"]["macs"]
    assert f"{met['H_paper'].params / 1e6:.1f}M" == case["printed"]["weights"]


def test_conv_only_nets_of_paper_003_have_their_parameters_and_macs(tables):
    net = tables["networks"]["alexnet"]
    for case in (tables["vbmf_cp"], tables["vbmf_cp"]["sensitivity_row"]):
        for which in ("H_in", "H_paper"):
            want = Cost(case["exact_params"], case[f"exact_macs_{which}"])
            assert cp_svd(net, case["conv_ranks_total"], [], which) == want
        assert f"{round(want.macs / 1e6)}M" == case["printed"]["macs"]
        assert f"{want.params / 1e6:.1f}M" == case["printed"]["weights"]


def test_equations_18_to_20_of_paper_000(tables):
    """E and C as printed, from the dense layer's cost over the chain's."""
    case = tables["etri_cp_svd"]["cases"][0]
    net = tables["networks"]["alexnet"]
    for row, rank in list(zip(net["conv"], case["conv_ranks"]))[1:]:
        one = dict(row, group=1)  # the equations are those of one group
        T, S, D, R = one["T"], one["S"], one["D"], rank
        before, after = one["H_in"] ** 2, one["H_out"] ** 2
        E = T * S * D**2 / (R * S + R * D**2 + T * R)
        C = T * S * D**2 * after / (R * S * before + R * D**2 * after + T * R * after)
        assert dense(one).over(chain(one, "cp3", (R,))) == pytest.approx((E, C), rel=1e-12)
    for row, R in zip(net["fc"], case["fc_ranks"]):
        E = row["M"] * row["N"] / (row["M"] * R + R * row["N"])
        assert dense(row).over(chain(row, "svd", (R,))) == pytest.approx((E, E), rel=1e-12)


def test_tucker_rows_of_alexnet_in_paper_001_and_their_sum(tables):
    net = tables["networks"]["alexnet"]
    by_name = {row["layer"]: row for row in (*net["conv"], *net["fc"])}
    met = []
    for row in tables["tucker"]["alexnet"]:
        layer, group = by_name[row["layer"]], row.get("group", 1)
        if "as_conv" in row:  # fc6 as the 6 x 6 convolution that it is
            parts = scheme("tucker2").parts(
                Geometry(4096, 256, 6, 6, kind="fc"), (row["R3"], row["R4"])
            )
            met.append(chain_cost(parts, Sizes(6, 6, 1, 1), bias=False))
        elif "kind" in row:
            met.append(chain(layer, row["kind"], (row["R4"],)))
        elif "R" in row:
            met.append(chain(layer, "svd", (row["R"],)))
        else:  # this paper's ranks of grouped layers are those of one group
            met.append(chain(layer, "tucker2", (row["R3"] * group, row["R4"] * group)))
        assert met[-1] == Cost(row["params"], row["macs"]), row["layer"]
    want = tables["tucker"]["alexnet_total"]
    assert total(met) == Cost(want["params"], want["macs"])
    assert f"{round(want['params'] / 1e6)}M" == want["printed_params"]


def test_tucker_rows_of_vgg16_in_paper_001_that_agree(tables):
    conv = {row["layer"]: row for row in tables["networks"]["vgg16"]["conv"]}
    for row in tables["tucker"]["vgg16_rows_that_agree"]:
        met = chain(conv[row["layer"]], "tucker2", (row["R3"], row["R4"]))
        assert met.macs == row["macs"], row["layer"]


@pytest.mark.parametrize("which, printed", [("baseline", None), ("rank_selection", "printed")])
def test_two_pass_speed_ups_of_paper_002(tables, which, printed):
    case = tables["two_pass"]
    conv = {row["layer"]: row for row in tables["networks"]["vgg16"]["conv"]}
    rows = [conv[name] for name in case["layers"]]
    small = total(chain(r, "cp4", (n,)) for r, n in zip(rows, case[f"{which}_ranks"]))
    speed_up = total(map(dense, rows)).over(small)[1]
    want = case["theoretical_speedup_of_the_12_layers"][which]
    assert speed_up == pytest.approx(want, abs=5e-5)
    if printed:
        assert round(speed_up, 1) == case[printed]["theoretical"]


CONV1 = Geometry(96, 3, 11, 11)
CONV1_SIZES = Sizes(227, 227, 55, 55)


@pytest.mark.parametrize(
    "method, millions, moved",
    [
        ("cp2", 54.9, 3 * 121 * 55**2),
        ("cp3", 915, 50 * 121 * 55**2),
        ("cp4", 426, 50 * 11 * 55 * 227 + 50 * 11 * 55**2),
    ],
)
def test_rearrangements_of_conv1_in_the_appendix_of_paper_000(method, millions, moved):
    parts = scheme(method).parts(CONV1, (50,))
    assert abs(rearrangements(parts, CONV1_SIZES) / 1e6 - millions) < 0.6
    columns = [
        column_elements(part.inp, part.kh, part.kw, its)
        for part, its in chain_sizes(parts, CONV1_SIZES)
    ]
    assert sum(columns) == moved


def test_only_a_1x1_kernel_that_moves_pixel_by_pixel_needs_no_columns():
    assert column_elements(8, 1, 1, Sizes(9, 9, 9, 9)) == 0
    assert column_elements(8, 1, 1, Sizes(9, 9, 5, 5)) == 200  # stride 2
    assert column_elements(8, 3, 1, Sizes(9, 9, 9, 9)) == 24 * 81
