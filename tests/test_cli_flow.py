"""``caffesurgery finetune``: recipes, dry runs, progress, and the JSON that it prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flows import FLOW, Pretender, write_files
from tiny import run, succeed, tree

from caffesurgery.files.resources import resource
from caffesurgery.flow.shipped import recipes
from caffesurgery.train import job


@pytest.fixture(autouse=True)
def pretender(tmp_path, monkeypatch):
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    made = Pretender()
    monkeypatch.setattr(job, "choose", lambda name=None, **options: made)
    return made


def keys(value) -> set[str]:
    """Every key of a report, however deep, but the names of layers' ranks."""
    if isinstance(value, dict):
        return set(value) | {key for item in value.values() for key in keys(item)}
    return {key for item in value for key in keys(item)} if isinstance(value, list) else set()


def test_recipes_are_listed_and_printed():
    listed = succeed("finetune", "--recipe").out
    for name, about in recipes().items():
        assert f"{name} " in listed and about in listed
        assert succeed("finetune", "--recipe", name).out == (
            resource("flow", "recipes", f"{name}.prototxt").read_text(encoding="utf-8")
        )


def test_a_dry_run_prints_steps_and_costs_and_writes_nothing():
    flow = FLOW + 'scheme: two_pass every: 2 profile: "caffe-cpu-avx512" order: fitness\n'
    Path("flow.prototxt").write_text(flow + "stop { floor: 0.5 } budget { macs: 0.7 }\n")
    before = tree(Path())
    report = succeed("finetune", "flow.prototxt", "--dry-run", "--format", "json").json
    table = succeed("finetune", "flow.prototxt", "--dry-run", "-o", "there").out
    assert tree(Path()) == before
    kinds = [step["kind"] for step in report["steps"]]
    assert kinds == ["evaluate"] + (
        "cut evaluate restore train evaluate cut evaluate train evaluate".split() * 2
    )
    costs = [step["macs"] for step in report["steps"]]
    assert costs[0] == costs[3] == report["totals"]["macs"] > costs[1] == costs[6]
    assert costs[-1] == report["totals"]["new_macs"] and report["totals"]["ms"] > 0
    fitness = [one["fitness"] for step in report["steps"] for one in step["cut"]]
    assert all(0 < each < 1 for each in fitness)
    assert report["within_budget"] is True
    assert "train restored" in table and "the outcome would come to there" in table
    assert "a group that ends under top1 0.5 is tried 0 more time(s)" in table


def test_a_flow_is_carried_out_and_says_how_far_it_is():
    done = succeed("finetune", "flow.prototxt", "--format", "json")
    report = done.json
    assert report["after"]["top1"] == report["steps"][-1]["metrics"]["top1"]
    assert "step 1 of 17: evaluate  top1 0." in done.err
    assert "step 4 of 17: train  conv1  iterations 4" in done.err
    assert done.err.rstrip().endswith("train_val.prototxt to flow.out")
    again = succeed("finetune", "flow.prototxt", "--resume")
    assert "Small: iterative, cp, ratio=0.7: top1" in again.out
    assert len(re.findall(r"^ (conv1|conv2|fc3|fc4) ", again.out, re.MULTILINE)) == 4


def test_every_key_is_documented():
    first = succeed("finetune", "flow.prototxt", "--dry-run", "--format", "json").json
    second = succeed("finetune", "flow.prototxt", "--format", "json").json
    documented = set(re.findall(r"`(\w+)`", resource("docs", "json.md").read_text("utf-8")))
    assert keys([first, second]) - {"rank", "in", "out"} <= documented


def test_a_training_that_fails_is_one_message_and_can_be_gone_on_with(pretender):
    pretender.endings = {1: "diverged", 2: "interrupted"}
    failed = run("finetune", "flow.prototxt")
    assert failed.code == 1 and failed.out == ""
    message = failed.err.splitlines()[-1]
    assert message.startswith("caffesurgery: the training of conv1 ended as 'diverged'")
    stopped = run("finetune", "flow.prototxt", "--resume")
    assert stopped.code == 1
    assert "go on with `caffesurgery finetune flow.prototxt --resume`" in stopped.err
    succeed("finetune", "flow.prototxt", "--resume")
