"""Steps of flows and the course that they take: pure values, without any net or training."""

from __future__ import annotations

from dataclasses import replace

import pytest

from caffesurgery.errors import FlowError
from caffesurgery.flow import course
from caffesurgery.flow.course import Record, following, judge
from caffesurgery.flow.flow import Flow, GroupOf, Stop, Training
from caffesurgery.flow.steps import Layer, make_steps

TRAIN = Training(recipe="etri", epochs=15)
FLOW = Flow("t.prototxt", "w.caffemodel", "cp", "vbmf", TRAIN)
LAYERS = [
    Layer("conv1", fitness=0.9),
    Layer("conv2", fitness=0.2),
    Layer("conv3", fitness=0.5),
    Layer("fc6", flat=True, fitness=0.1),
    Layer("fc7", flat=True, fitness=0.3),
]
ALL = tuple(layer.name for layer in LAYERS)


def groups(flow, layers=LAYERS):
    steps = make_steps(flow, layers)
    assert steps[0].kind == "evaluate" and steps[0].group == 0
    return [step.layers for step in steps if step.last and step.layers]


def kinds(steps):
    return " ".join(step.kind for step in steps)


def test_iterative_trains_after_every_layer():
    steps = make_steps(FLOW, LAYERS[:2])
    one = "cut evaluate train evaluate"
    assert kinds(steps) == f"evaluate {one} {one}"
    assert groups(FLOW) == [(name,) for name in ALL]
    assert [step.last for step in steps[1:5]] == [False, False, False, True]


def test_one_shot_trains_once():
    assert groups(replace(FLOW, scheme="one_shot")) == [ALL]


def test_hybrid_takes_fully_connected_layers_at_once():
    """000, Algorithm 2: each convolution with its own fine-tuning, then all the others with one."""
    convolutions = [("conv1",), ("conv2",), ("conv3",)]
    assert groups(replace(FLOW, scheme="hybrid")) == [*convolutions, ("fc6", "fc7")]
    assert groups(replace(FLOW, scheme="hybrid", every=2)) == [
        ("conv1", "conv2"),
        ("conv3",),
        ("fc6", "fc7"),
    ]
    by_fitness = replace(FLOW, scheme="hybrid", order="fitness")
    assert groups(by_fitness) == [("conv2",), ("conv3",), ("conv1",), ("fc6", "fc7")]


def test_two_pass_is_that_of_the_paper():
    """002, section 2.1.3: decompose, restore, optimise, decompose, fine-tune around it."""
    flow = replace(FLOW, scheme="two_pass", freeze="decomposed", every=5)
    steps = make_steps(flow, LAYERS)
    assert kinds(steps) == (
        "evaluate cut evaluate restore train evaluate cut evaluate train evaluate"
    )
    cuts = [step for step in steps if step.kind == "cut"]
    trainings = [step for step in steps if step.kind == "train"]
    assert [step.again for step in cuts] == [False, True]
    assert [step.freeze for step in trainings] == ["decomposed", "all"]
    assert [step.moment for step in trainings] == ["restored", "cut"]
    short = replace(flow, optimise=replace(TRAIN, epochs=1), train=replace(TRAIN, epochs=0))
    steps = make_steps(short, LAYERS)
    assert kinds(steps) == "evaluate cut evaluate restore train evaluate cut evaluate"
    assert steps[4].training.epochs == 1 and steps[-1].last


def test_groups_by_number_fitness_and_name():
    assert groups(replace(FLOW, every=2)) == [("conv1", "conv2"), ("conv3", "fc6"), ("fc7",)]
    assert groups(replace(FLOW, every=2, order="fitness")) == [
        ("fc6", "conv2"), ("fc7", "conv3"), ("conv1",),
    ]  # fmt: skip
    slow = Training(base_lr=0.001)
    named = replace(FLOW, groups=(GroupOf(("fc*",), slow), GroupOf(("conv2", "conv1"))))
    assert groups(named) == [("fc6", "fc7"), ("conv1", "conv2"), ("conv3",)]
    rates = {s.layers: s.training for s in make_steps(named, LAYERS) if s.kind == "train"}
    assert rates["fc6", "fc7"] == replace(TRAIN, base_lr=0.001)
    assert rates["conv1", "conv2"] == rates[("conv3",)] == TRAIN


def test_a_group_that_names_nothing_is_refused():
    wrong = replace(FLOW, groups=(GroupOf(("conv*",)), GroupOf(("conv2",), where="f:7")))
    with pytest.raises(FlowError, match="f:7: group 'conv2' has no layer"):
        make_steps(wrong, LAYERS)
    with pytest.raises(FlowError, match="decomposes no layer"):
        make_steps(FLOW, [])


def test_layers_that_share_their_weights_are_cut_together():
    layers = [Layer("a", shared="w"), Layer("b"), Layer("c", shared="w")]
    assert groups(FLOW, layers) == [("a", "c"), ("b",)]


def test_the_end_may_have_a_training_of_its_own():
    steps = make_steps(replace(FLOW, finish=replace(TRAIN, epochs=3)), LAYERS[:1])
    assert kinds(steps[-2:]) == "train evaluate" and steps[-2].training.epochs == 3
    assert steps[-2].freeze == "none" and not steps[-2].layers


def walk(steps, decisions):
    """The (index, attempt) that a flow goes through, and its records; decisions by the same."""
    records, seen = [], []
    while (now := following(steps, records)) is not None:
        seen.append((now.index, now.attempt))
        changes = steps[now.index].kind in ("cut", "train", "restore")
        model = f"m{now.index}.{now.attempt}" if changes else now.model
        decision = decisions.get((now.index, now.attempt), course.ON)
        records.append(now.record(model=model, decision=decision))
        assert len(records) < 50
    return seen, records


def test_the_course_without_trouble_is_the_list_of_steps():
    steps = make_steps(FLOW, LAYERS[:2])
    seen, records = walk(steps, {})
    assert seen == [(k, 0) for k in range(len(steps))]
    assert course.outcome(records) == "m7.0"
    assert [record.start for record in records] == ["start"] * 5 + ["m3.0"] * 4


def test_a_group_that_is_rolled_back_starts_from_the_net_before_it():
    steps = make_steps(FLOW, LAYERS[:3])
    seen, records = walk(steps, {(8, 0): course.AGAIN, (8, 1): course.DENSE})
    again = [(5, 1), (6, 1), (7, 1), (8, 1)]
    assert seen == [(k, 0) for k in range(9)] + again + [(k, 0) for k in range(9, 13)]
    retried, after = records[9], records[13]
    assert (retried.start, retried.index) == ("m3.0", 5) and after.start == "m3.0"
    assert course.outcome(records) == "m11.0"
    kept = course.counted(steps, records)
    assert [record.index for record in kept] == [0, 1, 2, 3, 4, 9, 10, 11, 12]


@pytest.mark.parametrize("decision, left", [(course.END, "m3.0"), (course.ENOUGH, "m7.0")])
def test_a_flow_may_end_early(decision, left):
    steps = make_steps(FLOW, LAYERS[:3])
    seen, records = walk(steps, {(8, 0): decision})
    assert seen == [(k, 0) for k in range(9)]
    assert course.outcome(records) == left


def test_enough_still_finishes():
    steps = make_steps(replace(FLOW, finish=TRAIN), LAYERS[:3])
    seen, _ = walk(steps, {(4, 0): course.ENOUGH})
    assert seen == [(k, 0) for k in range(5)] + [(13, 0), (14, 0)]


def test_judgement():
    floor = replace(FLOW, stop=Stop(floor=0.7, tries=2, factor=1.5))
    assert judge(floor, 0, 0.7, 0.9, False) == (course.ON, "")
    assert judge(floor, 0, None, None, False) == (course.ON, "")
    assert judge(floor, 0, 0.8, 0.9, True)[0] == course.ENOUGH
    assert judge(floor, 0, 0.6, 0.9, True) == (
        course.AGAIN, "0.6000 is under 0.7000: ranks times 1.5",
    )  # fmt: skip
    decision, why = judge(floor, 2, 0.6, 0.9, False)
    assert decision == course.DENSE and "at 3 tries" in why
    assert judge(floor, 0, float("nan"), 0.9, False)[0] == course.AGAIN
    drop = replace(FLOW, stop=Stop(max_drop=0.05, otherwise="end"))
    assert judge(drop, 0, 0.84, 0.9, False)[0] == course.END
    assert judge(drop, 0, 0.86, 0.9, False)[0] == course.ON
    accept = replace(drop, stop=replace(drop.stop, otherwise="accept"))
    assert judge(accept, 0, 0.1, 0.9, False)[0] == course.ON


def test_divergence_is_judged_only_where_the_flow_says_how():
    assert course.diverged(FLOW, 0, "NaN") is None
    drop = replace(FLOW, stop=Stop(max_drop=0.05, tries=1))
    assert course.diverged(drop, 0, "NaN")[0] == course.AGAIN
    assert course.diverged(drop, 1, "NaN")[0] == course.DENSE
    assert course.diverged(replace(drop, stop=Stop(floor=0.5, otherwise="accept")), 0, "") is None


def test_trainings_take_over_what_they_do_not_say():
    solver = Training(solver="s.prototxt", iterations=100, base_lr=0.1)
    assert solver.with_changes(None) is solver
    assert solver.with_changes(Training(epochs=2)) == Training("s.prototxt", epochs=2, base_lr=0.1)
    changed = solver.with_changes(Training(recipe="samsung", batch=8))
    assert changed == Training(recipe="samsung", iterations=100, base_lr=0.1, batch=8)


def test_records_say_where_a_step_stands():
    assert Record(0, 0, "start", "start").decision == course.ON
