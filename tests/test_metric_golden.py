"""Decompositions under a metric on real Caffe's own layers: grouped, strided, dilated, padded, FC.

What is compared with is what Caffe put out, and what computes the chains is the executor.
"""

from dataclasses import replace

import numpy as np
import pytest
from conftest import shared, shared_root

from caffesurgery import forward
from caffesurgery.calibration import Shaped, collect, sample_of
from caffesurgery.decompose import SCHEMES
from caffesurgery.decompose.metric import Metric
from caffesurgery.decompose.task import Task
from caffesurgery.files import caffemodel
from caffesurgery.net.net import parse_net, read_net
from caffesurgery.net.shapes import infer
from caffesurgery.surgery.apply import outline
from caffesurgery.surgery.methods import fit
from caffesurgery.surgery.plan import LayerPlan, Plan
from caffesurgery.surgery.target import target

GOLDEN = sorted(
    path.name
    for kind in ("conv", "inner_product")
    for path in shared_root().glob(f"golden/{kind}_[0-9][0-9]")
)


class Case:
    """One layer of Caffe's, with what it put out and what is known of its inputs."""

    def __init__(self, name):
        folder = shared("golden", name)
        self.net = read_net(folder / "net.prototxt")
        self.shapes = infer(self.net, "TEST")
        self.weights = caffemodel.read(folder / "net.caffemodel")
        arrays = np.load(folder / "io.npz")
        self.inputs = {key[3:]: arrays[key] for key in arrays if key.startswith("in:")}
        (self.wanted,) = (arrays[key] for key in arrays if key.startswith("out:"))
        self.entry = self.shapes.layers[-1]
        self.blobs = [blob.array() for blob in self.weights.blobs(self.entry.layer.name)]
        self.target = target(self.entry)

    def moments(self):
        """Collected as for any net; nothing is said to be uncertain, so that least is shrunk."""
        shaped = Shaped(lambda images: infer(self.net, "TEST", None, images))
        sample = sample_of(self.inputs, self.shapes.images)
        blobs = forward.load(self.shapes, self.weights)
        found = collect(shaped, blobs, sample)[self.entry.layer.name]
        return replace(found, images=10**12)

    def run(self, scheme, geometry, ranks, moments):
        """The decomposition, and what the chain of small layers puts out."""
        name = self.entry.layer.name
        kernel = self.target.kernel(self.blobs[0], geometry)
        metric = None if moments is None else Metric(moments, centred=len(self.blobs) > 1)
        found = Task(name, scheme.name, kernel, geometry.group, ranks, metric=metric).run()
        plan = Plan((LayerPlan(name, scheme.name, ranks),))
        text = outline(self.net, self.shapes, plan)
        shapes = infer(parse_net(text, "a chain"), "TEST")
        layers = [k for k, entry in enumerate(shapes.layers) if entry.params]
        blobs = {
            k: [factor.reshape(shapes.layers[k].params[0])]
            for k, factor in zip(layers, found.factors)
        }
        if len(self.blobs) > 1:
            shift = 0 if found.shift is None else found.shift
            blobs[layers[-1]].append(self.blobs[1].reshape(-1) + shift)
        (made,) = forward.Runner(shapes, blobs).run(self.inputs).values()
        return found, made.astype(np.float64) - self.wanted

    def size(self, centred):
        """The norm of Caffe's outputs, around their means over images and pixels if asked for."""
        axes = (0, *range(2, self.wanted.ndim))
        mean = self.wanted.mean(axis=axes, keepdims=True, dtype=np.float64) if centred else 0
        return float(np.linalg.norm(self.wanted - mean))


@pytest.mark.parametrize("name", GOLDEN)
def test_full_ranks_give_caffes_outputs_and_fewer_lose_no_more_than_plain(name):
    case = Case(name)
    if isinstance(case.target, str):
        pytest.skip(case.target)
    moments, centred, tried = case.moments(), len(case.blobs) > 1, 0
    for scheme in SCHEMES.values():
        geometry = fit(scheme, case.target.flat, case.target.spatial)
        if isinstance(geometry, str) or scheme.name.endswith(("-random", "-als", "-tpm")):
            continue
        _, change = case.run(scheme, geometry, scheme.max_ranks(geometry), moments)
        assert np.linalg.norm(change) <= 2e-5 * np.linalg.norm(case.wanted), scheme.name
        ranks = scheme.growing(geometry, 1, 3)
        if ranks == scheme.max_ranks(geometry):
            continue
        _, plain = case.run(scheme, geometry, ranks, None)
        found, change = case.run(scheme, geometry, ranks, moments)
        lost, before = np.linalg.norm(change), np.linalg.norm(plain)
        assert lost <= before * (1 + 1e-5) + 1e-5 * case.size(False), scheme.name
        assert lost == pytest.approx(
            found.output_error * case.size(centred), rel=1e-3, abs=1e-3 * case.size(False)
        )
        tried += 1
    assert tried or case.target.flat.T // case.target.flat.group <= 2
