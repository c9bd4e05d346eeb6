"""Reading nets: what is one, its layers, phases, rules, wiring, and typed parameters."""

from __future__ import annotations

import json

import pytest

from caffesurgery.errors import FileError, NetError
from caffesurgery.net.graph import connections
from caffesurgery.net.net import parse_net, read_net

CONV = """
name: "tiny"
layer {
  name: "data" type: "Input" top: "data"
  input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } }
}
layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv"
  param { name: "w" lr_mult: 1 decay_mult: 2 } param { lr_mult: 3 }
  convolution_param { num_output: 4 kernel_size: 3 bias_term: false fork_field: 7 }
  loss_weight: 0.5
}
"""


def names(layers) -> list[str]:
    return [layer.name for layer in layers]


def one_layer(rules: str):
    return parse_net(f'layer {{ name: "x" type: "ReLU" bottom: "a" top: "a" {rules} }}')


def test_a_layer_says_what_its_text_says():
    net = parse_net(CONV, "tiny.prototxt")
    conv = net.layers[1]
    assert (net.name, net.dialect, net.inputs) == ("tiny", "V2", ())
    assert (conv.name, conv.type, conv.bottoms, conv.tops) == (
        "conv",
        "Convolution",
        ("data",),
        ("conv",),
    )
    assert (conv.line, conv.where()) == (7, "tiny.prototxt:7 (layer 'conv')")
    assert net.doc.statement(conv.field).startswith('layer {\n  name: "conv"')
    assert conv.loss_weights == (0.5,)
    first, second = conv.specs
    assert (first.name, first.lr_mult, first.decay_mult) == ("w", 1.0, 2.0)
    assert (second.name, second.lr_mult, second.decay_mult) == ("", 3.0, 1.0)
    assert second.given == {"lr_mult"}


def test_parameters_are_typed_and_have_the_schemas_defaults():
    conv = parse_net(CONV).layers[1].params("convolution_param")
    assert conv["num_output"] == 4 and conv["bias_term"] is False
    assert conv["kernel_size"] == (3,) and conv["stride"] == ()
    assert conv["group"] == 1 and conv["engine"] == "DEFAULT" and conv["axis"] == 1
    assert conv["weight_filler"]["type"] == "constant"
    assert conv.has("kernel_size") and not conv.has("pad_h")


def test_an_absent_parameter_message_reads_as_its_defaults():
    relu = parse_net('layer { name: "r" type: "ReLU" }').layers[0]
    assert relu.params("relu_param")["negative_slope"] == 0.0
    assert relu.params("pooling_param")["pool"] == "MAX"


def test_a_forks_fields_stay_reachable_as_they_stand():
    conv = parse_net(CONV).layers[1].params("convolution_param")
    assert [scalar.raw for scalar in conv.raw("fork_field")] == ["7"]
    text = 'layer { type: "Permute" permute_param { order: 0 order: 2 } }'
    permute = parse_net(text).layers[0].params("permute_param")
    assert permute.has("order") and [s.raw for s in permute.raw("order")] == ["0", "2"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("pool: AVE", ("pool", "AVE")),
        ("pool: 1", ("pool", "AVE")),
        ("kernel_size: 0x10", ("kernel_size", 16)),
        ("kernel_size: 010", ("kernel_size", 8)),
        ("global_pooling: 1", ("global_pooling", True)),
        ("global_pooling: t", ("global_pooling", True)),
    ],
)
def test_values_are_read_as_protobuf_reads_them(text, value):
    layer = parse_net(f'layer {{ type: "Pooling" pooling_param {{ {text} }} }}').layers[0]
    assert layer.params("pooling_param")[value[0]] == value[1]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("kernel_size: 1.5", "kernel_size", "kernel_size is 1.5, expected a whole number"),
        ("kernel_size: -1", "kernel_size", "from 0 to 4294967295"),
        ('kernel_size: "3"', "kernel_size", 'kernel_size is "3", expected a whole number'),
        ("pool: MEAN", "pool", "pool is MEAN, expected one of MAX, AVE, STOCHASTIC"),
        ("global_pooling: yes", "global_pooling", "global_pooling is yes, expected true or false"),
        ("kernel_size: 3 kernel_size: 3", "kernel_size", "kernel_size is given 2 times"),
        ("kernel_size { }", "kernel_size", "kernel_size is a message, expected a whole number"),
    ],
)
def test_a_value_of_another_type_is_an_error_that_names_file_line_and_layer(text, name, message):
    net = parse_net(f'\nlayer {{ name: "p"\n pooling_param {{\n{text} }} }}', "n.prototxt")
    with pytest.raises(NetError) as error:
        net.layers[0].params("pooling_param")[name]
    assert str(error.value).startswith("n.prototxt:4 (layer 'p'): ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "this file is empty"),
        ("# only a comment\n", "this file is empty"),
        ('net: "train_val.prototxt"\nbase_lr: 0.01', "a solver, which trains the net 'train_val"),
        ("base_lr: 0.1 max_iter: 10", "a solver; give the prototxt of the net"),
        ('version: 1 layer { name: "c" method: "cp3" rank: 4 }', "a plan for caffesurgery"),
        ('item { name: "cat" label: 1 }', "a label map"),
        ('node { name: "x" op: "Const" }', "a TensorFlow graph"),
        ('type: "ReLU" bottom: "a" top: "a"', "the inside of a single layer"),
        ("spam: 1 eggs: 2", "only eggs, spam; is it the right file?"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_what_it_seems_to_be(text, message):
    with pytest.raises(NetError, match="expected a net") as error:
        parse_net(text, "it.prototxt")
    assert "it.prototxt: " in str(error.value) and message in str(error.value)


def test_layer_and_layers_in_one_file_are_refused_as_by_caffe():
    text = 'layer { name: "a" type: "ReLU" }\nlayers { name: "b" type: RELU }'
    with pytest.raises(NetError, match=r"n:2:1: met 'layers' .* \(line 1\)"):
        parse_net(text, "n")


def test_a_missing_file_and_a_web_page_are_file_errors(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        read_net(tmp_path / "absent.prototxt")
    page = tmp_path / "page.prototxt"
    page.write_text("<!DOCTYPE html><html></html>")
    with pytest.raises(FileError, match="HTML"):
        read_net(page)


def test_a_fragment_whose_bottoms_nobody_makes_can_be_read():
    assert names(one_layer("").phase()) == ["x"]


@pytest.mark.parametrize(
    ("rules", "phase", "stages", "level", "taken"),
    [
        ("", "TRAIN", (), 0, True),
        ("include { phase: TRAIN }", "TRAIN", (), 0, True),
        ("include { phase: TRAIN }", "TEST", (), 0, False),
        ("include { phase: 0 }", "TRAIN", (), 0, True),
        ("include { phase: RUN }", "TEST", (), 0, False),
        ("exclude { phase: TEST }", "TEST", (), 0, False),
        ("exclude { phase: TEST }", "TRAIN", (), 0, True),
        ("include { }", "TEST", (), 0, True),
        ("exclude { }", "TEST", (), 0, False),
        ('include { stage: "a" }', "TEST", (), 0, False),
        ('include { stage: "a" }', "TEST", ("a", "b"), 0, True),
        ('include { stage: "a" stage: "b" }', "TEST", ("a",), 0, False),
        ('include { stage: "a" stage: "b" }', "TEST", ("b", "a"), 0, True),
        ('include { stage: "a" } include { stage: "b" }', "TEST", ("b",), 0, True),
        ('include { not_stage: "a" }', "TEST", (), 0, True),
        ('include { not_stage: "a" }', "TEST", ("a",), 0, False),
        ('include { stage: "b" not_stage: "a" }', "TEST", ("a", "b"), 0, False),
        ("include { min_level: 1 }", "TEST", (), 0, False),
        ("include { min_level: 1 }", "TEST", (), 1, True),
        ("include { max_level: 2 }", "TEST", (), 3, False),
        ("include { min_level: -1 max_level: 2 }", "TEST", (), -1, True),
        ("exclude { phase: TEST min_level: 1 }", "TEST", (), 0, True),
        ('exclude { stage: "a" } exclude { phase: TRAIN }', "TRAIN", (), 0, False),
        # The layer's own phase says how it works, not whether it takes part.
        ("phase: TRAIN", "TEST", (), 0, True),
    ],
)
def test_rules_filter_layers_as_caffe_does(rules, phase, stages, level, taken):
    assert bool(one_layer(rules).phase(phase, stages, level)) is taken


def test_include_and_exclude_in_one_layer_are_refused():
    net = one_layer("include { phase: TRAIN } exclude { phase: TEST }")
    with pytest.raises(NetError, match=r"layer 'x'.*both include and exclude"):
        net.phase("TRAIN")


def test_the_nets_own_state_is_the_default_and_its_stages_stay():
    rule = 'layer { name: "x" type: "ReLU" include { phase: TRAIN stage: "s" min_level: 2 } }'
    net = parse_net('state { phase: TRAIN stage: "s" level: 2 } ' + rule)
    assert names(net.phase()) == ["x"]
    assert names(net.phase("train", ["other"])) == ["x"]
    assert names(net.phase(level=1)) == names(net.phase("TEST")) == []
    assert names(parse_net(rule).phase()) == []


def test_an_unknown_phase_is_refused_with_the_known_ones():
    with pytest.raises(NetError, match="phase 'DEPLOY' is unknown; known: TEST, TRAIN"):
        one_layer("").phase("deploy")


def test_a_layers_own_phase_is_told():
    assert one_layer("phase: TRAIN").layers[0].phase == "TRAIN"
    assert one_layer("").layers[0].phase is None


@pytest.mark.parametrize(
    "dims",
    [
        "input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 5",
        "input_dim: [2, 3, 4, 5]",
        "input_shape { dim: 2 dim: 3 dim: 4 dim: 5 }",
    ],
)
def test_input_fields_become_one_input_layer_in_front(dims):
    net = parse_net(f'layer {{ name: "r" type: "ReLU" bottom: "data" }}\ninput: "data" {dims}', "n")
    assert net.inputs == (("data", (2, 3, 4, 5)),)
    first, second = net.phase()
    assert (first.name, first.type, first.tops) == ("input", "Input", ("data",))
    assert first.params("input_param")["shape"][0]["dim"] == (2, 3, 4, 5)
    assert first.where() == "n:2 (layer 'input')" and second.name == "r"
    assert names(net.layers) == ["r"]


def test_two_inputs_take_eight_input_dims():
    dims = " ".join(f"input_dim: {dim}" for dim in range(1, 9))
    net = parse_net(f'input: "a" input: "b" {dims}')
    assert net.inputs == (("a", (1, 2, 3, 4)), ("b", (5, 6, 7, 8)))


def test_inputs_without_enough_shapes_are_refused():
    with pytest.raises(NetError, match=r"n: 2 input\(s\) but shapes for 1"):
        parse_net('input: "a" input: "b" input_shape { dim: 1 }', "n")


def test_a_shapeless_input_that_a_layer_makes_is_dropped_as_by_caffe():
    net = parse_net('input: "data" layer { name: "in" type: "Input" top: "data" }')
    assert net.inputs == () and names(net.phase()) == ["in"]
    assert parse_net('input: "data"').inputs == (("data", None),)


WIRED = """
layer { name: "data" type: "Input" top: "data" top: "label" }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "sum" type: "Eltwise" bottom: "conv" bottom: "conv" top: "sum" }
layer { name: "tanh" type: "TanH" bottom: "conv" top: "tanh" }
"""


def test_connections_tell_versions_of_a_blob_apart():
    graph = connections(parse_net(WIRED).phase())
    assert graph.sources == ((), ((0, 0),), ((1, 0),), ((2, 0), (2, 0)), ((2, 0),))
    assert graph.consumers(1) == [(2, 0)]
    assert graph.consumers(2) == [(3, 0), (3, 1), (4, 0)]
    assert graph.consumers(0, 1) == []
    assert graph.outputs() == [(0, 1), (3, 0), (4, 0)]


def relu(name: str, bottom: str, top: str, more: str = "") -> str:
    return f'layer {{ name: "{name}" type: "ReLU" bottom: "{bottom}" top: "{top}" {more} }}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (relu("r", "dta", "r"), "n:2 (layer 'r'): no layer before makes its bottom 'dta'"),
        (relu("r", "dta", "r"), "did you mean 'data'?"),
        (relu("r", "late", "r") + relu("s", "data", "late"), "layer 's' (line 3) makes it later"),
        (relu("r", "data", "x") + relu("s", "data", "x"), "top 'x' is already made by layer 'r'"),
        (relu("r", "data", "y") + relu("s", "data", "data"), "'data', which r reads as well"),
        (
            relu("r", "data", "y", "loss_weight: 1") + relu("s", "y", "y"),
            "in place on 'y', which the loss reads as well",
        ),
    ],
)
def test_wiring_that_caffe_refuses_is_refused(text, message):
    net = parse_net('layer { name: "data" type: "Input" top: "data" }\n' + text, "n")
    with pytest.raises(NetError) as error:
        connections(net.phase(), net.layers)
    assert message in str(error.value)


def test_a_missing_bottom_names_the_layer_that_the_phase_leaves_out():
    data = 'layer { name: "d" type: "Input" top: "d" include { stage: "deploy" } }\n'
    net = parse_net(data + relu("r", "d", "r"))
    with pytest.raises(NetError, match=r"layer 'd' \(line 1\) makes it, but its rules"):
        connections(net.phase(), net.layers)
    assert connections(net.phase(stages=["deploy"])).sources == ((), ((0, 0),))


def test_a_fork_that_adds_fields_to_a_layer_is_carried():
    net = parse_net('layer { name: "x" type: "Permute" permute_param { order: 0 } fancy: 3 }')
    assert net.layers[0].type == "Permute" and net.layers[0].has("fancy")


UNIT = ("corpus", "prototxt_unit_tests")


def unit_nets(folder, *parts: str):
    return [read_net(next(folder.glob(f"*{part}.prototxt"))) for part in parts]


@pytest.mark.parametrize("phase", ["train", "test"])
@pytest.mark.parametrize(
    ("case", "level"),
    [
        ("FilterLeNetTrainTest", 0),
        ("FilterInOutByIncludeMultiRule", 4),
        ("FilterInOutByExcludeMultiRule", 4),
    ],
)
def test_phases_keep_what_caffes_own_tests_keep(shared, case, level, phase):
    folder = shared(*UNIT, "src__caffe__test__test_net.cpp")
    net, kept = unit_nets(folder, f"Test{case}_input_proto", f"Test{case}_output_proto_{phase}")
    assert names(net.phase(phase, level=level)) == names(kept.layers)


def test_stages_and_levels_keep_what_caffes_own_tests_keep(shared):
    folder = shared(*UNIT, "src__caffe__test__test_net.cpp")
    seen = 0
    for path in folder.glob("*FilterNetTest_*_input_proto.prototxt"):
        case = path.name.split("_")[2]
        if case.endswith(("MultiRule", "TrainTest")):
            continue
        outputs = list(folder.glob(f"*_{case}_output_proto.prototxt"))
        kept = read_net(outputs[0] if outputs else path)
        assert names(read_net(path).phase()) == names(kept.layers), case
        seen += 1
    assert seen == 16


@pytest.mark.parametrize(
    "case",
    ["TestInsertion", "TestInsertionTwoTop", "TestWithInPlace"],
)
def test_blobs_are_shared_where_caffe_puts_its_split_layers(shared, case):
    folder = shared(*UNIT, "src__caffe__test__test_split_layer.cpp")
    net, split = unit_nets(folder, f"_{case}_input_proto", f"_{case}_expected_output_proto")
    ours, theirs = connections(net.phase()), connections(split.phase())

    def behind_splits(port):
        layer = theirs.layers[port[0]]
        return behind_splits(theirs.sources[port[0]][0]) if layer.type == "Split" else port

    wiring = {
        layer.name: [(ours.layers[i].name, top) for i, top in ports]
        for layer, ports in zip(ours.layers, ours.sources)
    }
    expected = {
        layer.name: [(theirs.layers[i].name, top) for i, top in map(behind_splits, ports)]
        for layer, ports in zip(theirs.layers, theirs.sources)
        if layer.type != "Split"
    }
    assert wiring == expected
    shared_ports = {p for ports in ours.sources for p in ports if len(ours.consumers(*p)) > 1}
    assert len(shared_ports) == sum(layer.type == "Split" for layer in theirs.layers)


def test_every_public_net_that_caffe_parses_is_read(shared):
    root = shared("corpus")
    rows = json.loads((root / "prototxt_index.json").read_text())
    rows = [row for row in rows if row["kind"] == "net" and row.get("bvlc_ok")][::6]
    refused = {}
    for row in rows:
        try:
            net = read_net(root / "prototxt" / row["rel"])
        except NetError as error:
            refused[row["rel"]] = str(error)
            continue
        assert net.dialect == row["format"], row["rel"]
        assert len(net.layers) <= row["n_layers"]
        for layer in net.phase("TRAIN") + net.phase("TEST"):
            assert layer.type and layer.specs is not None
    # Caffe parses these, but makes no net of them.
    excuses = ("'layer' too", "but shapes for", "this has only")
    assert all(any(excuse in text for excuse in excuses) for text in refused.values()), refused
    assert len(refused) < len(rows) // 50


def test_every_public_solver_is_told_from_a_net(shared):
    root = shared("corpus")
    rows = json.loads((root / "prototxt_index.json").read_text())
    for row in [row for row in rows if row["kind"] == "solver" and row.get("bvlc_ok")][::10]:
        with pytest.raises(NetError, match="seems to be a solver"):
            read_net(root / "prototxt" / row["rel"])
