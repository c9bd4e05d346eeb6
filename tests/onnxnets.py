"""Small nets for the tests of export and compare: text and seeded weights in, ONNX Runtime out."""

from __future__ import annotations

import io

import numpy as np
import onnxruntime

from caffesurgery.export.onnx import build
from caffesurgery.files import caffemodel
from caffesurgery.net.net import parse_net
from caffesurgery.net.shapes import infer


def input_layer(**shapes) -> str:
    """Text of one Input layer for each name=shape."""
    return "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        + " ".join(f"dim: {dim}" for dim in shape)
        + " } } }\n"
        for name, shape in shapes.items()
    )


def layer(kind: str, bottoms: str, tops: str, params: str = "", name: str = "") -> str:
    """Text of a layer; bottoms and tops are names with spaces, its name that of its first top."""
    lines = [f'bottom: "{blob}"' for blob in bottoms.split()]
    lines += [f'top: "{blob}"' for blob in tops.split()]
    name = name or tops.split()[0]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(lines)} {params} }}\n'


def write_weights(path, net, blobs=None, seed=0):
    """A caffemodel for the net: ``blobs`` by layer name, else seeded numbers; read back."""
    random = np.random.default_rng(seed)
    layers = []
    for entry in infer(net, "TEST").layers:
        if not entry.params:
            continue
        arrays = (blobs or {}).get(entry.layer.name)
        if arrays is None:
            arrays = [random.uniform(0.1, 1, shape).astype(np.float32) for shape in entry.params]
        kind = entry.layer.type
        layers.append(
            caffemodel.NewLayer(
                entry.layer.name, kind, entry.layer.bottoms, entry.layer.tops, arrays
            )
        )
    caffemodel.write(path, net.name, layers)
    return caffemodel.read(path)


def net_and_weights(text: str, tmp_path, blobs=None, seed=0):
    """The net of a text, and weights for it (None where it has no parameters)."""
    net = parse_net(text, "net.prototxt")
    if not any(entry.params for entry in infer(net, "TEST").layers):
        return net, None
    return net, write_weights(tmp_path / f"net{seed}.caffemodel", net, blobs, seed)


def model_bytes(made) -> bytes:
    """The ModelProto of an Export as it would be written."""
    stream = io.BytesIO()
    size = made.model.write(stream)
    assert size == len(stream.getvalue())
    return stream.getvalue()


def run(data: bytes, feeds) -> dict[str, np.ndarray]:
    """Outputs of a model in ONNX Runtime by name."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    wanted = {value.name for value in session.get_inputs()}
    found = session.run(names, {name: feeds[name] for name in wanted})
    return dict(zip(names, found))


def run_net(text: str, tmp_path, feeds, blobs=None, **options) -> dict[str, np.ndarray]:
    """Outputs by blob of a net given as text."""
    made = build(*net_and_weights(text, tmp_path, blobs), **options)
    made.model.check()
    found = run(model_bytes(made), feeds)
    return {blob: found[tensor] for blob, tensor in made.outputs.items()}


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest expected value."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))
