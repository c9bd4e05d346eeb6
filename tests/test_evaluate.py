"""Evaluation: counted as by hand, the same wherever and with whomever, and never twice."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from nets import write_net
from tiny import DEPLOY, D, W, _tiny_net, succeed, tiny  # noqa: F401

import caffesurgery
from caffesurgery.data.images import open_images
from caffesurgery.errors import DataError, UsageError
from caffesurgery.export.onnx import build
from caffesurgery.surgery.plan import LayerPlan, Plan
from caffesurgery.verify import evaluate as evaluation
from caffesurgery.verify.scores import Metrics, Scorer

CUTS = {
    "conv1": LayerPlan("conv1", "cp2", (5,)),
    "conv2": LayerPlan("conv2", "spatial", (6,)),
    "fc3": LayerPlan("fc3", "tucker2", (4, 6)),
    "fc4": LayerPlan("fc4", "svd", (3,)),
}


@pytest.fixture(name="images")
def _images(tiny):  # noqa: F811
    """40 images with labels as a .npz in the current folder."""
    draw = np.random.default_rng(5)
    arrays = {
        "images": draw.integers(0, 256, (40, 3, 16, 16), np.uint8),
        "labels": draw.integers(0, 10, 40),
    }
    np.savez("images.npz", **arrays)
    return arrays


def evaluator(**options) -> caffesurgery.Evaluator:
    return caffesurgery.Evaluator(
        "images.npz", **{"mean": 128, "scale": 1 / 64, "jobs": 1, "cache": None, **options}
    )


def plans(*names: str) -> Plan:
    return Plan(tuple(CUTS[name] for name in names))


def predictions(model, images: np.ndarray) -> np.ndarray:
    from caffesurgery.verify.session import net_session

    with net_session(model.net, model.weights) as session:
        pairs = [images[start : start + 2] for start in range(0, len(images), 2)]
        prepared = [((pair.astype(np.float32) - 128) / 64) for pair in pairs]
        return np.concatenate([session.run({"data": each})["prob"] for each in prepared])


def test_metrics_are_counted_as_by_hand(images):
    model = caffesurgery.load(D, W)
    chances = predictions(model, images["images"]).astype(np.float64)
    labels = images["labels"]
    own = chances[np.arange(40), labels]
    found = evaluator()(model)
    assert found["images"] == 40 and found["blob"] == "prob"
    assert found["top1"] == (chances.argmax(1) == labels).mean()
    assert found["top5"] == ((chances > own[:, None]).sum(1) < 5).mean()
    assert found["loss"] == pytest.approx(-np.log(own).mean(), rel=1e-6)


def test_logits_and_probabilities_have_one_loss(images):
    scores = np.random.default_rng(1).normal(size=(40, 10)).astype(np.float32) * 20
    chances = np.exp(scores - scores.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    losses = []
    for probabilities, given in ((False, scores), (True, chances)):
        scorer = Scorer(probabilities)
        scorer.add(given, images["labels"], None)
        losses.append(scorer.result().loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_scores_that_are_no_numbers_are_wrong():
    scores = np.array([[1, np.nan], [np.inf, 0], [3, 2]], np.float32)
    scorer = Scorer(False)
    scorer.add(scores, np.array([1, 0, 0]), np.array([1, 0, 0]))
    found = scorer.result()
    assert (found.top1, found.agreement, found.not_finite) == (1 / 3, 1 / 3, 2)
    assert np.isfinite(found.loss) and found.loss > 50


@pytest.mark.parametrize("names", [(name,) for name in CUTS] + [tuple(CUTS)])
def test_a_case_is_worth_what_the_net_is_that_a_plan_makes(names, images, tmp_path):
    model = caffesurgery.load(D, W)
    plan = plans(*names)
    smaller = caffesurgery.save(caffesurgery.apply(model, plan), tmp_path / "small")
    whole = evaluator(metric="loss")
    assert whole.scores(model, [plan])[0] == pytest.approx(
        np.exp(-whole(smaller)["loss"]), rel=1e-5
    )


def test_a_transposed_matrix_is_evaluated_as_it_is(images, tmp_path):
    text = DEPLOY.replace("{ num_output: 32 }", "{ num_output: 32 transpose: true }")
    prototxt, weights = write_net(tmp_path, text)
    model = caffesurgery.load(prototxt, weights)
    plan = Plan((LayerPlan("fc3", "svd", (5,)),))
    smaller = caffesurgery.save(caffesurgery.apply(model, plan), tmp_path / "small")
    whole = evaluator(metric="loss")
    assert whole.scores(model, [plan])[0] == pytest.approx(
        np.exp(-whole(smaller)["loss"]), rel=1e-5
    )


def test_numbers_do_not_depend_on_workers_or_company(images):
    model = caffesurgery.load(D, W)
    cases = [plans(*names) for names in ((), ("conv1",), ("conv2",), ("fc4",), ("conv2", "fc4"))]
    cases += [Plan((LayerPlan("conv2", "spatial", (rank,)),)) for rank in (2, 4, 8)]
    alone = [evaluator(metric="loss").scores(model, [case])[0] for case in cases]
    assert len(set(alone)) == len(cases)
    assert evaluator(metric="loss").scores(model, cases) == alone
    with evaluator(metric="loss", jobs=2) as two:
        assert two.scores(model, cases) == alone
        assert two.scores(model, cases[::-1]) == alone[::-1]


def test_a_dask_cluster_measures_what_processes_measure(images):
    distributed = pytest.importorskip("distributed", reason="needs caffesurgery[dask]")
    model = caffesurgery.load(D, W)
    cases = [plans(name) for name in CUTS]
    here = evaluator(metric="loss").scores(model, cases)
    options = {"dashboard_address": None, "silence_logs": 50}
    options["env"] = {"PYTHONPATH": str(Path(caffesurgery.__file__).parent.parent)}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, **options) as cluster:
        address = cluster.scheduler_address
        with evaluator(metric="loss", dask=address) as there:
            assert there.scores(model, cases) == here
        whole = plans(*CUTS)
        folders = [
            caffesurgery.save(caffesurgery.apply(model, whole, dask=dask), name).weights.path
            for name, dask in (("here", None), ("there", address))
        ]
        assert Path(folders[0]).read_bytes() == Path(folders[1]).read_bytes()


def test_agreement_needs_no_labels(images):
    np.save("only.npy", images["images"])
    model = caffesurgery.load(D, W)
    with caffesurgery.Evaluator("only.npy", metric="agreement", jobs=1, cache=None) as judge:
        same, other = judge.scores(model, [Plan(()), Plan((LayerPlan("fc4", "svd", (1,)),))])
    assert same == 1.0 and other < 1.0
    with pytest.raises(UsageError, match="metric top1: it needs labels"):
        caffesurgery.Evaluator("only.npy")


def test_what_was_measured_is_not_measured_again(images, monkeypatch):
    model = caffesurgery.load(D, W)
    cases = [plans("conv2"), plans("fc4")]
    first = evaluator(cache="kept").scores(model, cases)
    assert len(list(Path("kept").rglob("*.json"))) == 3
    monkeypatch.setattr("caffesurgery.verify.measure.evaluate", None)
    assert evaluator(cache="kept").scores(model, cases) == first
    again = caffesurgery.load(D, W)
    assert evaluator(cache="kept", metric="agreement").scores(again, cases[:1])
    with pytest.raises(TypeError):
        evaluator(cache="kept", mean=127).scores(model, cases)
    with pytest.raises(TypeError):
        evaluator(cache="kept", samples=39).scores(model, cases)
    with pytest.raises(TypeError):
        evaluator(cache="kept").scores(model, [Plan(cases[0].layers, seed=1)])


def test_a_damaged_entry_is_measured_anew(images):
    model = caffesurgery.load(D, W)
    first = evaluator(cache="kept").scores(model, [plans("conv2")])
    for path in Path("kept").rglob("*.json"):
        path.write_bytes(path.read_bytes()[:20])
    assert evaluator(cache="kept").scores(model, [plans("conv2")]) == first
    assert all(json.loads(path.read_text()) for path in Path("kept").rglob("*.json"))


def test_an_interrupted_measurement_goes_on(images, monkeypatch):
    model = caffesurgery.load(D, W)
    cases = [plans(name) for name in CUTS]
    real = evaluation.evaluate

    def interrupted(subject, group, *rest, **options):
        if group and group[0] and group[0][0].layer == "fc3":
            raise KeyboardInterrupt
        return real(subject, group, *rest, **options)

    monkeypatch.setattr("caffesurgery.verify.measure.evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluator(cache="kept").scores(model, cases)
    done = []
    monkeypatch.setattr(
        "caffesurgery.verify.measure.evaluate",
        lambda subject, group, *rest, **o: done.append(group) or real(subject, group, *rest, **o),
    )
    evaluator(cache="kept").scores(model, cases)
    assert [group[0][0].layer for group in done] == ["fc3", "fc4"]


def test_a_default_cache_that_cannot_be_is_done_without(images, monkeypatch):
    Path("file").write_text("no folder")
    monkeypatch.setenv("CAFFESURGERY_CACHE", "file")
    assert evaluator(cache=True)(caffesurgery.load(D, W))["images"] == 40


def test_preprocessing_comes_from_the_data_layer(images):
    text = Path("train_val.prototxt").read_text()
    transform = "transform_param { mean_value: 128 scale: 0.015625 } data_param"
    Path("said.prototxt").write_text(text.replace("data_param", transform))
    model = caffesurgery.load("said.prototxt", W, inputs={"data": (3, 16, 16)})
    options = {"mean": None, "scale": None, "jobs": 1, "cache": None}
    found = caffesurgery.Evaluator("images.npz", **options)(model)
    assert found["preprocessing"]["from"].startswith("said.prototxt:")
    want = evaluator()(caffesurgery.load(D, W))
    assert (found["top1"], found["blob"]) == (want["top1"], "fc4")
    assert found["loss"] == pytest.approx(want["loss"], rel=1e-5)
    other = caffesurgery.Evaluator("images.npz", transform="said.prototxt", **options)
    assert other(caffesurgery.load(D, W))["loss"] == want["loss"]
    with pytest.raises(UsageError, match="none of its data layers has a transform_param"):
        caffesurgery.Evaluator("images.npz", transform=D, **options)(model)


def test_any_function_from_a_model_can_measure(images):
    model = caffesurgery.load(D, W)
    seen = []

    def judge(net):
        seen.append([layer.name for layer in net.net.layers])
        return {"top1": 0.5}

    from caffesurgery.api.evaluate import plan_evaluator

    scores = plan_evaluator(model, judge, None)([Plan(()), plans("conv2")])
    assert scores == [0.5, 0.5]
    assert "conv2" in seen[0] and "conv2_v" in seen[1]
    with pytest.raises(UsageError, match="expected a number, or a dict"):
        plan_evaluator(model, lambda net: "good", None)([Plan(())])


def test_a_cut_model_is_cut_where_it_differs(images):
    from caffesurgery.export.cut import first_difference, head, tail

    model = caffesurgery.load(D, W)
    first, second = (build(model.net, model.weights).model for _ in range(2))
    assert first_difference(first, second) == len(first.nodes)
    assert head(first, 0) is None
    front, back = head(first, 2), tail(first, 2)
    assert front.nodes + back.nodes == first.nodes
    assert [value.name for value in front.outputs] == [value.name for value in back.inputs]
    assert set(front.initializers) | set(back.initializers) == set(first.initializers)


def folder_of_images(colours: dict[str, int]) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs caffesurgery[images]")
    for name, colour in colours.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (6, 4), (colour, 2, 3)).save(name)


def test_folders_are_classes_and_lists_say_more(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder_of_images({"set/b/1.png": 10, "set/a/2.png": 20, "set/a/x/0.bmp": 30})
    found = open_images("set")
    assert found.labels.tolist() == [0, 0, 1]
    assert found.images.dtype == np.uint8 and found.images.shape == (3, 3, 4, 6)
    assert found.images[:, 0, 0, 0].tolist() == [20, 30, 10]
    Path("list.txt").write_text("b/1.png 7\n\na/2.png 3\n")
    listed = open_images("set", "list.txt")
    assert listed.labels.tolist() == [7, 3] and listed.images[0, :, 0, 0].tolist() == [10, 2, 3]
    np.save("labels.npy", [4, 5, 6])
    assert open_images("set", "labels.npy").labels.tolist() == [4, 5, 6]
    assert open_images("set/b").labels is None
    assert open_images("set", resize=(8, 9)).images.shape == (3, 3, 8, 9)


def test_images_of_two_sizes_need_a_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder_of_images({"set/1.png": 1})
    from PIL import Image

    Image.new("RGB", (5, 5)).save("set/2.png")
    with pytest.raises(DataError, match="2.png: is 5 x 5 and .*1.png is 4 x 6; .*--resize"):
        open_images("set")
    Path("set/2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="2.png: cannot be read as an image"):
        open_images("set")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UsageError, match=r"caffesurgery\[images\]"):
        open_images("set")


def test_the_command_prints_the_documented_json(images):
    options = ("--mean", "128", "--scale", "0.015625", "--no-cache")
    given = ("evaluate", D, W, "--images", "images.npz", *options)
    found = succeed(*given, "--format", "json").json
    want = evaluator()(caffesurgery.load(D, W))
    assert found == want
    assert set(want) - {"net", "source", "blob", "preprocessing"} == set(Metrics(1).as_dict()) - {
        "agreement"
    }
    table = succeed(*given).out
    assert f"{want['top1']:.4f}" in table and "mean [128.0], scale 0.015625" in table


def test_resnet56_is_as_accurate_as_in_caffe(shared):
    folder = shared("data", "res56")
    test = np.load(shared("data", "cifar10", "test_first5000.npz"))
    caffe = np.load(folder / "caffe_softmax_first5000.npz")["res56_jpgft"][:200]
    labels = test["labels"][:200]
    model = caffesurgery.load(folder / "deploy.prototxt", folder / "res56_jpgft.caffemodel")
    judge = caffesurgery.Evaluator(
        test["images"], test["labels"], samples=200, transform=folder / "train_val.prototxt",
        jobs=2, cache=None,
    )  # fmt: skip
    found = judge(model)
    assert found["top1"] == (caffe.argmax(1) == labels).mean()
    own = np.maximum(caffe[np.arange(200), labels].astype(np.float64), 1e-30)
    assert found["loss"] == pytest.approx(-np.log(own).mean(), rel=1e-3)
