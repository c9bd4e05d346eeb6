"""The nodes of a preprocessing: a camera's frame (uint8, N x H x W x channels) to a net's input.

Everything is done as NumPy and Caffe's DataTransformer would do it by hand: channels picked, the
frame resized (bilinear, as OpenCV's INTER_LINEAR), the centre cut out, the mean subtracted, the
rest multiplied, in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .graph import Node
from .names import unique

PREFIX = "preprocess"
"""Nodes and tensors of the preprocessing are called ``preprocess/...``."""

_FLOAT = 1
_LAST_AXIS = 3
_BEFORE_FIRST = -(2**31)
"""The end of a Slice that runs backwards through element 0."""
_HEIGHT_NHWC, _HEIGHT_NCHW = 1, 2
_RESIZE_AXES_OPSET = 18
_LUMA = np.array([[0.299], [0.587], [0.114]], np.float32)
"""Weights of R, G and B in a grey pixel, as OpenCV (and so Caffe) has them."""


@dataclass
class Pipeline:
    """A chain of nodes that starts at ``tensor``; each method appends one step.

    ``height_axis`` is 1 while the tensor is N x H x W x C and 2 once it is N x C x H x W; ``size``
    is (height, width), or None while it is open.
    """

    opset: int
    tensor: str
    size: tuple[int, int] | None
    channels: int
    taken: set[str]
    height_axis: int = _HEIGHT_NHWC
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def pick(self, order: Sequence[int]) -> None:
        """Channels in a row, forwards or backwards; nothing where they stand like this.

        A Slice, since not every accelerator knows Gather.
        """
        if list(order) == list(range(self.channels)):
            return
        step = 1 if order[0] < order[-1] else -1
        end = order[-1] + step if order[-1] + step >= 0 else _BEFORE_FIRST
        bounds = (([order[0]], "pick_from"), ([end], "pick_to"), ([_LAST_AXIS], "pick_axis"))
        constants = [self._const(values, hint) for values, hint in bounds]
        self._step("Slice", [*constants, self._const([step], "pick_step")])
        self.channels = len(order)

    def to_grey(self, order: Sequence[int]) -> None:
        """One channel of luma; ``order`` says where red, green and blue stand."""
        weights = np.zeros((self.channels, 1), np.float32)
        weights[list(order)] = _LUMA
        self.to_float()
        self._step("MatMul", [self._const(weights, "luma")])
        self.channels = 1

    def to_float(self) -> None:
        """uint8 to float32."""
        self._step("Cast", [], to=_FLOAT)

    def to_channels_first(self) -> None:
        """N x H x W x C to N x C x H x W."""
        self._step("Transpose", [], perm=[0, 3, 1, 2])
        self.height_axis = _HEIGHT_NCHW

    def resize(self, size: tuple[int, int]) -> None:
        """Height and width become ``size``, whatever they were."""
        if self.size == size:
            return
        if self.opset >= _RESIZE_AXES_OPSET:
            self._resize(self._const(size, "resized"), axes=[2, 3])
        else:
            self._resize(self._node("Concat", [self._lead(), self._const(size, "resized")], axis=0))
        self.size = size

    def resize_short(self, short: int) -> None:
        """The shorter side becomes ``short``, the other keeps the ratio, rounded to the nearest."""
        if self.size is not None:
            least = min(self.size)
            height, width = ((2 * side * short + least) // (2 * least) for side in self.size)
            self.resize((height, width))
            return
        sides = self._sides()
        least = self._node("ReduceMin", [sides, *self._reduced()], **self._reduced_attrs())
        doubled = self._node("Mul", [sides, self._const([2 * short], "short")])
        total = self._node("Add", [doubled, least])
        twice = self._node("Mul", [least, self._const([2], "two")])
        self._resize(
            self._node("Concat", [self._lead(), self._node("Div", [total, twice])], axis=0)
        )

    def cut(self, size: tuple[int, int]) -> None:
        """The centre, of this size; in Caffe the offset is half of what is left over, floored."""
        if self.size == size:
            return
        axes = self._const([self.height_axis, self.height_axis + 1], "cut_axes")
        if self.size is not None:
            starts = [(have - want) // 2 for have, want in zip(self.size, size)]
            ends = [start + want for start, want in zip(starts, size)]
            self._step("Slice", [self._const(starts, "starts"), self._const(ends, "ends"), axes])
        else:
            wanted = self._const(size, "cut")
            spare = self._node("Sub", [self._sides(), wanted])
            starts = self._node("Div", [spare, self._const([2], "two")])
            self._step("Slice", [starts, self._node("Add", [starts, wanted]), axes])
            shape = [*size, self.channels]
            if self.height_axis == _HEIGHT_NCHW:
                shape = [self.channels, *size]
            # says the size to whoever reads the graph, and refuses frames that are too small
            self._step("Reshape", [self._const([0, *shape], "shape")])
        self.size = size

    def subtract(self, mean: np.ndarray) -> None:
        """Minus the mean, C x 1 x 1 or C x H x W."""
        self._step("Sub", [self._const(np.asarray(mean, np.float32), "mean")])

    def multiply(self, scale: float) -> None:
        """Times ``scale``."""
        self._step("Mul", [self._const(np.float32(scale), "scale")])

    def finish(self, blob: str) -> None:
        """The last tensor is called ``blob``."""
        last = self.nodes[-1]
        self.nodes[-1] = Node(last.op, last.name, last.inputs, (blob,), last.attrs)
        self.tensor = blob

    def _resize(self, sizes: str, **attrs) -> None:
        self._step(
            "Resize", ["", "", sizes],
            mode="linear", coordinate_transformation_mode="half_pixel", **attrs,
        )  # fmt: skip

    def _lead(self) -> str:
        """Batch and channels of the tensor, N x C x H x W by now."""
        shape = self._node("Shape", [self.tensor])
        return self._node("Slice", [shape, self._const([0], "first"), self._const([2], "two")])

    def _sides(self) -> str:
        """Height and width of the tensor."""
        axis = self.height_axis
        ends = self._const([axis], "from"), self._const([axis + 2], "to")
        return self._node("Slice", [self._node("Shape", [self.tensor]), *ends])

    def _reduced(self) -> list[str]:
        return [self._const([0], "first")] if self.opset >= _RESIZE_AXES_OPSET else []

    def _reduced_attrs(self) -> dict:
        return {"keepdims": 1, **({} if self._reduced() else {"axes": [0]})}

    def _step(self, op: str, further: Sequence[str], **attrs) -> None:
        self.tensor = self._node(op, [self.tensor, *further], **attrs)

    def _node(self, op: str, inputs: Sequence[str], **attrs) -> str:
        name = unique(f"{PREFIX}/{op}", self.taken)
        self.nodes.append(Node(op, name, tuple(inputs), (name,), attrs))
        return name

    def _const(self, values, hint: str) -> str:
        """A constant; whole numbers in a list are int64."""
        array = values if isinstance(values, np.generic) else np.asarray(values)
        array = np.asarray(array) if array.dtype.kind == "f" else np.asarray(array, np.int64)
        for name, known in self.constants.items():
            if known.dtype == array.dtype and np.array_equal(known, array):
                return name
        name = unique(f"{PREFIX}/{hint}", self.taken)
        self.constants[name] = array
        return name
