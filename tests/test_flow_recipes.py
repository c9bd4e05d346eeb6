"""The flows that ship are flows, fit the nets that they name, and do what their papers did."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from caffesurgery import zoo
from caffesurgery.flow.read import read_flow
from caffesurgery.flow.shipped import recipe, recipes
from caffesurgery.flow.steps import Layer, make_steps
from caffesurgery.net.net import read_net
from caffesurgery.ranks.explicit import Explicit

NETS = {"alexnet": "alexnet", "googlenet": "googlenet", "vgg16": "vgg16", "two-pass": "vgg16"}
PAPERS = [name for name in recipes() if name[:3].isdigit()]


def flow_of(name: str, folder: Path):
    """The recipe as a file, with empty files for those that it names."""
    path = folder / f"{name}.prototxt"
    path.write_text(recipe(name))
    for named in re.findall(r'"([\w.-]+\.(?:prototxt|caffemodel|npz))"', recipe(name)):
        (folder / named).touch()
    return read_flow(path)


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_a_flow_that_says_what_it_is(name, tmp_path):
    flow = flow_of(name, tmp_path)
    assert 30 < len(recipes()[name]) < 100 and flow.output == str(tmp_path / f"{name}.out")
    paper = re.match(r"(\d{3})-", name)
    assert not paper or recipes()[name].startswith(f"Paper {paper[1]}, ")
    assert all(len(line) <= 104 for line in recipe(name).splitlines() if "ranks:" not in line)


@pytest.mark.parametrize("name", PAPERS)
def test_recipes_of_papers_fit_the_zoo(name, tmp_path):
    net_name = NETS[name[4:]]
    flow = flow_of(name, tmp_path)
    models = Path(zoo.resource("models", net_name))
    shutil.copyfile(models / "train_val.prototxt", tmp_path / "train_val.prototxt")
    layers = read_net(models / "deploy.prototxt").layers
    names = {layer.name for layer in layers}
    if "=" in flow.ranks:
        assert set(Explicit(flow.ranks).patterns()) <= names
        wanted = set(Explicit(flow.ranks).patterns())
        flat = {layer.name for layer in layers if layer.type == "InnerProduct"}
        planned = [Layer(one.name, one.name in flat) for one in layers if one.name in wanted]
        steps = make_steps(flow, planned)
        cut = [step.layers for step in steps if step.kind == "cut" and not step.again]
        assert sorted(n for group in cut for n in group) == sorted(wanted)
        assert GROUPS[name] == [len(group) for group in cut]


GROUPS = {
    "000-alexnet": [1, 1, 1, 1, 1, 3],
    "000-googlenet": [1] * 11,
    "000-vgg16": [3, 4, 2, 2, 1, 3],
    "002-two-pass": [4, 4, 4],
}
