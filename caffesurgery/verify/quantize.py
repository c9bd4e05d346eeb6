"""Eight-bit models: a float32 ONNX file and images in, an ONNX file with QDQ pairs out.

Static quantisation by ONNX Runtime's own tool: weights int8 with a scale for each channel,
activations int8 with ranges from calibration images (smallest and largest value met).  Softmax, the
preprocessing, and what has no 8-bit form (LRN) stay in float32.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator

from ..errors import VerifyError
from ..export.pipeline import PREFIX
from ..export.reading import read_graph
from .frames import Feed

OLDEST_OPSET = 13
"""Since opset 13 DequantizeLinear takes a scale for each channel."""

_KEPT = ("Softmax", "LogSoftmax", "LRN", "Resize", "NonMaxSuppression")

Progress = Callable[[float], None]


def quantize(
    source: str | os.PathLike,
    target: str | os.PathLike,
    feed: Feed,
    progress: Progress | None = None,
) -> None:
    """Write the 8-bit form of the float32 model ``source`` to ``target``.

    ``feed`` gives the calibration images; a few dozen that look like those of the app are enough.
    Raises VerifyError where ONNX Runtime's tool refuses the model.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    kept = [
        node.name
        for node in read_graph(source)
        if node.name.startswith(f"{PREFIX}/") or node.op in _KEPT
    ]
    try:
        with _quiet():
            quantize_static(
                os.fspath(source),
                os.fspath(target),
                _reader(feed, progress),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=kept,
            )
    except VerifyError:
        raise
    except Exception as error:  # the tool's errors share no base but Exception
        raise VerifyError(
            f"{source}: onnxruntime.quantization cannot make an 8-bit model of it: {error}"
        ) from error


def _reader(feed: Feed, progress: Progress | None):
    """The calibration images as onnxruntime.quantization reads them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """One batch after the other, then None."""

        def __init__(self):
            self._batches = _reported(feed, progress)

        def get_next(self):
            return next(self._batches, None)

    return Reader()


def _reported(feed: Feed, progress: Progress | None) -> Iterator[dict]:
    for start, count, feeds in feed.batches():
        yield feeds
        if progress:
            progress((start + count) / len(feed))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No advice of the tool's on stderr: what it asks for, the exporter has done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        logging.disable(before)
