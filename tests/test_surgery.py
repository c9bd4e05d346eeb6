"""What surgery promises: exact at full rank, bytes kept, restorable, and right for Caffe."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from nets import SMALL, relative, write_net

import caffesurgery
from caffesurgery.decompose import SCHEMES
from caffesurgery.errors import PlanError, RankError, WeightsError
from caffesurgery.files import text
from caffesurgery.net.net import parse_net, read_net
from caffesurgery.surgery.describe import describe
from caffesurgery.surgery.plan import parse_plan
from caffesurgery.surgery.prove import prove
from caffesurgery.verify.session import net_session

EXACT = {name: scheme for name, scheme in SCHEMES.items() if not name.endswith("-random")}
CONV_SCHEMES = sorted(name for name, scheme in EXACT.items() if "conv" in scheme.kinds)
GOLDEN = [f"conv_{k:02d}" for k in range(20)]


def outputs(model, feeds):
    """What ONNX Runtime computes for a model."""
    with net_session(model.net, model.require_weights(), inputs=model.inputs) as session:
        return session.run(feeds)


def operate(tmp_path, paths, method, ranks, **options):
    """Load, plan, apply and save; the model read back."""
    also = options.pop("also", ())
    model = caffesurgery.load(*paths)
    plan = caffesurgery.plan(model, method, ranks, **options)
    result = caffesurgery.apply(model, plan, also)
    return model, result, caffesurgery.save(result, tmp_path / "out")


@pytest.mark.parametrize("method", CONV_SCHEMES)
@pytest.mark.parametrize("case", GOLDEN)
def test_full_rank_gives_what_caffe_computed(shared, tmp_path, case, method):
    folder = shared("golden", case)
    io = np.load(folder / "io.npz")
    model = caffesurgery.load(folder / "net.prototxt", folder / "net.caffemodel")
    try:
        plan = caffesurgery.plan(model, method, "*=max", allow_growth=True)
    except PlanError as error:
        assert "finds no layer to decompose" in str(error)
        pytest.skip(f"{method} is not for this layer: {error}")
    smaller = caffesurgery.save(caffesurgery.apply(model, plan), tmp_path / "out")
    feeds = {key[3:]: io[key] for key in io.files if key.startswith("in:")}
    for name, found in outputs(smaller, feeds).items():
        assert relative(found, io[f"out:{name}"]) < 1e-4


@pytest.mark.parametrize("method", ["cp", "cp4", "tucker2", "spatial", "channel", "tucker1-in"])
def test_full_rank_and_restore_are_exact_on_a_whole_net(tmp_path, method):
    paths = write_net(tmp_path)
    model, _, smaller = operate(tmp_path, paths, method, "*=max", allow_growth=True)
    feeds = {"data": np.random.default_rng(0).standard_normal((2, 6, 13, 11), np.float32)}
    expected = outputs(model, feeds)["score"]
    assert len(smaller.net.layers) > len(model.net.layers)
    assert relative(outputs(smaller, feeds)["score"], expected) < 1e-4
    dense = caffesurgery.save(caffesurgery.restore(smaller), tmp_path / "dense")
    assert [layer.name for layer in dense.net.layers] == [x.name for x in model.net.layers]
    for name in model.weights.names():
        for old, new in zip(model.weights.blobs(name), dense.weights.blobs(name)):
            assert old.shape == new.shape
            assert relative(new.array(), old.array()) < 1e-4


def test_restore_computes_what_the_decomposed_net_computes(tmp_path):
    _, _, smaller = operate(tmp_path, write_net(tmp_path), "cp", "ratio=0.5")
    dense = caffesurgery.save(caffesurgery.restore(smaller), tmp_path / "dense")
    found = caffesurgery.compare(smaller, dense)
    assert found.worst < 1e-4


def test_bytes_outside_replaced_layers_stay(tmp_path):
    source = SMALL.replace("\n", "\r\n").encode() + b"# \xb0\xa1 GBK in a comment\r\n"
    paths = write_net(tmp_path, source)
    _, result, smaller = operate(tmp_path, paths, "cp", "conv2=4")
    written = (tmp_path / "out" / "deploy.prototxt").read_bytes()
    start = source.index(b'layer {\r\n  name: "conv2"')
    end = source.index(b'layer { name: "relu2"')
    assert written.startswith(source[:start]) and written.endswith(source[end:])
    middle = written[start : len(written) - len(source[end:])]
    assert middle.count(b"\n") == middle.count(b"\r\n")
    assert middle.count(b"engine: CAFFE") == 3


def test_untouched_weights_are_written_bit_for_bit(tmp_path):
    paths = write_net(tmp_path)
    model, _, smaller = operate(tmp_path, paths, "cp", "conv2=4")
    old, new = paths[1].read_bytes(), (tmp_path / "out" / "deploy.caffemodel").read_bytes()
    for name in ("conv1", "fc", "score"):
        before, after = model.weights.layer(name), smaller.weights.layer(name)
        assert old[before.start : before.end] == new[after.start : after.end]


def test_parts_carry_window_bias_rates_and_fillers(tmp_path):
    _, _, smaller = operate(tmp_path, write_net(tmp_path), "cp3", "conv1=5")
    s, dd, t = (
        next(x for x in smaller.net.layers if x.name == f"conv1{end}")
        for end in ("_s", "_dd", "_t")
    )
    assert (s.bottoms, s.tops, t.tops) == (("data",), ("conv1_s",), ("conv1",))
    params = [layer.params("convolution_param") for layer in (s, dd, t)]
    assert [p["bias_term"] for p in params] == [False, False, True]
    assert [p["group"] for p in params] == [1, 5, 1]
    assert [p["stride"] for p in params] == [(), (2,), ()]
    assert [p["pad"] for p in params] == [(), (1,), ()]
    assert [len(layer.specs) for layer in (s, dd, t)] == [1, 1, 2]
    assert t.specs[1].lr_mult == 2 and t.specs[1].decay_mult == 0
    assert all(p["weight_filler"]["type"] == "xavier" for p in params)
    assert [p.has("bias_filler") for p in params] == [False, False, True]


def test_grouped_dilated_kernels_split_over_the_axes(tmp_path):
    _, _, smaller = operate(tmp_path, write_net(tmp_path), "cp4", "conv2=4")
    v, h = (
        next(x for x in smaller.net.layers if x.name == f"conv2{end}").params("convolution_param")
        for end in ("_v", "_h")
    )
    assert (v["kernel_h"], v["kernel_w"], v["pad_h"], v["pad_w"]) == (3, 1, 2, 0)
    assert (h["kernel_h"], h["kernel_w"], h["pad_h"], h["pad_w"]) == (1, 5, 0, 4)
    assert v["dilation"] == (2, 1) and h["dilation"] == (1, 2)
    assert v["group"] == h["group"] == 4


TRAIN_VAL = """name: "small"
layer {
  name: "data" type: "Data" top: "data" top: "label"
  include { phase: TRAIN }
  data_param { source: "train_lmdb" batch_size: 8 }
}
layer {
  name: "data" type: "Data" top: "data" top: "label"
  include { phase: TEST }
  data_param { source: "test_lmdb" batch_size: 4 }
}
%s
layer { name: "new" type: "InnerProduct" bottom: "score" top: "new"
  inner_product_param { num_output: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "new" bottom: "label" top: "loss" }
"""


def train_val_of(deploy: str) -> str:
    return TRAIN_VAL % re.sub(r'(?s)^.*?(?=layer \{\n  name: "conv1")', "", deploy)


def test_train_val_is_rewritten_and_proved_in_both_phases(tmp_path):
    paths = write_net(tmp_path)
    also = tmp_path / "train_val.prototxt"
    also.write_text(train_val_of(SMALL))
    _, result, _ = operate(tmp_path, paths, "cp", "ratio=0.5", also=[also])
    rewritten = read_net(tmp_path / "out" / "train_val.prototxt")
    names = [layer.name for layer in rewritten.phase("TRAIN")]
    assert "conv1_s" in names and "conv1" not in names and "new" in names
    assert any("'new' has no weights" in note for note in result.operated.notes)


@pytest.mark.parametrize("method", ["cp", "cp-tpm", "cp-als", "cp-random"])
def test_the_plan_names_the_algorithm_and_the_report_its_stability(tmp_path, method, monkeypatch):
    from caffesurgery.decompose import stability
    from caffesurgery.report import operation_report

    monkeypatch.setattr(stability, "CANCELLING", 0.1)
    _, result, smaller = operate(tmp_path, write_net(tmp_path), method, "conv2=4")
    (done,) = result.operated.replaced
    assert done.plan.scheme == method.replace("cp", "cp3")
    (row,) = operation_report(result, smaller)["layers"]
    assert row["norm_ratio"] > 0.2 and row["sensitivity"] > 0
    assert "degenerate" in row["warning"]
    assert f"layer 'conv2': {row['warning']}" in operation_report(result, smaller)["notes"]


def test_a_prototxt_of_another_net_is_refused(tmp_path):
    paths = write_net(tmp_path)
    also = tmp_path / "train_val.prototxt"
    also.write_text(train_val_of(SMALL.replace("stride: 2", "stride: 1")))
    model = caffesurgery.load(*paths)
    plan = caffesurgery.plan(model, "cp", "conv1=5")
    with pytest.raises(PlanError, match="differs from the layer of the same name"):
        caffesurgery.apply(model, plan, [also])


def test_proof_catches_weights_that_would_not_fit(tmp_path):
    model = caffesurgery.load(*write_net(tmp_path))
    result = caffesurgery.apply(model, caffesurgery.plan(model, "cp", "conv1=6"))
    path = model.net.doc.path
    broken = result.operated.texts[path].replace("num_output: 6", "num_output: 4")
    broken = broken.replace("group: 6", "group: 4")
    operated = replace(result.operated, texts={path: broken})
    with pytest.raises(PlanError, match="Caffe would refuse these weights(.|\n)*conv1_s"):
        prove([describe(model.net, {})], model.weights, operated)


def test_weights_of_another_net_are_refused_with_layers_and_shapes(tmp_path):
    prototxt, _ = write_net(tmp_path / "a")
    _, weights = write_net(tmp_path / "b", SMALL.replace("num_output: 8", "num_output: 10"))
    with pytest.raises(WeightsError, match=r"conv1(.|\n)*8x6x3x3(.|\n)*10x6x3x3"):
        caffesurgery.load(prototxt, weights)


V1 = """name: "old"
input: "data" input_dim: 1 input_dim: 3 input_dim: 9 input_dim: 9
layers {
  name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1"
  blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
  convolution_param { num_output: 6 kernel_size: 3 weight_filler { type: "xavier" } }
}
layers { name: "relu" type: RELU bottom: "conv1" top: "conv1" }
layers { name: "ip" type: INNER_PRODUCT bottom: "conv1" top: "ip"
  inner_product_param { num_output: 4 } }
"""
V0 = """name: "older"
input: "data" input_dim: 1 input_dim: 3 input_dim: 9 input_dim: 9
layers { layer { name: "pad" type: "padding" pad: 1 } bottom: "data" top: "pad" }
layers {
  layer { name: "conv1" type: "conv" num_output: 6 kernelsize: 3 stride: 2
    weight_filler { type: "xavier" } blobs_lr: 1. blobs_lr: 2. weight_decay: 1. weight_decay: 0. }
  bottom: "pad" top: "conv1"
}
layers { layer { name: "ip" type: "innerproduct" num_output: 4 } bottom: "conv1" top: "ip" }
"""


@pytest.mark.parametrize("source, dialect", [(V1, "V1"), (V0, "V0")])
def test_old_dialects_stay_old(tmp_path, source, dialect):
    paths = write_net(tmp_path, source, dialect="V1")
    model, _, smaller = operate(tmp_path, paths, "cp", "*=max", allow_growth=True)
    assert smaller.net.dialect == dialect and smaller.weights.dialect == "V1"
    assert "layer {" not in smaller.net.doc.text.replace("layers {", "") or dialect == "V0"
    assert caffesurgery.compare(model, smaller).worst < 1e-4
    last = [x for x in smaller.net.layers if x.name == "conv1_t"][0]
    assert [(s.lr_mult, s.decay_mult) for s in last.specs] == [(1, 1), (2, 0)]


SIAMESE = """name: "siamese"
input: "a" input_shape { dim: 1 dim: 5 dim: 8 dim: 8 }
input: "b" input_shape { dim: 1 dim: 5 dim: 8 dim: 8 }
layer { name: "conv" type: "Convolution" bottom: "a" top: "conv"
  param { name: "w" } param { name: "bias" } convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "conv_p" type: "Convolution" bottom: "b" top: "conv_p"
  param { name: "w" } param { name: "bias" } convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "sum" type: "Eltwise" bottom: "conv" bottom: "conv_p" top: "sum" }
"""


def test_shared_weights_stay_shared(tmp_path):
    paths = write_net(tmp_path, SIAMESE)
    _, _, smaller = operate(tmp_path, paths, "cp", "ratio=0.5")
    specs = {layer.name: [s.name for s in layer.specs] for layer in smaller.net.layers}
    assert specs["conv_dd"] == specs["conv_p_dd"] == ["w_dd"]
    assert specs["conv_t"] == specs["conv_p_t"] == ["w_t", "bias"]
    dense = caffesurgery.save(caffesurgery.restore(smaller), tmp_path / "dense")
    assert [s.name for s in dense.net.layers[1].specs] == ["w", "bias"]


def test_shared_weights_planned_differently_are_refused(tmp_path):
    model = caffesurgery.load(*write_net(tmp_path, SIAMESE))
    plan = caffesurgery.plan(model, "cp", "ratio=0.5", layers="conv")
    with pytest.raises(PlanError, match="shares its weights with 'conv_p'"):
        caffesurgery.apply(model, plan)


def test_layers_that_would_grow_are_left_alone_and_said_so(tmp_path):
    model = caffesurgery.load(*write_net(tmp_path))
    plan = caffesurgery.plan(model, "cp3", "conv1=48,conv2=4")
    assert [layer.name for layer in plan.layers] == ["conv2"]
    kept = {layer.name: layer.why for layer in plan.kept}
    assert re.search(r"would need \d+\.\d+ times its MACs", kept["conv1"])
    grown = caffesurgery.plan(model, "cp3", "conv1=48,conv2=4", allow_growth=True)
    assert [layer.name for layer in grown.layers] == ["conv1", "conv2"]


def test_a_plan_survives_its_text(tmp_path):
    model = caffesurgery.load(*write_net(tmp_path))
    plan = caffesurgery.plan(model, "tucker2", "ratio=0.5", seed=3)
    again = parse_plan(plan.dumps())
    assert [(x.name, x.scheme, x.ranks, x.why, x.before, x.after) for x in again.layers] == [
        (x.name, x.scheme, x.ranks, x.why, x.before, x.after) for x in plan.layers
    ]
    assert (again.kept, again.seed, again.method, again.rule) == (
        plan.kept,
        3,
        "tucker2",
        "ratio=0.5",
    )


def test_new_names_must_be_free(tmp_path):
    source = SMALL.replace('"fc"', '"conv1_s"')
    model = caffesurgery.load(*write_net(tmp_path, source))
    with pytest.raises(PlanError, match="'conv1_s' would meet one of that name"):
        caffesurgery.apply(model, caffesurgery.plan(model, "cp3", "conv1=5"))


def test_a_fully_connected_layer_keeps_the_shape_of_its_top(tmp_path):
    model, _, smaller = operate(tmp_path, write_net(tmp_path), "tucker2", "fc=4x3")
    kinds = {layer.name: layer.type for layer in smaller.net.layers}
    assert [kinds[f"fc{end}"] for end in ("_s", "_core", "_t")] == [
        "Convolution",
        "Convolution",
        "InnerProduct",
    ]
    assert smaller.shapes.blobs["fc"] == model.shapes.blobs["fc"] == (2, 7)


def test_two_runs_write_the_same_bytes(tmp_path):
    paths = write_net(tmp_path)
    for name in ("one", "two"):
        model = caffesurgery.load(*paths)
        result = caffesurgery.apply(model, caffesurgery.plan(model, "cp", "ratio=0.4", seed=5))
        caffesurgery.save(result, tmp_path / name)
    for file in ("deploy.prototxt", "deploy.caffemodel", "plan.prototxt"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_replaced_statements_are_well_formed_where_layers_share_a_line(tmp_path):
    source = SIAMESE.replace("}\nlayer", "} layer").replace("\n", " ")
    _, _, smaller = operate(tmp_path, write_net(tmp_path, source), "tucker2", "ratio=0.7")
    assert text.read(tmp_path / "out" / "deploy.prototxt").root.names()
    assert len(parse_net(smaller.net.doc.text).layers) == 7


def test_a_train_val_can_be_the_net_itself_with_layers_for_each_phase(tmp_path):
    source = train_val_of(SMALL).replace(
        '\nlayer { name: "new"',
        """
layer { name: "twin" type: "InnerProduct" bottom: "score" top: "twin" include { phase: TRAIN }
  inner_product_param { num_output: 9 } }
layer { name: "twin" type: "InnerProduct" bottom: "score" top: "twin" include { phase: TEST }
  inner_product_param { num_output: 9 } }
layer { name: "new\"""",
    )
    inputs = {"data": (6, 13, 11)}
    paths = write_net(tmp_path, source, inputs=inputs)
    model = caffesurgery.load(*paths, inputs=inputs)
    plan = caffesurgery.plan(model, "svd", "twin=2")
    smaller = caffesurgery.save(caffesurgery.apply(model, plan), tmp_path / "out")
    for phase in ("TRAIN", "TEST"):
        assert [x.name for x in smaller.net.phase(phase) if "twin" in x.name] == [
            "twin_ud",
            "twin_vt",
        ]
    dense = caffesurgery.save(caffesurgery.restore(smaller), tmp_path / "dense")
    assert [x.name for x in dense.net.layers] == [x.name for x in model.net.layers]


def test_shared_weights_cannot_be_given_different_ranks(tmp_path):
    model = caffesurgery.load(*write_net(tmp_path, SIAMESE))
    with pytest.raises(RankError, match="conv, conv_p share their weights.*met 4, 5"):
        caffesurgery.plan(model, "cp", "conv=4,conv_p=5")
