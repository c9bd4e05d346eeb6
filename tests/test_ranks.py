"""Rank rules: what they promise about costs and energy, on geometry alone and on kernels."""

from __future__ import annotations

import json

import numpy as np
import pytest

from caffesurgery.cost import Sizes, chain_cost, dense_cost
from caffesurgery.decompose import SCHEMES, Geometry
from caffesurgery.errors import RankError, UsageError
from caffesurgery.ranks import RULES, Candidate, Choice, RuleContext, Skip, parse_rule


def candidate(name="conv", scheme="cp3", T=32, S=24, D=3, E=3, group=1, stride=1, kind="conv"):
    rng = np.random.default_rng(0)
    geometry = Geometry(T, S, D, E, group, kind)
    kernel = rng.standard_normal(geometry.weight_shape, np.float32)
    kernel *= np.arange(1, T + 1, dtype=np.float32).reshape(-1, 1, 1, 1) ** -1.5
    sizes = Sizes(12, 10, 12 // stride, 10 // stride)
    return Candidate(name, SCHEMES[scheme], geometry, sizes, True, lambda: kernel)


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
@pytest.mark.parametrize("group, stride", [(1, 1), (2, 1), (1, 2)])
def test_ratio_takes_the_largest_ranks_within_the_budget(scheme, group, stride):
    if scheme == "svd":
        one = candidate(scheme=scheme, T=40, S=90, D=1, E=1, kind="fc")
    else:
        one = candidate(scheme=scheme, group=group, stride=stride)
    choice = parse_rule("ratio=0.3").allocate([one])["conv"]
    assert isinstance(choice, Choice)
    assert all(rank % one.geometry.group == 0 for rank in choice.ranks)
    budget = 0.3 * one.before.macs
    assert one.after(choice.ranks).macs <= budget
    larger = tuple(rank + one.geometry.group for rank in choice.ranks)
    if all(rank <= most for rank, most in zip(larger, one.max_ranks)):
        assert one.after(larger).macs > budget


def test_ratio_says_when_even_the_smallest_rank_is_too_much():
    skip = parse_rule("ratio=0.001").allocate([candidate()])["conv"]
    assert isinstance(skip, Skip) and "even the smallest rank" in skip.why


@pytest.mark.parametrize("scheme", ["cp2", "tucker1-out", "spatial", "channel"])
def test_energy_keeps_the_share_and_no_rank_less_would(scheme):
    one = candidate(scheme=scheme)
    choice = parse_rule("energy=0.9").allocate([one], RuleContext(growth=True))["conv"]
    for ranks, enough in ((choice.ranks, True), ((choice.ranks[0] - 1,), False)):
        error = one.scheme.decompose(one.kernel(), 1, ranks).error
        assert (1 - error**2 >= 0.9 - 1e-6) is enough


def test_energy_bounds_the_error_of_cp():
    one = candidate(scheme="cp3")
    ranks = parse_rule("energy=0.8").allocate([one], RuleContext(growth=True))["conv"].ranks
    assert one.scheme.decompose(one.kernel(), 1, ranks).error <= np.sqrt(0.2) + 1e-4


@pytest.mark.parametrize("scheme", ["cp3", "cp3-tpm", "tucker2", "spatial"])
def test_error_is_reached_by_what_the_rule_chooses(scheme):
    one = candidate(scheme=scheme, group=2)
    choice = parse_rule("error=0.4").allocate([one], RuleContext(growth=True))["conv"]
    assert one.scheme.error_for_rank(one.kernel(), 2, choice.ranks) <= 0.4 + 2e-5
    assert choice.why == "error=0.4 of its norm"
    limited = parse_rule("error=0.0001").allocate([one])["conv"]
    if scheme != "tucker2":
        assert one.after(limited.ranks).macs >= one.before.macs or limited.ranks == one.max_ranks


def test_explicit_ranks_by_name_pattern_and_max():
    layers = [
        candidate("conv1"),
        candidate("conv2", "tucker2"),
        candidate("conv3"),
        candidate("other"),
    ]
    found = parse_rule("conv1=7,conv2=5x6,conv*=max").allocate(layers)
    assert found["conv1"].ranks == (7,)
    assert found["conv2"].ranks == (5, 6)
    assert found["conv3"].ranks == layers[2].max_ranks
    assert isinstance(found["other"], Skip)


def test_names_of_layers_may_hold_slashes():
    assert parse_rule("a/3x3=9").allocate([candidate("a/3x3")])["a/3x3"].ranks == (9,)


@pytest.mark.parametrize(
    "rule, message",
    [
        ("conv=1x2", "takes one rank"),
        ("conv=many", "takes one rank"),
        ("conv=3", "use 2 or 4"),
        ("conv=0", "expected an integer from 1"),
        ("cnv=4", "did you mean 'conv'"),
    ],
)
def test_explicit_ranks_that_cannot_be(rule, message):
    with pytest.raises(RankError, match=message):
        parse_rule(rule).allocate([candidate(group=2)])


def test_a_rank_beyond_the_full_one_leaves_the_layer_alone():
    one = candidate(scheme="cp2", T=64, S=3)
    skip = parse_rule("conv=59").allocate([one])["conv"]
    assert isinstance(skip, Skip) and "largest possible is 27" in skip.why
    with pytest.raises(RankError, match="largest possible is 27"):
        parse_rule("conv=59").allocate([one], RuleContext(growth=True))


@pytest.mark.parametrize(
    "rule", ["", "ratio", "ratios", "=4", "conv=", "ratio=2", "energy=x", "error=1"]
)
def test_malformed_rules_are_usage_errors_that_show_the_rules(rule):
    with pytest.raises(UsageError, match="for example|one of"):
        parse_rule(rule).allocate([candidate()])


@pytest.mark.parametrize(
    "rule, message",
    [
        ("ratio=0.5:macs=1", "takes nothing behind a colon"),
        ("ratoi=0.5:x=1", "did you mean 'ratio'"),
        ("energy:0.9", "expected a rule with its value"),
    ],
)
def test_words_behind_a_colon_are_read_against_what_the_rule_takes(rule, message):
    with pytest.raises(UsageError, match=message):
        parse_rule(rule)


def test_names_of_layers_may_hold_colons():
    assert parse_rule("a:0=9").allocate([candidate("a:0")])["a:0"].ranks == (9,)


def test_a_rule_that_needs_data_says_so():
    with pytest.raises(RankError, match="needs labelled images"):
        RuleContext().measured("any", [{}])
    assert RuleContext(measure=lambda cases: [0.5 for _ in cases]).measured("any", [{}]) == [0.5]


def test_every_rule_is_documented():
    from caffesurgery.files.resources import resource

    page = resource("docs", "ranks.md").read_text(encoding="utf-8")
    for rule in RULES.values():
        assert rule.example.split(",")[0] in page and rule.summary


def test_costs_are_those_of_the_papers(shared):
    """Table 1 and 5 of paper 000, with the true map sizes: every decomposed total."""
    tables = json.loads(shared("papers", "tables.json").read_text())
    for case in tables["etri_cp_svd"]["cases"]:
        net, params, macs = tables["networks"][case["net"]], 0, 0
        if "decomposed_macs" in net:
            params = net["total_params"] - net["decomposed_params"]
            macs = net["total_macs"] - net["decomposed_macs"]
        for index, (row, rank) in enumerate(zip(net["conv"], case["conv_ranks"])):
            group = row["group"]
            geometry = Geometry(row["T"], row["S"] * group, row["D"], row["D"], group)
            scheme = SCHEMES["cp2" if index == 0 else "cp3"]
            sizes = Sizes(row["H_in"], row["H_in"], row["H_out"], row["H_out"])
            assert dense_cost(geometry, sizes, False).macs == row["macs"]
            # VGG16's conv1_1 is printed at a rank above its full one; its cost counts all the same.
            cost = chain_cost(scheme.parts(geometry, (rank,)), sizes, False)
            params, macs = params + cost.params, macs + cost.macs
        for row, rank in zip(net.get("fc", ()), case.get("fc_ranks", ())):
            geometry = Geometry(row["N"], row["M"], 1, 1, kind="fc")
            cost = chain_cost(SCHEMES["svd"].parts(geometry, (rank,)), Sizes(), False)
            params, macs = params + cost.params, macs + cost.macs
        assert (params, macs) == (case["exact_params"], case["exact_macs_H_in"]), case["name"]


@pytest.mark.parametrize("rule", ["energy=0.7", "error=0.5"])
def test_workers_find_the_ranks_that_this_process_finds(monkeypatch, rule):
    from caffesurgery.ranks import RuleContext, fits
    from caffesurgery.workers import open_workers

    monkeypatch.setattr(fits, "WORTH_WORKERS", 0)
    layers = [
        candidate(f"conv{k}", scheme, T=12, S=10) for k, scheme in enumerate(("cp3", "cp2", "cp4"))
    ]
    with open_workers(2) as workers:
        found = parse_rule(rule).allocate(layers, RuleContext(workers=workers))
        assert len(workers.pids()) == 2
    assert found == parse_rule(rule).allocate(layers)
