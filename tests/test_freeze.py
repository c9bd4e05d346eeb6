"""Layers frozen by edits of their text: what Caffe then keeps as it is, and the way back."""

from __future__ import annotations

import pytest

from caffesurgery.errors import NetError, UsageError
from caffesurgery.net.net import parse_net
from caffesurgery.train.freeze import frozen, thawed

NET = """name: "n"  # of a test
input: "data"
input_shape { dim: 1 dim: 4 dim: 8 dim: 8 }
layer {
  name: "a"  # the first
  type: "Convolution"
  bottom: "data"
  top: "a"  # its top
  convolution_param { num_output: 4 kernel_size: 3 }
}
layer {
  name: "b"
  type: "Convolution"
  bottom: "a"
  top: "b"
  param { lr_mult: 1 decay_mult: 1 }
  param { lr_mult: 2 }
  convolution_param { num_output: 4 kernel_size: 1 }
}
layer { name: "c" type: "InnerProduct" bottom: "b" top: "c" param { name: "w" }
  inner_product_param { num_output: 4 bias_term: false } }
layer { name: "d" type: "InnerProduct" bottom: "b" top: "d" param { name: "w" } param { lr_mult: 2 }
  inner_product_param { num_output: 4 } }
layer { name: "bn" type: "BatchNorm" bottom: "a" top: "bn" }
"""


def rates(text: str) -> dict:
    """(lr_mult, decay_mult) of every param by layer."""
    return {
        layer.name: [(spec.lr_mult, spec.decay_mult) for spec in layer.specs]
        for layer in parse_net(text).layers
    }


def test_layers_without_and_with_params():
    net = parse_net(NET)
    text = frozen(net, ["a", "b"])
    assert text == NET.replace(
        'top: "a"  # its top\n',
        'top: "a"  # its top\n  param { lr_mult: 0 decay_mult: 0 }\n'
        "  param { lr_mult: 0 decay_mult: 0 }\n",
    ).replace("lr_mult: 1 decay_mult: 1", "lr_mult: 0 decay_mult: 0").replace(
        "{ lr_mult: 2 }\n  conv", "{ lr_mult: 0 decay_mult: 0 }\n  conv"
    )
    assert rates(text)["d"] == [(1, 1), (2, 1)]


def test_a_shared_blob_is_frozen_in_every_layer_that_has_it():
    after = rates(frozen(parse_net(NET), ["c"]))
    assert after["c"] == [(0, 0)] and after["d"] == [(0, 0), (2, 1)]
    after = rates(frozen(parse_net(NET), ["d"]))
    assert after["c"] == [(0, 0)] and after["d"] == [(0, 0), (0, 0)]


def test_batch_normalisation_has_no_rates():
    assert frozen(parse_net(NET), ["bn"]) == NET


@pytest.mark.parametrize("names", (["a"], ["b"], ["a", "b", "bn"], ["c", "d"]))
@pytest.mark.parametrize("newline", ("\n", "\r\n"))
def test_back_to_the_same_bytes(names, newline):
    net = parse_net(NET.replace("\n", newline))
    cold = parse_net(frozen(net, names))
    assert thawed(cold, [*names, "c", "d"], net) == net.doc.text


def test_back_without_a_model_is_what_caffe_takes_by_itself():
    other = parse_net('input: "x"')
    text = thawed(parse_net(frozen(parse_net(NET), ["b"])), ["b"], other)
    assert rates(text)["b"] == []


OLD = """layers { name: "a" type: CONVOLUTION bottom: "x" top: "a"
  blobs_lr: 1 blobs_lr: 2 weight_decay: 1
  convolution_param { num_output: 4 kernel_size: 3 } }
layers { name: "b" type: INNER_PRODUCT bottom: "a" top: "b"
  inner_product_param { num_output: 4 } }
"""


def test_the_older_dialect_has_lists():
    net = parse_net(OLD)
    text = frozen(net, ["a", "b"])
    assert "  blobs_lr: 0 blobs_lr: 0 weight_decay: 0 weight_decay: 0\n" in text
    assert rates(text) == {"a": [(0, 0)] * 2, "b": [(0, 0)] * 2}
    assert rates(thawed(parse_net(text), ["a", "b"], net)) == {"a": [(1, 1), (2, 1)], "b": []}


def test_the_oldest_dialect_has_them_inside():
    text = (
        'layers { layer { name: "a" type: "conv" num_output: 2 kernelsize: 3 blobs_lr: 1. '
        'blobs_lr: 2. } bottom: "x" top: "a" }\n'
    )
    assert rates(frozen(parse_net(text), ["a"])) == {"a": [(0, 0)] * 2}


def test_a_net_whose_data_nobody_knows_is_frozen_by_its_layer_types():
    text = NET.replace('input: "data"', "").replace(
        "input_shape { dim: 1 dim: 4 dim: 8 dim: 8 }",
        'layer { name: "data" type: "Data" top: "data" data_param { source: "x" batch_size: 2 } }',
    )
    assert rates(frozen(parse_net(text), ["a", "d"]))["a"] == [(0, 0)] * 2
    strange = text.replace('"Convolution"', '"Fancy"', 1)
    assert rates(frozen(parse_net(strange), ["a"], {"a": 3}))["a"] == [(0, 0)] * 3
    with pytest.raises(NetError, match="parameter blobs type 'Fancy' has is not known"):
        frozen(parse_net(strange), ["a"])


def test_an_unknown_layer():
    with pytest.raises(UsageError, match="no layer 'conv9' to freeze; .*known: a, b"):
        frozen(parse_net(NET), ["conv9"])


def test_the_reference_run_with_a_frozen_layer(shared):
    """It freezes conv1's weights alone; frozen whole and thawed again it is the unfrozen run."""
    cold = parse_net((shared("training") / "sgd_frozen_conv1/train.prototxt").read_text())
    warm = parse_net((shared("training") / "sgd_fixed/train.prototxt").read_text())
    assert rates(cold.doc.text)["conv1"] == [(0, 1), (2, 0)]
    whole = frozen(cold, ["conv1"])
    assert rates(whole) == {**rates(warm.doc.text), "conv1": [(0, 0), (0, 0)]}
    assert rates(thawed(parse_net(whole), ["conv1"], warm)) == rates(warm.doc.text)
