"""Runs ONNX models in ONNX Runtime: files, and nets straight from their caffemodel.

A net is written to a temporary folder with its large weights in a file of their own, which ONNX
Runtime maps instead of copying, so that even VGG16 runs in little more memory than its weights.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import VerifyError
from ..export.model import Model
from ..export.onnx import build

ERRORS_ONLY = 3
_KINDS = {"tensor(float16)": "float16", "tensor(uint8)": "uint8", "tensor(int64)": "int64"}
"""ONNX Runtime's names of types that are not float32, as NumPy has them."""
_KEEP_MAPPED = 1 << 27
"""Bytes of weights from which ONNX Runtime shall not make repacked copies for speed."""


class Session:
    """A model in ONNX Runtime.

    ``inputs`` maps names to dims (a str or None for an open axis), ``kinds`` to NumPy types,
    ``metadata`` keys to texts.
    """

    def __init__(
        self,
        path: str | os.PathLike | bytes,
        *,
        repack: bool = True,
        threads: int | None = None,
    ):
        """``path`` may be a model's bytes.

        ``repack=False`` lets weights stay where they are mapped, for some loss of speed.
        ``threads`` compute at a time, by default as many as there are processors.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        # threads that wait in a loop take the cores from the other net's session
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.intra_op_num_threads = threads or 0
        # 8-bit sums as exact as on ARM: those of older x86 processors overflow otherwise
        options.add_session_config_entry("session.x64quantprecision", "1")
        if not repack:
            options.add_session_config_entry("session.disable_prepacking", "1")
        try:
            self._session = onnxruntime.InferenceSession(
                os.fspath(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors share no base but Exception
            name = "the model" if isinstance(path, bytes) else path
            raise VerifyError(f"{name}: ONNX Runtime cannot load the model: {error}") from error
        self.kinds = {
            value.name: _KINDS.get(value.type, "float32") for value in self._session.get_inputs()
        }
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        self.inputs = {value.name: tuple(value.shape) for value in self._session.get_inputs()}
        self.outputs = [value.name for value in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Output name -> array, for one array of the right type per input."""
        try:
            found = self._session.run(self.outputs, dict(feeds))
        except Exception as error:
            raise VerifyError(f"ONNX Runtime failed on the model: {error}") from error
        return dict(zip(self.outputs, found))


class NetSession:
    """A Caffe net in ONNX Runtime; outputs go by the names of its blobs.

    ``inputs`` maps input blobs to the shape of one item, ``batch`` is the only batch that the net
    can take, or None when it takes any.
    """

    def __init__(self, session: Session, made):
        self._session = session
        self._carriers = made.outputs
        self.outputs = list(made.outputs)
        self.inputs = {value.name: tuple(value.dims) for value in made.model.inputs}
        first = next(iter(self.inputs.values()), ())
        self.batch = None if made.dynamic or not first else first[0]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Output blob -> array, for one float32 array per input blob."""
        found = self._session.run(feeds)
        return {blob: found[tensor] for blob, tensor in self._carriers.items()}


@contextlib.contextmanager
def net_session(
    net,
    weights,
    *,
    inputs: Mapping[str, Sequence[int]] | None = None,
    keep_blobs=(),
    threads: int | None = None,
) -> Iterator[NetSession]:
    """``net`` with ``weights`` as a NetSession; ``keep_blobs`` become outputs too."""
    made = build(net, weights, inputs=inputs, keep_blobs=keep_blobs)
    with model_session(made.model, threads=threads, progress=_release(weights)) as session:
        yield NetSession(session, made)


@contextlib.contextmanager
def model_session(model: Model, *, threads: int | None = None, progress=None) -> Iterator[Session]:
    """An exported model, or a part of one, as a Session; it is written to a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="caffesurgery-") as folder:
        path = Path(folder, "net.onnx")
        try:
            with open(path, "wb") as stream, open(Path(folder, "weights"), "wb") as data:
                model.write_apart(stream, data, "weights", progress)
        except OSError as error:
            raise VerifyError(
                f"{folder}: cannot write the net there to run it ({error.strerror}); free some "
                "space, or set TMPDIR to a folder on another disk"
            ) from error
        yield Session(path, repack=model.weight_bytes < _KEEP_MAPPED, threads=threads)


def _release(weights):
    """A progress callback that lets go of the weights' pages as they have been written."""
    if weights is None:
        return None
    return lambda done, total: weights.release(0, weights.size)
