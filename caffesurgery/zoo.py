"""The model zoo's architectures, and weights for them that are seeded, not trained.

The prototxts lie in ``models/``; the weights are made here: random, scaled so that activations keep
their size through the net, and with spectra that fall off like those of trained layers, so that
decompositions and their costs behave as they do on real files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np

from .errors import UsageError, suggest
from .files import caffemodel
from .files.atomic import staged_folder
from .files.caffemodel import NewLayer
from .files.resources import resource
from .net.net import read_net
from .net.shapes import LayerShapes, NetShapes, infer

COMPONENTS = 192
"""Components of the structured part of a kernel, which fall off; the rest is noise."""
NOISE = 0.35
"""Norm of the noise over that of the structured part."""
DECAY = 0.6
"""The k-th component has the weight k**-DECAY."""


def names() -> list[str]:
    """The architectures that there are."""
    return sorted(path.parent.name for path in resource("models").glob("*/deploy.prototxt"))


def catalogue() -> dict:
    """All architectures with input shape, parameters and multiply-adds for one image."""
    rows = []
    for name in names():
        shapes = _deploy(name)
        rows.append(
            {
                "name": name,
                "net": shapes.net.name,
                "input": list(shapes.layers[0].tops[0]),
                "layers": len(shapes.layers),
                "params": shapes.parameters,
                "macs": shapes.macs // shapes.layers[0].tops[0][0],
            }
        )
    return {"nets": rows, "totals": {"nets": len(rows)}}


def write(
    name: str,
    folder,
    seed: int = 0,
    force: bool = False,
    progress: Callable[[str, str, float], None] | None = None,
) -> list[Path]:
    """Write the prototxts of ``name`` and ``name.caffemodel`` to ``folder``; returns their paths.

    The weights are the same for the same seed.  All files are written, or none.
    """
    if name not in names():
        raise UsageError(f"the zoo has no '{name}'; {suggest(name, names())}")
    shapes = _with_heads(name)
    target = f"{name}.caffemodel"
    prototxts = sorted(resource("models", name).glob("*.prototxt"))
    files = [path.name for path in prototxts] + [target]
    size = 4 * shapes.parameters
    with staged_folder(folder, files, force) as stage:
        for path in prototxts:
            shutil.copyfile(path, stage / path.name)
        caffemodel.write(
            stage / target,
            shapes.net.name,
            _layers(shapes, seed),
            progress=(lambda done: progress("write", target, min(done / size, 1.0)))
            if progress
            else None,
        )
    return [Path(folder) / name for name in files]


def _deploy(name: str) -> NetShapes:
    return infer(read_net(resource("models", name, "deploy.prototxt")), "TEST")


def _with_heads(name: str) -> NetShapes:
    """The net in training, which has every layer with weights that any of its prototxts has."""
    shape = _deploy(name).layers[0].tops[0]
    net = read_net(resource("models", name, "train_val.prototxt"))
    return infer(net, "TRAIN", {"data": shape[1:]})


def _layers(shapes: NetShapes, seed: int) -> Iterator[NewLayer]:
    """The layers with parameters, each made when it is its turn to be written."""
    for entry in shapes.layers:
        layer = entry.layer
        if entry.params:
            blobs = partial(layer_weights, entry, seed)
            yield NewLayer(layer.name, layer.type, layer.bottoms, layer.tops, blobs)


def layer_weights(entry: LayerShapes, seed: int) -> list[np.ndarray]:
    """Blobs (float32) for one layer; they depend on the layer's name and the seed alone."""
    name = entry.layer.name.encode("utf-8", "surrogateescape")
    rng = np.random.default_rng([seed, crc32(name)])
    kind, params = entry.layer.type, entry.params
    if kind == "BatchNorm":
        mean = 0.1 * rng.standard_normal(params[0], np.float32)
        variance = rng.uniform(0.5, 1.5, params[1]).astype(np.float32)
        return [mean, variance, np.ones(params[2], np.float32)]
    if kind == "Scale":
        gamma = rng.uniform(0.5, 1.0, params[0]).astype(np.float32)
        return [gamma, *(0.1 * rng.standard_normal(shape, np.float32) for shape in params[1:])]
    kernel = _kernel(params[0], rng)
    return [kernel, *(0.05 * rng.standard_normal(shape, np.float32) for shape in params[1:])]


def _kernel(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A kernel (T, S, D, E) or matrix (T, S): a sum of rank-1 tensors that fall off, and noise.

    Its norm is that of He's initialisation: variance 2 / fan_in.
    """
    outputs, fan_in = shape[0], int(np.prod(shape[1:]))
    count = min(COMPONENTS, outputs, fan_in)
    weights = np.arange(1, count + 1, dtype=np.float32) ** -DECAY
    left = rng.standard_normal((outputs, count), np.float32) * weights
    right = rng.standard_normal((count, shape[1]), np.float32)
    if len(shape) > 2:
        spatial = rng.standard_normal((count, 1, fan_in // shape[1]), np.float32)
        right = (right[:, :, None] * spatial).reshape(count, fan_in)
    structure = left @ right
    kernel = rng.standard_normal((outputs, fan_in), np.float32)
    kernel *= NOISE * np.linalg.norm(weights)
    kernel += structure
    kernel *= np.sqrt(2 / fan_in * kernel.size) / np.linalg.norm(kernel)
    return kernel.reshape(shape)
