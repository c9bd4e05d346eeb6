"""The head of SSD: prior boxes, and the detections that non-maximum suppression leaves.

A detection is a row (index in the batch, label, score, x1, y1, x2, y2); coordinates go from 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import LayerType, count, four_axes, refuse, register, show

LOWEST = float(np.finfo(np.float32).min)


@register
class PriorBox(LayerType):
    """Boxes around the centre of each cell of bottom 0, for an image of bottom 1's size.

    The top, 1 x 2 x 4 boxes, has their corners and, behind them, the variances; it depends on
    nothing but sizes, so it is a constant.
    """

    types = ("PriorBox",)
    origin = "SSD"
    takes = (2, 2)

    def tops(self, layer, bottoms):
        for bottom in bottoms:
            four_axes(layer, bottom)
        params = layer.params("prior_box_param")
        if not params["min_size"] or min(params["min_size"]) <= 0:
            raise refuse(layer, "prior_box_param needs a min_size above 0")
        if params["max_size"] and len(params["max_size"]) != len(params["min_size"]):
            raise refuse(layer, "expected no max_size, or one for each min_size")
        if len(params["variance"]) not in (0, 1, 4):
            raise refuse(layer, "expected no variance, one, or four")
        cells = bottoms[0][2] * bottoms[0][3]
        return [(1, 2, 4 * cells * len(self._extents(params)))]

    def _extents(self, params) -> np.ndarray:
        """(width, height) in pixels of the boxes of one cell, in Caffe's order."""
        ratios = []
        for ratio in params["aspect_ratio"]:
            for value in (ratio, 1 / ratio) if params["flip"] else (ratio,):
                if all(abs(value - known) >= 1e-6 for known in (1.0, *ratios)):
                    ratios.append(value)
        extents = []
        for index, size in enumerate(params["min_size"]):
            extents.append((size, size))
            if params["max_size"]:
                extents.append((np.sqrt(size * params["max_size"][index]),) * 2)
            extents += [(size * np.sqrt(ratio), size / np.sqrt(ratio)) for ratio in ratios]
        return np.array(extents)

    def _image(self, params, image) -> tuple[tuple[int, int], tuple[float, float] | None]:
        """(width, height) of the image, and the step between centres if it is given."""
        size, step = params["img_size"], params["step"]
        width, height = params["img_w"] or size, params["img_h"] or size
        across, down = params["step_w"] or step, params["step_h"] or step
        known = (width, height) if width and height else (image[3], image[2])
        return known, (across, down) if across and down else None

    def boxes(self, layer, bottoms) -> np.ndarray:
        """The top: 1 x 2 x 4 boxes."""
        params = layer.params("prior_box_param")
        rows, columns = bottoms[0][2:]
        image, step = self._image(params, bottoms[1])
        step = step or (image[0] / columns, image[1] / rows)
        centres = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1)
        centres = (centres + params["offset"]) * step
        half = self._extents(params) / 2
        centres = centres[:, :, None, :]
        corners = np.concatenate([centres - half, centres + half], axis=-1) / (image * 2)
        if params["clip"]:
            corners = corners.clip(0, 1)
        variance = np.resize(params["variance"] or (0.1,), 4)
        spread = np.broadcast_to(variance, corners.shape)
        return np.stack([corners.ravel(), spread.ravel()])[None].astype(np.float32)

    def onnx(self, layer, g):
        g.output(0, g.const(self.boxes(layer, g.bottom_shapes), "boxes"))


@dataclass(frozen=True)
class _Task:
    """What a DetectionOutput layer asks for, with Caffe's defaults; ``kept`` lists the labels."""

    labels: tuple[int, ...]
    classes: int
    priors: int
    shared: bool
    code: str
    encoded: bool
    overlap: float
    candidates: int
    detections: int
    confidence: float


@register
class DetectionOutput(LayerType):
    """Decodes boxes (bottom 0) against priors (2) and keeps the best by scores (1) of each class.

    The top is 1 x 1 x detections x 7, whose number the data decide; Caffe sets it up with one.
    Detections come by item and score, as OpenCV's importer orders them (Caffe: by label and score).
    """

    types = ("DetectionOutput",)
    not_exported = "eta below 1 is refused"
    origin = "SSD"
    takes = (3, 3)

    def tops(self, layer, bottoms):
        task = self._task(layer, bottoms)
        places = 1 if task.shared else task.classes
        expected = (4 * task.priors * places, task.priors * task.classes)
        for bottom, size, what in zip(bottoms, expected, ("locations", "scores")):
            if count(bottom, 1) != size:
                raise refuse(layer, f"expected {size} {what} for each item, met {show(bottom)}")
        return [(1, 1, 1, 7)]

    def _task(self, layer, bottoms) -> _Task:
        params = layer.params("detection_output_param")
        classes, background = params["num_classes"], params["background_label_id"]
        nms = params["nms_param"]
        if classes < 1 or len(bottoms[2]) < 3 or bottoms[2][2] % 4:
            raise refuse(layer, f"needs num_classes and prior boxes, met {show(bottoms[2])}")
        return _Task(
            labels=tuple(label for label in range(classes) if label != background),
            classes=classes,
            priors=bottoms[2][2] // 4,
            shared=params["share_location"],
            code=params["code_type"],
            encoded=params["variance_encoded_in_target"],
            overlap=nms["nms_threshold"],
            candidates=nms["top_k"] if nms.has("top_k") else -1,
            detections=params["keep_top_k"],
            confidence=params["confidence_threshold"] if params.has("confidence_threshold")
            else LOWEST,
        )  # fmt: skip

    def onnx(self, layer, g):
        task = self._task(layer, g.bottom_shapes)
        if layer.params("detection_output_param")["nms_param"]["eta"] != 1:
            g.unsupported("an eta below 1 changes the threshold while boxes are suppressed")
        boxes, (scores, nothing) = _boxes(g, task), _scores(g, task)
        whole = _untwisted(g, task, boxes)
        terms = [task.overlap, task.confidence]
        limits = [g.const(np.array([value], np.float32), "threshold") for value in terms]
        most = g.ints([task.priors], "most")
        if task.shared:
            chosen = g.node("NonMaxSuppression", [whole, scores, most, *limits])
        else:
            chosen = _suppress_each_class(g, task, whole, scores, [most, *limits])
        g.output(0, _rows(g, task, chosen, boxes, scores, nothing), (1, 1, None, 7))


def _boxes(g, task: _Task) -> str:
    """Decoded corners: N x priors x 4, or N x labels x priors x 4 where each class has its own."""
    batch = g.bottom_dims[0][0]
    if task.shared:
        target = g.reshape(g.input(0), (batch, task.priors, 4))
        dims = (1, task.priors, 4)
    else:
        target = g.reshape(g.input(0), (batch, task.priors, task.classes, 4))
        target = g.node("Transpose", [target], {"perm": (0, 2, 1, 3)})
        target = g.node("Gather", [target, g.ints(task.labels, "labels")], {"axis": 1})
        dims = (1, 1, task.priors, 4)
    pair = g.node("Reshape", [g.input(2), g.ints((2, *dims[1:]), "pair")])
    priors, variances = (_slice(g, pair, start, start + 1, 0) for start in (0, 1))
    if not task.encoded:
        target = g.node("Mul", [target, variances])
    if task.code == "CORNER":
        return g.node("Add", [priors, target])
    low, high = _halves(g, priors)
    size = g.node("Sub", [high, low])
    if task.code == "CORNER_SIZE":
        twice = g.node("Concat", [size, size], {"axis": -1})
        return g.node("Add", [priors, g.node("Mul", [target, twice])])
    middle = g.node("Mul", [g.node("Add", [low, high]), g.const(0.5, "half")])
    shift, growth = _halves(g, target)
    centre = g.node("Add", [g.node("Mul", [shift, size]), middle])
    extent = g.node("Mul", [g.node("Exp", [growth]), g.node("Mul", [size, g.const(0.5, "half")])])
    corners = [g.node(op, [centre, extent]) for op in ("Sub", "Add")]
    return g.node("Concat", corners, {"axis": -1})


def _untwisted(g, task: _Task, boxes: str) -> str:
    """Boxes whose second corner is not before the first, as those of centre and size are not.

    Caffe lets a box with swapped corners overlap nothing, ONNX would swap them back.
    """
    if task.code == "CENTER_SIZE":
        return boxes
    low, high = _halves(g, boxes)
    return g.node("Concat", [low, g.node("Max", [low, high])], {"axis": -1})


def _slice(g, tensor: str, start: int, end: int, axis: int) -> str:
    """Elements start..end (excluded) of an axis."""
    return g.node("Slice", [tensor, *(g.ints([value], "cut") for value in (start, end, axis))])


def _halves(g, tensor: str) -> tuple[str, str]:
    """The first and the last two of the four numbers of each box."""
    return _slice(g, tensor, 0, 2, -1), _slice(g, tensor, 2, 4, -1)


def _scores(g, task: _Task) -> tuple[str, str]:
    """(Scores, the lowest number everywhere), both N x labels x priors.

    All but the best ``candidates`` scores of each label are the lowest number too.
    """
    batch = g.bottom_dims[0][0]
    scores = g.reshape(g.input(1), (batch, task.priors, task.classes))
    scores = g.node("Transpose", [scores], {"perm": (0, 2, 1)})
    if len(task.labels) < task.classes:
        scores = g.node("Gather", [scores, g.ints(task.labels, "labels")], {"axis": 1})
    nothing = g.full(scores, (batch, len(task.labels), task.priors), LOWEST)
    if not 0 < task.candidates < task.priors:
        return scores, nothing
    limit = g.ints([task.candidates], "candidates")
    best = g.node("TopK", [scores, limit], {"axis": 2}, n_outputs=2)
    kept = g.node("ScatterElements", [nothing, best[1], best[0]], {"axis": 2})
    return kept, nothing


def _suppress_each_class(g, task: _Task, boxes: str, scores: str, limits: list[str]) -> str:
    """Like NonMaxSuppression, where each class has boxes of its own: (item, label, prior) rows."""
    labels = len(task.labels)
    boxes = g.node("Reshape", [boxes, g.ints([-1, task.priors, 4], "alone")])
    scores = g.node("Reshape", [scores, g.ints([-1, 1, task.priors], "alone")])
    chosen = g.node("NonMaxSuppression", [boxes, scores, *limits])
    both, prior = _slice(g, chosen, 0, 1, 1), _slice(g, chosen, 2, 3, 1)
    many = g.ints([labels], "many")
    pair = [g.node("Div", [both, many]), g.node("Mod", [both, many]), prior]
    return g.node("Concat", pair, {"axis": 1})


def _rows(g, task: _Task, chosen: str, boxes: str, scores: str, nothing: str) -> str:
    """The top: the best of the ``chosen`` (item, label, prior), by score within each item."""
    labels = len(task.labels)
    left = g.node("ScatterND", [nothing, chosen, g.node("GatherND", [scores, chosen])])
    left = g.node("Reshape", [left, g.ints([-1, labels * task.priors], "flat")])
    found = labels * (task.candidates if 0 < task.candidates < task.priors else task.priors)
    most = min(found, task.detections) if task.detections >= 0 else found
    values, places = g.node("TopK", [left, g.ints([most], "detections")], {"axis": 1}, n_outputs=2)
    kept = g.node("NonZero", [g.node("Greater", [values, g.const(LOWEST, "lowest")])])
    kept = g.node("Transpose", [kept], {"perm": (1, 0)})
    item, place = _slice(g, kept, 0, 1, 1), g.node("GatherND", [places, kept])
    place = g.node("Reshape", [place, g.ints([-1, 1], "column")])
    many = g.ints([task.priors], "priors")
    label, prior = g.node("Div", [place, many]), g.node("Mod", [place, many])
    where = [item, prior] if task.shared else [item, label, prior]
    names = g.const(np.array(task.labels, np.float32), "labels")
    row = [
        g.as_float(item),
        g.node("Gather", [names, label]),
        g.node("Reshape", [g.node("GatherND", [values, kept]), g.ints([-1, 1], "column")]),
        g.node("GatherND", [boxes, g.node("Concat", where, {"axis": 1})]),
    ]
    rows = g.node("Concat", row, {"axis": 1})
    return g.node("Reshape", [rows, g.ints([1, 1, -1, 7], "detections")])
