"""Rules with a budget or a given average: what they promise about costs and sums."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction

import pytest
from test_ranks import candidate

from caffesurgery.cost import Cost
from caffesurgery.errors import RankError, UsageError
from caffesurgery.ranks import RuleContext, parse_rule
from caffesurgery.ranks.proportional import proportional
from caffesurgery.timing import load_profile


def layers():
    return [
        candidate("a", T=48),
        candidate("b", group=2),
        candidate("fc", "svd", T=40, S=90, D=1, E=1, kind="fc"),
    ]


def spent(candidates, found, cost="macs"):
    return sum(
        getattr(one.cost(getattr(found[one.name], "ranks", None)), cost) for one in candidates
    )


@pytest.mark.parametrize("cost", ["macs", "params"])
def test_uniform_spends_the_budget_and_no_step_more_fits(cost):
    ones, rest = layers(), Cost(5000, 300_000)
    whole = getattr(rest, cost) + sum(getattr(one.before, cost) for one in ones)
    found = parse_rule(f"uniform:{cost}=0.4").allocate(ones, RuleContext(rest=rest))
    total = spent(ones, found, cost) + getattr(rest, cost)
    assert 0.36 * whole < total <= 0.4 * whole
    shares = {one.name: found[one.name].ranks[0] / one.max_ranks[0] for one in ones}
    assert max(shares.values()) - min(shares.values()) < 0.06


def test_two_budgets_hold_at_once_and_shares_can_be_of_the_layers_alone():
    ones, rest = layers(), Cost(5000, 300_000)
    found = parse_rule("uniform:macs=0.3,params=0.2,of=layers").allocate(
        ones, RuleContext(rest=rest)
    )
    assert spent(ones, found) <= 0.3 * sum(one.before.macs for one in ones)
    assert spent(ones, found, "params") <= 0.2 * sum(one.before.params for one in ones)


def test_absolute_budgets_count_the_rest_of_the_net():
    ones, rest = layers(), Cost(5000, 300_000)
    found = parse_rule("uniform:macs=1.0M,bytes=60k").allocate(ones, RuleContext(rest=rest))
    assert spent(ones, found) + rest.macs <= 1e6
    assert 4 * (spent(ones, found, "params") + rest.params) <= 60_000


def test_a_budget_in_milliseconds_is_one_of_the_profile():
    ones, profile = layers(), load_profile("caffe-cpu-avx512")
    context = RuleContext(profile=profile, rest_ms=0.01)
    dense = 0.01 + sum(one.milliseconds(None, profile, 1) for one in ones)
    found = parse_rule("uniform:ms=0.9").allocate(ones, context)
    times = [one.milliseconds(getattr(found[one.name], "ranks", None), profile, 1) for one in ones]
    assert 0.01 + sum(times) <= 0.9 * dense


@pytest.mark.parametrize(
    "rule, error, message",
    [
        ("uniform", UsageError, "expected a budget"),
        ("uniform:macs=0", UsageError, "expected a share up to 1 or an amount"),
        ("uniform:ms=0.5", UsageError, "needs the profile of a machine"),
        ("uniform:macs=0.0001", RankError, "the smallest ranks leave"),
        ("uniform:of=all,macs=1", UsageError, "net or layers"),
        ("params", UsageError, "expected average="),
    ],
)
def test_budgets_that_cannot_be(rule, error, message):
    with pytest.raises(error, match=message):
        parse_rule(rule).allocate(layers())


@pytest.mark.parametrize(
    "weights, average, groups",
    [([5, 3, 8.5], 7, [1, 1, 1]), ([5, 3, 8.5], 9, [2, 1, 4]), ([1, 0.001, 2], 4, [1, 2, 1])],
)
def test_ranks_in_proportion_are_the_nearest_with_the_average(weights, average, groups):
    total, whole = average * len(weights), sum(weights)
    exact = [total * weight / whole for weight in weights]

    def error(ranks):
        return sum((rank - x) ** 2 for rank, x in zip(ranks, exact))

    every = itertools.product(*(range(g, total + 1, g) for g in groups))
    least = min(error(ranks) for ranks in every if sum(ranks) == total)
    found = proportional(weights, average, groups)
    assert sum(found) == total
    assert error(found) == pytest.approx(least)


def test_ranks_follow_the_parameters():
    found = parse_rule("params:average=10,fc=20").allocate(layers())
    assert found["fc"].ranks == (20,)
    assert sum(found[name].ranks[0] for name in "ab") == 20
    assert found["a"].ranks[0] > found["b"].ranks[0]
    skipped = parse_rule("params:average=9999").allocate(layers())["a"]
    assert "more than this layer has" in skipped.why


LOSSES = {  # net and kind: key of the losses, groups, key and index of the ranks, average
    "alexnet at 150": ("alexnet_conv", [1, 2, 1, 2, 2], 0, "conv_ranks", 150),
    "alexnet at 100": ("alexnet_conv", [1, 2, 1, 2, 2], 1, "conv_ranks", 100),
    "alexnet fc": ("alexnet_fc", [1] * 3, 0, "fc_ranks", 300),
    "googlenet": ("googlenet", [1] * 11, 2, "conv_ranks", 35),
    "vgg16": ("vgg16_conv", [1] * 13, 3, "conv_ranks", 80),
    "vgg16 fc": ("vgg16_fc", [1] * 3, 3, "fc_ranks", 150),
}
UNPRINTED = {  # index of the loss: it with a digit that rounds to the printed one
    "alexnet at 150": {3: 13.6849},
    "vgg16": {5: 5.2651, 8: 6.3949},
}


def test_no_common_threshold_gives_the_printed_ranks_of_vgg16(shared):
    """Raised where the fraction of scale * loss is at the threshold: bounds that exclude it."""
    printed = json.loads(shared("papers", "tables.json").read_text())["etri_cp_svd"]
    losses, ranks = (
        printed["sensitivity_top5_loss"]["vgg16_conv"],
        printed["cases"][3]["conv_ranks"],
    )
    low, middle, high = ((round(100 * losses[k]), ranks[k]) for k in (0, 5, 8))
    # rank - 1 + threshold <= scale * loss < rank + threshold: differences are without it
    below = Fraction(100 * (middle[1] - low[1] + 1), middle[0] - low[0])
    above = Fraction(100 * (high[1] - 1 - middle[1]), high[0] - middle[0])
    assert above == below == 12.5  # and the scale is strictly between


@pytest.mark.parametrize("case", LOSSES)
def test_the_printed_losses_give_the_printed_ranks(case, shared):
    """All but five, which no losses that round to the printed ones need more than a digit for."""
    printed = json.loads(shared("papers", "tables.json").read_text())["etri_cp_svd"]
    key, groups, index, ranks, average = LOSSES[case]
    losses, ranks = printed["sensitivity_top5_loss"][key], printed["cases"][index][ranks]
    found = proportional(losses, average, groups)
    assert sum(found) == sum(ranks) == average * len(ranks)
    differ = [k for k, (ours, theirs) in enumerate(zip(found, ranks)) if ours != theirs]
    assert differ == {"alexnet at 150": [0, 2, 3], "vgg16": [5, 8]}.get(case, [])
    for k, loss in UNPRINTED.get(case, {}).items():
        assert round(loss, 2) == losses[k]
        losses[k] = loss
    assert proportional(losses, average, groups) == ranks
