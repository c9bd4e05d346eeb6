"""ORT format: an ONNX file in, the file that a reduced ONNX Runtime loads, and its operators.

The model is optimised as for ARM's CPUs, once and here, so that the app need not.  The list of
operators is what ONNX Runtime's build takes as ``--include_ops_by_config``.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..errors import VerifyError

_ERRORS_ONLY = 3
_NOT_ON_ARM = ["NchwcTransformer"]
"""Optimisers that lay weights out for the processor that they run on."""


def to_ort(source: str | os.PathLike, target: str | os.PathLike, *, half: bool = False) -> None:
    """Write the ONNX file ``source`` in ORT format; VerifyError where ONNX Runtime refuses it.

    ``half`` says that it is in float16: then its weights stay so, and a processor that cannot
    compute in float16, as the one that writes the file, casts them as it goes.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.optimized_model_filepath = os.fspath(target)
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    if half:  # the last level would store the casts' results, twice the bytes
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    try:
        onnxruntime.InferenceSession(
            os.fspath(source),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=_NOT_ON_ARM,
        )
    except Exception as error:  # ONNX Runtime's errors share no base but Exception
        raise VerifyError(f"{source}: cannot be written in ORT format: {error}") from error


def operators(paths: Sequence[str | os.PathLike]) -> dict[str, list[str]]:
    """``domain;opset`` -> the operators that ORT-format models need, as their build lists them."""
    try:
        from onnxruntime.tools.ort_format_model import create_config_from_models
    except ImportError as error:
        raise VerifyError(
            f"this onnxruntime brings no tools for the ORT format ({error}); install another"
        ) from error
    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="caffesurgery-") as folder:
        listed = Path(folder, "operators.config")
        create_config_from_models([Path(path) for path in paths], listed, False)
        lines = listed.read_text(encoding="utf-8").splitlines()
    found = {}
    for line in lines:
        if line and not line.startswith("#"):
            domain, opset, names = line.split(";")
            found[f"{domain};{opset}"] = names.split(",")
    return found


def config_text(needed: dict[str, list[str]], names: Sequence[str]) -> str:
    """The file for ``--include_ops_by_config``; ``names`` are the models that it is for."""
    lines = [f"# Operators of {', '.join(names)}, for ONNX Runtime's --include_ops_by_config"]
    lines += [f"{key};{','.join(operators)}" for key, operators in sorted(needed.items())]
    return "\n".join(lines) + "\n"
