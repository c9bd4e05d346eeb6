"""Class labels are looked at before they reach a device, which could not say which one is wrong."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...errors import TrainError
from ...net.layers.base import axis_of
from ...net.net import Layer
from ...net.shapes import NetShapes
from .steps import is_fed

_CLASS_AXIS = {
    "SoftmaxWithLoss": ("softmax_param", "axis"),
    "InfogainLoss": ("infogain_loss_param", "axis"),
    "Accuracy": ("accuracy_param", "axis"),
}
_BY_ITEM = {"MultinomialLogisticLoss", "HingeLoss"}
_PASSES = {"Split", "Flatten", "Reshape"}


class LabelCheck:
    """Refuses batches with labels outside of the classes of the losses that read them."""

    def __init__(self, shapes: NetShapes):
        self._readers: dict[str, list[tuple[Layer, int, int | None]]] = {}
        for index, entry in enumerate(shapes.layers):
            layer = entry.layer
            known = layer.type in _CLASS_AXIS or layer.type in _BY_ITEM
            top = _fed_top(shapes, shapes.graph.sources[index][1]) if known else None
            if top is not None:
                self._readers.setdefault(top, []).append(
                    (layer, *_classes(layer, entry.bottoms[0]))
                )

    def __call__(self, batch: Mapping[str, np.ndarray]) -> None:
        """TrainError naming layer, label and classes where a batch has a label that is none."""
        for top, readers in self._readers.items():
            if top not in batch:
                continue
            labels = np.trunc(batch[top])
            low, high = labels.min(), labels.max()
            for layer, classes, ignored in readers:
                if not (low < 0 or high >= classes):
                    continue
                wrong = labels[((labels < 0) | (labels >= classes)) & (labels != ignored)]
                if wrong.size:
                    raise TrainError(
                        f"{layer.where()}: met the label {wrong[0]:g} in '{top}', but "
                        f"'{layer.bottoms[0]}' has {classes} classes; expected 0 to {classes - 1}: "
                        "correct the labels, num_output, or name it as ignore_label"
                    )


def _classes(layer: Layer, scores) -> tuple[int, int | None]:
    """Number of classes, and the label to ignore."""
    if layer.type in _BY_ITEM:
        return int(np.prod(scores[1:])), None
    message, name = _CLASS_AXIS[layer.type]
    classes = scores[axis_of(layer, scores, layer.params(message)[name])]
    params = layer.params("accuracy_param" if layer.type == "Accuracy" else "loss_param")
    return classes, params["ignore_label"] if params.has("ignore_label") else None


def _fed_top(shapes: NetShapes, port) -> str | None:
    """The data layer's top that a value is, behind layers that only pass it on."""
    layer = shapes.layers[port[0]].layer
    while layer.type in _PASSES:
        port = shapes.graph.sources[port[0]][0]
        layer = shapes.layers[port[0]].layer
    return layer.tops[port[1]] if is_fed(layer) else None
