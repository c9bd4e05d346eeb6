"""The schemes' geometry against the tables of the papers: parameters, MACs, speed-ups."""

from __future__ import annotations

import json

import pytest

from caffesurgery.decompose import Geometry, scheme


@pytest.fixture
def tables(shared):
    return json.loads(shared("papers", "tables.json").read_text())


def geometry(row):
    return Geometry(row["T"], row["S"] * row["group"], row["D"], row["D"], row["group"])


def parameters(part):
    return part.out * part.inp // part.group * part.kh * part.kw


def macs(parts, before, after):
    """MACs of a chain on a square map of ``before``, which the part with axes makes ``after``."""
    total, size = 0, before
    for part in parts:
        size = after if part.axes else size
        total += parameters(part) * size * size
    return total


def cp_parts(row, rank):
    first = row["S"] == 3
    return scheme("cp2" if first else "cp3").parts(geometry(row), (rank,))


def svd_parts(row, rank):
    return scheme("svd").parts(Geometry(row["N"], row["M"], 1, 1, kind="fc"), (rank,))


@pytest.mark.parametrize("index", range(4))
def test_cp_svd_rows_of_paper_000_have_their_parameters_and_macs(tables, index):
    case = tables["etri_cp_svd"]["cases"][index]
    net = tables["networks"][case["net"]]
    chains = [cp_parts(row, r) for row, r in zip(net["conv"], case["conv_ranks"])]
    dense = [svd_parts(row, r) for row, r in zip(net.get("fc", []), case.get("fc_ranks", []))]
    small = sum(parameters(p) for chain in chains + dense for p in chain)
    kept = net["total_params"] - net.get("decomposed_params", net["total_params"])
    assert kept + small == case["exact_params"]
    kept = net["total_macs"] - net.get("decomposed_macs", net["total_macs"])
    for which in ("H_in", "H_paper"):
        if f"exact_macs_{which}" in case:
            total = sum(
                macs(chain, row[which], row["H_out"]) for chain, row in zip(chains, net["conv"])
            )
            total += sum(parameters(p) for chain in dense for p in chain)
            assert kept + total == case[f"exact_macs_{which}"]


def test_vbmf_rows_of_paper_003_have_their_parameters_and_macs(tables):
    net = tables["networks"]["alexnet"]
    fc = sum(row["M"] * row["N"] for row in net["fc"])
    for case in (tables["vbmf_cp"], tables["vbmf_cp"]["sensitivity_row"]):
        chains = [cp_parts(row, r) for row, r in zip(net["conv"], case["conv_ranks_total"])]
        assert fc + sum(parameters(p) for c in chains for p in c) == case["exact_params"]
        total = sum(macs(c, r["H_in"], r["H_out"]) for c, r in zip(chains, net["conv"]))
        assert fc + total == case["exact_macs_H_in"]


def test_tucker_rows_of_paper_001_have_their_parameters_and_macs(tables):
    net = tables["networks"]["alexnet"]
    conv = {row["layer"]: row for row in net["conv"]}
    fc = {row["layer"]: row for row in net["fc"]}
    for row in tables["tucker"]["alexnet"]:
        name, group = row["layer"], row.get("group", 1)
        if row.get("kind") == "tucker1-out":
            parts = scheme("tucker1-out").parts(geometry(conv[name]), (row["R4"],))
        elif "as_conv" in row:
            spatial = Geometry(4096, 256, 6, 6, kind="fc")
            parts = scheme("tucker2").parts(spatial, (row["R3"], row["R4"]))
        elif "R" in row:
            parts = svd_parts(fc[name], row["R"])
        else:
            # This paper's ranks of grouped layers are those of one group.
            ranks = [row["R3"] * group, row["R4"] * group]
            parts = scheme("tucker2").parts(geometry(conv[name]), ranks)
        sizes = {"fc6": (6, 1)}.get(name, (1, 1))
        if name in conv:
            sizes = (conv[name]["H_in"], conv[name]["H_out"])
        assert sum(map(parameters, parts)) == row["params"], name
        assert macs(parts, *sizes) == row["macs"], name


def test_tucker_rows_of_vgg16_have_their_macs(tables):
    conv = {row["layer"]: row for row in tables["networks"]["vgg16"]["conv"]}
    for row in tables["tucker"]["vgg16_rows_that_agree"]:
        dense = conv[row["layer"]]
        parts = scheme("tucker2").parts(geometry(dense), (row["R3"], row["R4"]))
        assert macs(parts, dense["H_in"], dense["H_out"]) == row["macs"], row["layer"]


@pytest.mark.parametrize("which", ["baseline", "rank_selection"])
def test_two_pass_speed_ups_of_paper_002(tables, which):
    case = tables["two_pass"]
    conv = {row["layer"]: row for row in tables["networks"]["vgg16"]["conv"]}
    dense = small = 0
    for name, rank in zip(case["layers"], case[f"{which}_ranks"]):
        row = conv[name]
        dense += row["macs"]
        parts = scheme("cp4").parts(geometry(row), (rank,))
        small += sum(map(parameters, parts)) * row["H_out"] ** 2
    want = case["theoretical_speedup_of_the_12_layers"][which]
    assert dense / small == pytest.approx(want, abs=1e-4)
