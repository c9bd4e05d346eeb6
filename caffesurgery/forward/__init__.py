"""A net computed as Caffe does it on a CPU: im2col, BLAS and NumPy, layer by layer, nothing else.

    blobs = forward.load(shapes, weights)          # or forward.seeded(shapes)
    runner = forward.Runner(shapes, blobs)
    prob = runner.run({"data": images})["prob"]

Takes the shapes of a net (``net.shapes.infer``) and its weights, and is the reference that needs
neither ONNX nor Caffe; ``forward.measure`` says how long each layer takes.
"""

from .measure import LayerTime, NetTime, measure
from .runner import Runner
from .weights import load, seeded

__all__ = ["LayerTime", "NetTime", "Runner", "load", "measure", "seeded"]
