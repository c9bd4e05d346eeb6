"""OpenCV's Caffe importer as an oracle: what its reader needs spelled out, and what it gets wrong.

Shown against Caffe itself: OpenCV 4 adds the wrong bottom in Axpy, takes no scale, shift or base in
Log, puts the eps of MVN under the root, and rounds the statistics of a batch.
"""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np

_SMALL = 1e-6  # an eps below it makes no difference, wherever it is added


def opencv_text(net) -> str:
    """The net's text as OpenCV understands it: its own names and defaults spelled out."""
    edits = []
    for layer in net.layers:
        text = net.doc.text[layer.field.start : layer.field.end]
        new = text.replace('"DepthwiseConvolution"', '"Convolution"')
        if layer.type == "PriorBox" and not layer.params("prior_box_param").has("clip"):
            new = new.replace("prior_box_param {", "prior_box_param { clip: false", 1)
        if layer.type == "Axpy":  # it computes a * bottom[2] + bottom[1]
            new = axpy_text(new)
        new = re.sub(r'\bengine\s*:\s*"[^"]*"', "", new)  # of Intel's fork
        if layer.type == "LRN" and layer.params("lrn_param")["k"] != 1:
            new = lrn_text(layer, new)
        if new != text:
            edits.append((layer.field, new))
    return net.doc.replace(edits)


def axpy_text(text: str) -> str:
    """An Axpy with its last two bottoms the other way round."""
    _, x, y = re.finditer(r'bottom\s*:\s*("[^"]*"|\'[^\']*\')', text)
    return text[: x.start()] + y[0] + text[x.end() : y.start()] + x[0] + text[y.end() :]


def lrn_text(layer, text: str) -> str:
    """An LRN with k, which OpenCV does not read, as one without it and a factor."""
    params = layer.params("lrn_param")
    k, beta = params["k"], params["beta"]
    text = re.sub(r"\b(k|alpha)\s*:\s*[-+.\deE]+", "", text)
    text = re.sub(r"lrn_param\s*\{", f"lrn_param {{ alpha: {params['alpha'] / k:.9g} ", text)
    top = f'bottom: "{layer.tops[0]}" top: "{layer.tops[0]}"'
    factor = f"power_param {{ scale: {k**-beta:.9g} }}"
    field, kind = ("layer", '"Power"') if layer.dialect == "V2" else ("layers", "POWER")
    return f'{text}\n{field} {{ name: "{layer.name} factor" type: {kind} {top} {factor} }}'


def by_opencv(net, weights, feeds, shapes, blobs, folder: Path) -> dict[str, np.ndarray]:
    """Outputs by blob from OpenCV's importer."""
    path = folder / "opencv.prototxt"
    path.write_bytes(net.doc.encode(opencv_text(net)))
    read = cv2.dnn.readNetFromCaffe(str(path), *([str(weights)] if weights else []))
    writer = {top: entry.layer for entry in shapes.layers for top in entry.layer.tops}
    for name, array in feeds.items():
        read.setInput(array, name)
    layers = [writer[blob] for blob in blobs]
    found = read.forwardAndRetrieve([layer.name for layer in layers])
    return {
        blob: outputs[layer.tops.index(blob)] for blob, layer, outputs in zip(blobs, layers, found)
    }


def is_not_caffe(shapes) -> str:
    """What of a net OpenCV is known to compute otherwise than Caffe, or ""."""
    for entry in shapes.layers:
        norm = entry.layer.params("batch_norm_param")
        if norm.has("use_global_stats") and not norm["use_global_stats"]:
            return "statistics of the batch, which it rounds"
        if any(entry.layer.params("log_param").has(name) for name in ("base", "scale", "shift")):
            return "a Log with parameters, which it does not read"
        if entry.layer.type == "MVN" and entry.layer.params("mvn_param")["eps"] > _SMALL:
            return "the eps of MVN, which it adds to the variance"
    return ""
