"""Layers in torch: outputs of real Caffe, losses of the reference, gradients by differences."""

from __future__ import annotations

import numpy as np
import pytest

from caffesurgery import forward
from caffesurgery.errors import NetError, TrainError
from caffesurgery.files import caffemodel
from caffesurgery.net.net import parse_net, read_net
from caffesurgery.net.shapes import infer

torch = pytest.importorskip("torch", reason="the trainer that needs no Caffe needs torch")

from caffesurgery.train.torch.fillers import filled  # noqa: E402
from caffesurgery.train.torch.net import TorchNet  # noqa: E402

INPUT = """layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 4 dim: 3 dim: 5 dim: 4 } shape { dim: %s } } }
"""
CONV = """layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
"""
IP = """layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
"""
LOSSES = {
    "softmax": (4, 'type: "SoftmaxWithLoss"'),
    "softmax_places": ("4 dim: 5 dim: 4", 'type: "SoftmaxWithLoss" bottom: "conv"'),
    **{
        f"softmax_{mode}_{ignored}": (
            "4 dim: 5 dim: 4",
            'type: "SoftmaxWithLoss" bottom: "conv" loss_weight: 2 '
            f"loss_param {{ {ignored} normalization: {mode} }}",
        )
        for mode in ("FULL", "VALID", "BATCH_SIZE", "NONE")
        for ignored in ("", "ignore_label: 2")
    },
    "softmax_old": (4, 'type: "SoftmaxWithLoss" loss_param { normalize: false ignore_label: 1 }'),
    "euclidean": ("4 dim: 6", 'type: "EuclideanLoss"'),
    "hinge": (4, 'type: "HingeLoss"'),
    "hinge_l2": (4, 'type: "HingeLoss" hinge_loss_param { norm: L2 }'),
    "sigmoid": ("4 dim: 6", 'type: "SigmoidCrossEntropyLoss"'),
    "sigmoid_valid": (
        "4 dim: 6",
        'type: "SigmoidCrossEntropyLoss" loss_param { normalization: VALID ignore_label: 1 }',
    ),
}


def make(text: str, phase: str = "TEST", seed: int = 0) -> TorchNet:
    return TorchNet(infer(parse_net(text), phase), phase, seed=seed)


def loss_net(name: str) -> str:
    label, words = LOSSES[name]
    bottom = "" if "bottom" in words else 'bottom: "ip" '
    return f'{INPUT % label}{CONV}{IP}layer {{ name: "loss" {bottom}{words} bottom: "label" }}'


def inputs_of(net: TorchNet, classes: int = 2, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = net.shapes.blobs
    made = {"data": rng.standard_normal(shapes["data"]).astype(np.float32)}
    if "label" in shapes:
        made["label"] = rng.integers(0, classes, shapes["label"]).astype(np.float32)
    return made


def tensors(arrays, dtype=torch.float32):
    return {name: torch.tensor(array, dtype=dtype) for name, array in arrays.items()}


def golden():
    """Names of the golden nets, from the folder if it is there."""
    from conftest import shared_root

    folder = shared_root() / "golden"
    return (
        sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.exists() else []
    )


def kinds() -> dict[str, list[str]]:
    """The golden nets by kind."""
    found: dict[str, list[str]] = {}
    for name in golden() or ["none"]:
        found.setdefault(name.rsplit("_", 1)[0], []).append(name)
    return found


@pytest.mark.parametrize("kind", kinds())
def test_outputs_are_those_of_real_caffe(kind, shared):
    for name in kinds()[kind]:
        folder = shared("golden", name)
        shapes = infer(read_net(folder / "net.prototxt"), "TEST")
        net = TorchNet(shapes, "TEST")
        net.load(caffemodel.read(folder / "net.caffemodel"))
        stored = np.load(folder / "io.npz")
        given = {key[3:]: torch.from_numpy(stored[key]) for key in stored if key[:3] == "in:"}
        with torch.no_grad():
            _, outputs = net(given)
        for key in stored:
            if key.startswith("out:"):
                met, real = outputs[key[4:]].numpy(), stored[key]
                np.testing.assert_allclose(met, real, rtol=2e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("kind", kinds())
def test_gradients_of_golden_nets_are_those_of_differences(kind, shared):
    name = kinds()[kind][0]
    folder = shared("golden", name)
    net = TorchNet(infer(read_net(folder / "net.prototxt"), "TEST"), "TEST")
    net.load(caffemodel.read(folder / "net.caffemodel"))
    stored = np.load(folder / "io.npz")
    given = {key[3:]: stored[key] for key in stored if key[:3] == "in:"}
    net.weights.update((port, 1.0) for port in net.outputs)
    check_gradient(net, given, seed=2)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients(name):
    net = make(loss_net(name))
    arrays = inputs_of(net, 6 if name.startswith(("soft", "hinge")) else 2)
    blobs = {i: net.blobs(i) for i, e in enumerate(net.shapes.layers) if e.params}
    runner = forward.Runner(infer(parse_net(with_top(loss_net(name))), "TEST"), blobs)
    expected = runner.run(arrays)["made"] * next(iter(net.weights.values()))
    loss, _ = net(tensors(arrays))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    check_gradient(net, arrays)


def test_losses_are_bounded_but_their_gradients_are_not():
    text = (
        INPUT % 4
        + """layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
      inner_product_param { num_output: 2 } } """
    )
    net = make(text + 'layer { name: "l" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" }')
    arrays = inputs_of(net)
    arrays["label"][:] = 0
    with torch.no_grad():
        net.values[1][1] = 1e9  # the other class, beyond any doubt
    loss, _ = net(tensors(arrays))
    loss.backward()
    assert loss.item() == pytest.approx(87.33655, rel=1e-6)
    assert net.values[1].grad.tolist() == [-1, 1]


def with_top(text: str) -> str:
    return text[: text.rstrip().rfind("}")] + ' top: "made" }'


def check_gradient(net: TorchNet, arrays, seed: int = 0, step: float = 1e-6):
    """The derivative along a random direction of parameters and data, in double precision."""
    net = net.double()
    given = tensors(arrays, torch.float64)
    generator = torch.Generator().manual_seed(seed)
    moved = [value for value in net.values if value.requires_grad]
    moved += [given["data"].requires_grad_()] if "data" in given else []
    ways = [torch.randn(v.shape, generator=generator, dtype=v.dtype) for v in moved]
    places = [*net.values, *(value for value in moved if value.is_leaf)]
    kept = [value.detach().clone() for value in places]

    def loss(along: float):
        with torch.no_grad():
            for value, before in zip(places, kept):
                value.copy_(before)  # statistics too, which the last pass moved
            for value, way in zip(moved, ways):
                value.add_(way, alpha=along)
        return net(given, seed=7)[0]

    found = loss(0.0)
    if not found.requires_grad:
        return
    gradients = torch.autograd.grad(found, moved, allow_unused=True)
    slope = sum((g * w).sum().item() for g, w in zip(gradients, ways) if g is not None)
    with torch.no_grad():
        measured = (loss(step) - loss(-step)).item() / (2 * step)
    assert slope == pytest.approx(measured, rel=2e-4, abs=1e-6)


BODIES = {
    "batch_norm": 'layer { name: "n" type: "BatchNorm" bottom: "conv" top: "n" }'
    'layer { name: "s" type: "Scale" bottom: "n" top: "out" scale_param { bias_term: true } }',
    "batch_norm_alone": 'layer { name: "n" type: "BatchNorm" bottom: "conv" top: "out" }',
    "dropout": 'layer { name: "n" type: "Dropout" bottom: "conv" top: "out" }',
    "lrn": 'layer { name: "n" type: "LRN" bottom: "conv" top: "out" lrn_param { alpha: 0.5 } }',
    "lrn_within": 'layer { name: "n" type: "LRN" bottom: "conv" top: "out" lrn_param { alpha: 0.5'
    " local_size: 3 norm_region: WITHIN_CHANNEL } }",
    "max": 'layer { name: "a" type: "Power" bottom: "conv" top: "a" power_param { scale: -1 } }'
    'layer { name: "n" type: "Eltwise" bottom: "conv" bottom: "a" top: "out"'
    " eltwise_param { operation: MAX } }",
    "relu_in_place": 'layer { name: "n" type: "ReLU" bottom: "conv" top: "conv" }'
    'layer { name: "o" type: "Pooling" bottom: "conv" top: "out" pooling_param { kernel_size: 2'
    " stride: 2 } }",
}
END = """layer { name: "end" type: "InnerProduct" bottom: "out" top: "end"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "end" bottom: "label" top: "loss" }
"""


@pytest.mark.parametrize("body", BODIES)
def test_gradients_of_the_train_phase_are_those_of_differences(body):
    net = make(f"{INPUT % 4}{CONV}{BODIES[body]}{END}", "TRAIN")
    check_gradient(net, inputs_of(net, 3))


def test_batch_norm_moves_its_statistics_as_caffe_does():
    net = make(f"{INPUT % 4}{CONV}{BODIES['batch_norm']}{END}", "TRAIN")
    arrays = inputs_of(net, 3)
    kernel, bias = (torch.tensor(blob) for blob in net.blobs(1))
    seen = torch.nn.functional.conv2d(torch.tensor(arrays["data"]), kernel, bias, padding=1)
    for _ in range(2):
        net(tensors(arrays), outputs=False)
    mean, variance, factor = net.blobs(2)
    dims = (0, 2, 3)
    share = 1 + np.float32(0.999)
    np.testing.assert_allclose(factor, [share], rtol=1e-6)
    np.testing.assert_allclose(mean, share * seen.mean(dims), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(variance, share * seen.var(dims, unbiased=True), rtol=1e-4)


def test_statistics_do_not_depend_on_what_was_in_memory():
    net = make(f"{INPUT % 4}{CONV}{BODIES['batch_norm']}{END}", "TRAIN")
    torch.use_deterministic_algorithms(True)  # fills memory that is not set with NaN
    try:
        loss, _ = net(tensors(inputs_of(net, 3)))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(np.isfinite(blob).all() for blob in (*net.blobs(2), loss.item()))


def test_infogain_weighs_classes(tmp_path):
    text = (
        INPUT % 4
        + CONV
        + IP.replace("6", "3")
        + (
            'layer { name: "h" type: "Input" top: "h" input_param { shape { dim: 1 dim: 1 dim: 3'
            ' dim: 3 } } } layer { name: "loss" type: "InfogainLoss" bottom: "ip" bottom: "label"'
            ' bottom: "h" loss_param { ignore_label: 2 } }'
        )
    )
    net = make(text)
    arrays = {**inputs_of(net, 3), "h": np.eye(3, dtype=np.float32).reshape(1, 1, 3, 3)}
    plain = make(
        INPUT % 4 + CONV + IP.replace("6", "3") + 'layer { name: "loss" type: "SoftmaxWithLoss" '
        'bottom: "ip" bottom: "label" loss_param { ignore_label: 2 } }'
    )
    same = net(tensors(arrays))[0]
    assert same.item() == pytest.approx(plain(tensors(arrays))[0].item(), rel=1e-6)
    arrays["h"] = np.random.default_rng(3).random((1, 1, 3, 3)).astype(np.float32)
    check_gradient(net, arrays)


@pytest.mark.parametrize("legacy", ("false", "true"))
def test_contrastive_loss(legacy):
    text = (
        INPUT % 4
        + CONV
        + IP
        + 'layer { name: "b" type: "Input" top: "b" input_param { shape { dim: 4 dim: 6 } } }'
        'layer { name: "loss" type: "ContrastiveLoss" bottom: "ip" bottom: "b" bottom: "label"'
        f" contrastive_loss_param {{ margin: 4 legacy_version: {legacy} }} }}"
    )
    net = make(text)
    rng = np.random.default_rng(0)
    arrays = {**inputs_of(net), "b": rng.standard_normal((4, 6)).astype(np.float32)}
    arrays["label"][:] = [0, 1, 0, 1]
    blobs = {1: net.blobs(1), 2: net.blobs(2)}
    runner = forward.Runner(infer(parse_net(with_top(text)), "TEST"), blobs)
    loss = net(tensors(arrays))[0].item()
    assert loss == pytest.approx(runner.run(arrays)["made"].item(), rel=1e-5)


def test_logistic_loss_of_probabilities():
    text = (
        INPUT % 4 + CONV + IP + 'layer { name: "p" type: "Softmax" bottom: "ip" top: "p" }'
        'layer { name: "loss" type: "MultinomialLogisticLoss" bottom: "p" bottom: "label" }'
    )
    net = make(text)
    arrays = inputs_of(net, 6)
    fused = make(loss_net("softmax"))(tensors(arrays))[0].item()
    assert net(tensors(arrays))[0].item() == pytest.approx(fused, 1e-5)
    check_gradient(net, arrays)


@pytest.mark.parametrize("params", ("top_k: 1", "top_k: 3", "top_k: 2 ignore_label: 1"))
def test_accuracy_is_that_of_the_reference(params):
    text = (
        INPUT % 4
        + CONV
        + IP
        + (
            'layer { name: "a" type: "Accuracy" bottom: "ip" bottom: "label" top: "a" top: "by"'
            f" accuracy_param {{ {params} }} }}"
        )
    )
    net = make(text)
    arrays = inputs_of(net, 6)
    blobs = {1: net.blobs(1), 2: net.blobs(2)}
    expected = forward.Runner(net.shapes, blobs).run(arrays)
    _, outputs = net(tensors(arrays))
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, rtol=1e-6)


def test_gradients_stop_where_the_text_says():
    stopped = END.replace('bottom: "out"', 'bottom: "out" propagate_down: false')
    net = make(f"{INPUT % 4}{CONV}{BODIES['lrn']}{stopped}", "TRAIN")
    net(tensors(inputs_of(net, 3)))[0].backward()
    by_layer = {one.layer: value for one, value in zip(net.learnables, net.values)}
    assert by_layer["conv"].grad is None and by_layer["end"].grad is not None
    assert net.has_idle_blobs


def test_shared_blobs_are_one():
    shared = 'param { name: "w" lr_mult: 0.5 } param { name: "b" }'
    text = (
        INPUT % 4
        + "".join(
            CONV.replace('"conv"', f'"{name}"').replace(
                "convolution_param", f"{shared} convolution_param"
            )
            for name in "ab"
        )
        + 'layer { name: "loss" type: "EuclideanLoss" bottom: "a" bottom: "b" }'
    )
    net = make(text, "TRAIN")
    assert [(one.layer, one.lr_mult) for one in net.learnables] == [("a", 0.5), ("a", 1.0)]
    assert net(tensors(inputs_of(net)))[0].item() == 0
    assert np.array_equal(net.blobs(1)[0], net.blobs(2)[0])


@pytest.mark.parametrize(
    "filler, low, high",
    (
        ('type: "constant" value: 3', 3, 3),
        ('type: "uniform" min: -1 max: 2', -1, 2),
        ('type: "xavier"', -0.34, 0.34),
        ('type: "xavier" variance_norm: FAN_OUT', -0.2, 0.2),
        ('type: "msra"', -1.4, 1.4),
        ('type: "gaussian" mean: 1 std: 0.01', 0.9, 1.1),
        ('type: "positive_unitball"', 0, 1),
        ('type: "bilinear"', 0.25, 1),
    ),
)
def test_fillers_have_caffes_distributions(filler, low, high):
    conv = CONV.replace('type: "xavier"', filler).replace("num_output: 6", "num_output: 9")
    text = INPUT % 4 + conv
    entry = infer(parse_net(text), "TRAIN").layers[1]
    kernel, bias = filled(entry, 1)
    assert kernel.min() >= low and kernel.max() <= high and kernel.dtype == np.float32
    assert not bias.any() and np.array_equal(kernel, filled(entry, 1)[0])
    if "unitball" in filler:
        np.testing.assert_allclose(kernel.reshape(9, -1).sum(1), 1, rtol=1e-6)
    if "constant" not in filler and "bilinear" not in filler:
        assert not np.array_equal(kernel, filled(entry, 2)[0])


def test_sparse_gaussians_keep_few_inputs():
    text = INPUT % 4 + IP.replace("conv", "data").replace(
        "num_output: 6", "num_output: 200"
    ).replace('"xavier"', '"gaussian" sparse: 10')
    kernel = filled(infer(parse_net(text), "TRAIN").layers[1], 0)[0]
    assert 0.03 < (kernel != 0).mean() < 0.07


def test_unknown_fillers_are_named():
    text = INPUT % 4 + CONV.replace("xavier", "zavier")
    with pytest.raises(NetError, match="unknown filler 'zavier'; did you mean 'xavier'"):
        make(text)


def test_stochastic_pooling_is_refused():
    text = (
        INPUT % 4
        + CONV
        + (
            'layer { name: "p" type: "Pooling" bottom: "conv" top: "p" pooling_param { '
            "pool: STOCHASTIC kernel_size: 2 } }"
        )
    )
    with pytest.raises(TrainError, match="layer 'p'.*STOCHASTIC pooling cannot be trained"):
        make(text)
