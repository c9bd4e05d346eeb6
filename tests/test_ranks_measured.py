"""Rules that decompose or measure: what they do with fitness, scores and losses, whoever works."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from tiny import D, W, _tiny_net, run, succeed, tiny  # noqa: F401

import caffesurgery
from caffesurgery.cost import Cost, Sizes
from caffesurgery.decompose import SCHEMES, Geometry
from caffesurgery.errors import RankError, UsageError
from caffesurgery.ranks import Candidate, Choice, RuleContext, parse_rule
from caffesurgery.ranks.measured import LayerMetric, layer_metrics, sampled_ranks, share_of
from caffesurgery.workers import open_workers


def layer(name: str, T: int, S: int, size: int, group: int = 1, scheme: str = "cp3") -> Candidate:
    """A convolution whose kernel is of low rank, with noise."""
    draw = np.random.default_rng(T + S)
    geometry = Geometry(T, S, 3, 3, group)
    parts = [draw.standard_normal((6, n)) for n in (T, S // group, 3, 3)]
    parts[0] *= 0.6 ** np.arange(6)[:, None]
    kernel = np.einsum("rt,rs,rd,re->tsde", *parts)
    kernel = (kernel + 0.3 * draw.standard_normal(kernel.shape)).astype(np.float32)
    return Candidate(name, SCHEMES[scheme], geometry, Sizes(size, size, size, size), True,
                     lambda: kernel)  # fmt: skip


def net(scheme: str = "cp3") -> list[Candidate]:
    return [
        layer("a", 16, 8, 16, scheme=scheme),
        layer("b", 24, 16, 8, 2, scheme),
        layer("c", 32, 24, 4, scheme=scheme),
    ]


def algorithm1(layers, ranks, speedup, fitness_of):
    """Paper 002, Algorithm 1, line by line; groups lose a rank each."""
    ranks = dict(ranks)
    fit = {each.name: fitness_of(each, ranks[each.name]) for each in layers}
    start = dict(fit)

    def fast():
        after = sum(min(each.after((ranks[each.name],)).macs, each.before.macs) for each in layers)
        return sum(each.before.macs for each in layers) / after

    while fast() < speedup:
        top = max(layers, key=lambda each: fit[each.name] * each.before.macs)
        rank = ranks[top.name]
        ranks[top.name] = rank - top.geometry.group
        fit[top.name] *= ranks[top.name] / rank
    return ranks, start


def fitness_of(each: Candidate, rank: int) -> float:
    return 1 - each.scheme.decompose(each.kernel(), each.geometry.group, (rank,)).error


@pytest.mark.parametrize("scheme", ["cp3", "spatial"])
def test_fitness_follows_algorithm_1(scheme):
    layers = net(scheme)
    ranks, _ = algorithm1(layers, {"a": 14, "b": 14, "c": 14}, 6.0, fitness_of)
    found = parse_rule("fitness:speedup=6,start=14,of=layers").allocate(layers)
    assert {name: choice.ranks[0] for name, choice in found.items()} == ranks
    assert len(set(ranks.values())) > 1


def test_fitness_counts_the_rest_of_the_net():
    layers, context = net(), RuleContext(rest=Cost(0, 200_000))
    whole = sum(each.before.macs for each in layers) + 200_000
    found = parse_rule("fitness:speedup=3,start=14").allocate(layers, context)
    after = sum(each.after(found[each.name].ranks).macs for each in layers) + 200_000
    assert 3 <= whole / after < 3.2


def test_fitness_goes_up_as_well_as_down():
    layers = net()
    whole = sum(each.before.macs for each in layers)
    found = parse_rule("fitness:speedup=4,start=2,of=layers").allocate(layers)
    assert sum(choice.ranks[0] for choice in found.values()) > 6
    assert 4 <= whole / sum(each.after(found[each.name].ranks).macs for each in layers) < 4.5


def test_fitness_can_be_known_and_not_guessed():
    layers = net("spatial")
    found = parse_rule("fitness:speedup=6,start=14,of=layers,refit").allocate(layers)
    for each in layers:
        choice = found[each.name]
        assert choice.measured["fitness"] == pytest.approx(
            fitness_of(each, choice.ranks[0]), abs=1e-5
        )
    guessed = parse_rule("fitness:speedup=6,start=14,of=layers").allocate(layers)
    assert any(
        guessed[name].measured["fitness"] != pytest.approx(found[name].measured["fitness"], 1e-3)
        for name in found
    )


def test_fitness_takes_any_rule_to_start_from():
    layers = net()
    first = parse_rule("energy=0.9").allocate(layers)
    found = parse_rule("fitness:speedup=5,start=energy=0.9,of=layers").allocate(layers)
    assert any(f"from rank {first[name].ranks[0]}" in found[name].why for name in found)
    with pytest.raises(UsageError, match="start=enc: expected a rank, or a rule"):
        parse_rule("fitness:speedup=5,start=enc").allocate(layers)
    with pytest.raises(UsageError, match="speedup= has to be above 1"):
        parse_rule("fitness:speedup=0.5").allocate(layers)
    with pytest.raises(RankError, match="the smallest ranks are .* times as fast"):
        parse_rule("fitness:speedup=400").allocate(layers)


def test_fitness_is_the_same_whoever_works():
    layers, rule = net(), parse_rule("fitness:speedup=6,start=14,of=layers")
    alone = rule.allocate(layers)
    with open_workers(2) as workers:
        shared = rule.allocate(layers, RuleContext(workers=workers))
    assert alone == shared


def scores_of(lost: dict[str, float], calls: list):
    """A net that loses ``lost[name]`` times the share of the rank that is gone."""

    def measure(cases):
        calls.append(list(cases))
        return [
            0.9 - sum(lost[name] * (1 - rank[0] / 24) for name, rank in case.items())
            for case in cases
        ]

    return measure


def test_sensitivity_is_in_proportion_to_what_is_lost():
    layers, calls = net(), []
    context = RuleContext(measure=scores_of({"a": 0.1, "b": 0.2, "c": 0.3}, calls))
    found = parse_rule("sensitivity:average=10,rank=4").allocate(layers, context)
    assert calls == [[{}, {"a": (4,)}, {"b": (4,)}, {"c": (4,)}]]
    assert [found[name].ranks[0] for name in "abc"] == [5, 10, 15]
    with pytest.raises(RankError, match="needs labelled images"):
        parse_rule("sensitivity:average=10").allocate(layers)


def test_sensitivity_reads_losses(tmp_path):
    path = tmp_path / "losses.json"
    path.write_text(json.dumps({"a": 5, "b": 10, "c": 15}))
    rule = parse_rule(f"sensitivity:average=10,losses={path}")
    assert [rule.allocate(net())[name].ranks[0] for name in "abc"] == [5, 10, 15]
    path.write_text(json.dumps({"a": 5, "b": 10}))
    with pytest.raises(RankError, match="has no loss of at least 0 for the layer 'c'"):
        rule.allocate(net())
    path.write_text("5 10")
    with pytest.raises(RankError, match="expected the loss of each layer by name"):
        rule.allocate(net())


def test_the_measured_metric_goes_through_what_was_measured():
    layers, calls = net("spatial"), []
    context = RuleContext(measure=scores_of({"a": 0.1, "b": 0.3, "c": 0.2}, calls))
    metrics = layer_metrics("enc", layers, context)
    (cases,) = calls
    assert cases[0] == {} and all(len(case) == 1 for case in cases[1:])
    scores = context.measure(cases)
    for case, score in zip(cases[1:], scores[1:]):
        ((name, ranks),) = case.items()
        index = "abc".index(name)
        assert metrics[index](share_of(layers[index], ranks)) == pytest.approx(score / 0.9)
    for each, metric in zip(layers, metrics):
        assert metric(1.0) == pytest.approx(1.0) and metric(0.0) == 0.0
        assert len(sampled_ranks(each, context)) >= 2
        fine = metric(np.linspace(0, 1, 200))
        assert (np.diff(fine) >= -1e-12).all()


def test_pchip_does_not_overshoot():
    metric = LayerMetric((0.0, 0.1, 0.2, 0.6, 1.0), (0.0, 0.9, 0.95, 0.95, 1.0))
    fine = metric(np.linspace(0.2, 0.6, 50))
    assert (fine == pytest.approx(0.95)) and metric(0.05) < 0.9


def measured_by_macs(layers, best: float):
    """Full score down to the share ``best`` of the MACs, and less below it."""
    whole = sum(each.before.macs for each in layers)

    def measure(cases):
        shares = [
            sum(each.after(case[each.name]).macs if each.name in case else each.before.macs
                for each in layers) / whole
            for case in cases
        ]  # fmt: skip
        return [0.9 - max(0.0, best - share) for share in shares]

    return measure


def test_drop_finds_the_smallest_net_within_it():
    layers = net("spatial")
    context = RuleContext(measure=measured_by_macs(layers, 0.5))
    found = parse_rule("drop=0.1:by=uniform").allocate(layers, context)
    whole = sum(each.before.macs for each in layers)
    after = sum(
        each.after(choice.ranks).macs if isinstance(choice, Choice) else each.before.macs
        for each, choice in zip(layers, found.values())
    )
    assert 0.39 <= after / whole <= 0.43
    assert "of the MACs lose" in found["a"].why and "uniform" in found["a"].why
    with pytest.raises(RankError, match="more is lost"):
        none = RuleContext(measure=lambda cases: [0.9 if not case else 0.1 for case in cases])
        parse_rule("drop=0.1:by=uniform").allocate(layers, none)
    with pytest.raises(UsageError, match="expected a rule that takes a budget, one of .*uniform"):
        parse_rule("drop=0.1:by=energy").allocate(layers, context)


@pytest.mark.parametrize("metric", ["all", "energy", "measured", "both"])
def test_enc_inf_takes_the_candidate_that_scores_best(metric):
    layers, calls = net("spatial"), []
    alone = scores_of({"a": 0.1, "b": 0.3, "c": 0.2}, calls)
    odd = {}

    def measure(cases):
        if all(len(case) <= 1 for case in cases):
            return alone(cases)
        odd.update((tuple(case.items()), 0.5 + index / 100) for index, case in enumerate(cases))
        return [odd[tuple(case.items())] for case in cases]

    rule = f"enc-inf:macs=0.4,candidates=12,metric={metric}"
    found = parse_rule(rule).allocate(layers, RuleContext(measure=measure))
    assert 4 <= len(odd) <= 12
    whole = sum(each.before.macs for each in layers)
    for case in map(dict, odd):
        costs = [
            each.after(case[each.name]).macs if each.name in case else each.before.macs
            for each in layers
        ]
        assert sum(costs) <= 0.4 * whole
    chosen = {name: each.ranks for name, each in found.items() if isinstance(each, Choice)}
    assert chosen == dict(max(odd, key=odd.get))
    assert f"scores {max(odd.values()):.4f}, the best of {len(odd)} candidates" in found["c"].why


def test_enc_inf_needs_images_and_a_budget_within_reach():
    with pytest.raises(RankError, match="needs labelled images"):
        parse_rule("enc-inf:macs=0.4").allocate(net("spatial"))
    measured = RuleContext(measure=lambda cases: [0.5 for _ in cases])
    with pytest.raises(RankError, match="the smallest ranks leave"):
        parse_rule("enc-inf:macs=0.001,metric=energy").allocate(net("spatial"), measured)


@pytest.fixture(name="images")
def _images(tiny):  # noqa: F811
    draw = np.random.default_rng(5)
    images = draw.integers(0, 256, (60, 3, 16, 16), np.uint8)
    np.savez("images.npz", images=images, labels=draw.integers(0, 10, 60))


RULES = [
    "sensitivity:average=6,rank=2",
    "fitness:speedup=2,start=8",
    "drop=0.5",
    "enc-inf:macs=0.8,candidates=6",
]


@pytest.mark.parametrize("rule", RULES)
def test_a_plan_is_the_same_with_one_worker_and_with_two(rule, images):
    model = caffesurgery.load(D, W)
    plans = []
    for jobs in (1, 2):
        options = {"metric": "agreement", "mean": 128, "jobs": jobs, "cache": None}
        with caffesurgery.Evaluator("images.npz", **options) as judge:
            plans.append(caffesurgery.plan(model, "spatial", rule, "conv*", evaluate=judge))
    assert plans[0] == plans[1] and plans[0].layers


def test_plan_and_compress_measure_on_the_images_given(images):
    data = ("--images", "images.npz", "--mean", "128", "--jobs", 1, "--cache", "kept")
    how = ("--method", "svd", "--ranks", RULES[0], *data, "--format", "json")
    planned = succeed("plan", D, W, *how, "-o", "plan.prototxt").json
    assert all("sensitivity: a loss of" in each["why"] for each in planned["layers"])
    kept = sorted(path.name for path in Path("kept").rglob("*.json"))
    assert len(kept) == 1 + 2
    small = succeed("compress", D, W, *how, "--no-onnx", "-o", "small").json
    assert small["totals"] == planned["totals"]
    assert sorted(path.name for path in Path("kept").rglob("*.json")) == kept
    refused = run("plan", D, W, "--method", "svd", "--ranks", RULES[0], "-o", "p.prototxt")
    assert refused.code == 1 and "needs labelled images" in refused.err


def test_a_plan_names_the_images_and_labels_that_its_rule_measured_on(images):
    def sha256(path):
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()

    with np.load("images.npz") as stored:
        np.save("only.npy", stored["images"])
    np.save("said.npy", np.zeros(len(np.load("only.npy")), np.int64))
    model = caffesurgery.load(D, W)
    options = {"metric": "agreement", "mean": 128, "jobs": 1, "cache": None}
    for rule, expected in ((RULES[0], ("only.npy", "said.npy")), ("ratio=0.5", ())):
        with caffesurgery.Evaluator("only.npy", "said.npy", **options) as judge:
            made = caffesurgery.plan(model, "spatial", rule, "conv*", evaluate=judge)
        assert made.made_from[2:] == tuple((name, sha256(name)) for name in expected)


def test_a_folder_of_images_has_the_digest_of_its_list(tmp_path):
    from caffesurgery.data.images import digests

    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(name.encode())
    lines = [f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n"
             for name in ("a/1.png", "b/2.png")]  # fmt: skip
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert digests(tmp_path) == ((tmp_path.name, expected),)
    assert digests(np.zeros((1, 3, 2, 2))) == ()
