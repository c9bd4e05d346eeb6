"""Nets in the old dialects V0 and V1 read as the same layers in V2, with true places in errors."""

from __future__ import annotations

import pytest

from caffesurgery.errors import NetError
from caffesurgery.files.dialects import V0_TYPES, V1_TYPES
from caffesurgery.files.schema import load_schema
from caffesurgery.net.layers import lookup
from caffesurgery.net.net import parse_net, read_net
from caffesurgery.net.shapes import infer

V0 = """
name: "old"
input: "data" input_dim: 2 input_dim: 3 input_dim: 9 input_dim: 9
layers {
  layer { name: "pad1" type: "padding" pad: 2 }
  bottom: "data" top: "pad1"
}
layers {
  layer {
    name: "conv1" type: "conv" num_output: 8 kernelsize: 5 stride: 2 group: 1 biasterm: true
    weight_filler { type: "gaussian" std: 0.01 }
    blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
  }
  bottom: "pad1" top: "conv1"
}
layers { layer { name: "pool1" type: "pool" pool: AVE kernelsize: 3 stride: 2 }
  bottom: "conv1" top: "pool1" }
layers { layer { name: "fc" type: "innerproduct" num_output: 10 }
  bottom: "pool1" top: "fc" }
layers { layer { name: "drop" type: "dropout" dropout_ratio: 0.3 }
  bottom: "fc" top: "fc" }
"""

V1 = """
name: "old"
input: "data" input_dim: 2 input_dim: 3 input_dim: 9 input_dim: 9
layers {
  name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1"
  blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
  convolution_param {
    num_output: 8 kernel_size: 5 stride: 2 group: 1 bias_term: true pad: 2
    weight_filler { type: "gaussian" std: 0.01 }
  }
}
layers { name: "pool1" type: POOLING bottom: "conv1" top: "pool1"
  pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layers { name: "fc" type: 14 bottom: "pool1" top: "fc" inner_product_param { num_output: 10 } }
layers { name: "drop" type: DROPOUT bottom: "fc" top: "fc" dropout_param { dropout_ratio: 0.3 } }
"""

V2 = """
name: "old"
input: "data" input_shape { dim: 2 dim: 3 dim: 9 dim: 9 }
layer {
  name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  convolution_param {
    num_output: 8 kernel_size: 5 stride: 2 group: 1 bias_term: true pad: 2
    weight_filler { type: "gaussian" std: 0.01 }
  }
}
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool1" top: "fc"
  inner_product_param { num_output: 10 } }
layer { name: "drop" type: "Dropout" bottom: "fc" top: "fc" dropout_param { dropout_ratio: 0.3 } }
"""


def views(net) -> list[dict]:
    return [layer.view.as_dict() for layer in net.layers]


@pytest.mark.parametrize(("text", "dialect"), [(V0, "V0"), (V1, "V1")])
def test_old_dialects_give_the_layers_of_their_v2_form(text, dialect):
    net = parse_net(text)
    assert net.dialect == dialect and {layer.dialect for layer in net.layers} == {dialect}
    assert views(net) == views(parse_net(V2)) and net.warnings == []
    assert net.inputs == (("data", (2, 3, 9, 9)),)


def test_an_upgraded_layer_keeps_its_statement_and_line():
    net = parse_net(V0, "n")
    conv = net.layers[0]
    assert conv.where() == "n:8 (layer 'conv1')"
    assert net.doc.statement(conv.field).startswith('layers {\n  layer {\n    name: "conv1"')
    assert net.doc.text == V0


def test_an_error_in_an_upgraded_field_names_its_own_line():
    conv = parse_net(V0.replace("kernelsize: 5", "kernelsize: big"), "n").layers[0]
    with pytest.raises(NetError, match=r"n:10 \(layer 'conv1'\): kernel_size is big, expected"):
        conv.params("convolution_param")["kernel_size"]


def test_names_share_modes_and_multipliers_become_param_messages():
    text = """layers { type: INNER_PRODUCT param: "w" param: "b" blob_share_mode: PERMISSIVE
      blobs_lr: 1 blobs_lr: 2 blobs_lr: 3 weight_decay: 0.5 }"""
    specs = parse_net(text).layers[0].specs
    assert [(s.name, s.share_mode, s.lr_mult, s.decay_mult) for s in specs] == [
        ("w", "PERMISSIVE", 1.0, 0.5),
        ("b", "STRICT", 2.0, 1.0),
        ("", "STRICT", 3.0, 1.0),
    ]


def test_transformations_of_v1_data_layers_move_and_win():
    text = """layers { name: "d" type: DATA top: "data"
      transform_param { mirror: true crop_size: 1 }
      data_param { source: "db" batch_size: 4 scale: 0.5 crop_size: 27 mean_file: "m" } }"""
    layer = parse_net(text).layers[0]
    expected = {"mirror": True, "crop_size": 27, "scale": 0.5, "mean_file": "m"}
    assert layer.params("transform_param").as_dict() == expected
    assert layer.params("data_param").as_dict() == {"source": "db", "batch_size": 4}


def test_transformations_in_v2_data_params_are_ignored_as_by_caffe():
    text = 'layer { type: "Data" data_param { crop_size: 27 } }'
    assert parse_net(text).layers[0].params("transform_param")["crop_size"] == 0


def test_v0_transformations_go_to_transform_param():
    text = """layers { top: "data" layer { name: "d" type: "data" source: "db" batchsize: 4
      cropsize: 27 mirror: true meanfile: "m" scale: 0.5 rand_skip: 3 } }"""
    layer = parse_net(text).layers[0]
    assert layer.params("data_param").as_dict() == {
        "source": "db",
        "batch_size": 4,
        "rand_skip": 3,
    }
    assert layer.params("transform_param").as_dict() == {
        "crop_size": 27,
        "mirror": True,
        "mean_file": "m",
        "scale": 0.5,
    }


def test_a_v0_field_of_another_type_is_left_out_with_a_warning():
    net = parse_net('layers { layer { name: "r" type: "relu" group: 2 } }', "n")
    assert views(net) == [{"name": "r", "type": "ReLU"}]
    assert net.warnings == ["n:1:41: a layer of type 'relu' has no group; ignored"]


def test_padding_before_anything_but_conv_and_pool_is_refused():
    text = V0.replace('bottom: "conv1" top: "pool1"', 'bottom: "pad1" top: "pool1"')
    assert [layer.name for layer in parse_net(text).layers][:2] == ["conv1", "pool1"]
    text = V0.replace('bottom: "pool1" top: "fc"', 'bottom: "pad1" top: "fc"')
    with pytest.raises(NetError, match="padding layer can only stand before one conv or pool"):
        parse_net(text)


def test_a_forks_v1_type_is_carried_and_a_quoted_one_refused():
    assert parse_net("layers { type: ROI_POOLING }").layers[0].type == "ROI_POOLING"
    with pytest.raises(NetError, match='type is "ReLU" in a .layers. statement, expected an enum'):
        parse_net('layers { type: "ReLU" }')


def test_three_param_specs_of_a_batch_norm_are_fixed_as_by_caffe():
    text = 'layer { type: "BatchNorm" param { lr_mult: 1 } param { name: "v" } param { } }'
    specs = parse_net(text).layers[0].specs
    assert [(s.name, s.lr_mult, s.decay_mult) for s in specs] == [
        ("", 0.0, 0.0),
        ("v", 0.0, 0.0),
        ("", 0.0, 0.0),
    ]


def test_every_old_type_has_a_name_and_an_entry_in_the_layer_table():
    assert set(V1_TYPES) == set(load_schema().enums["V1LayerParameter.LayerType"])
    assert all(lookup(name) for name in V1_TYPES.values() if name)
    assert set(V0_TYPES.values()) < set(V1_TYPES.values())


def test_shapes_of_all_dialects_are_equal():
    first = infer(parse_net(V2)).blobs
    assert first == {
        "data": (2, 3, 9, 9),
        "conv1": (2, 8, 5, 5),
        "pool1": (2, 8, 2, 2),
        "fc": (2, 10),
    }
    assert infer(parse_net(V0)).blobs == infer(parse_net(V1)).blobs == first


@pytest.mark.parametrize(
    "cases",
    [
        "TestSimple_v0_proto TestSimple_expected_v1_proto TestSimple_expected_v2_proto",
        "TestImageNet_v0_proto TestImageNet_expected_v1_proto TestImageNet_expected_v2_proto",
        "TestAllParams_input_proto TestAllParams_expected_output_proto",
        "LayerUpgradeTest_TestSimple_input_proto LayerUpgradeTest_TestSimple_expected_output_proto",
        "TestTwoTops_input_proto TestTwoTops_expected_output_proto",
        "LayerUpgradeTest_TestImageNet_input_proto "
        "LayerUpgradeTest_TestImageNet_expected_output_proto",
    ],
)
def test_the_forms_of_caffes_own_upgrade_tests_are_equal(shared, cases):
    folder = shared("corpus", "prototxt_unit_tests", "src__caffe__test__test_upgrade_proto.cpp")
    nets = [read_net(next(folder.glob(f"*{case}.prototxt"))) for case in cases.split()]
    for net in nets[1:]:
        assert views(net) == views(nets[0])
        assert net.name == nets[0].name and net.warnings == []
    assert [layer.specs for layer in nets[0].layers] == [layer.specs for layer in nets[-1].layers]
