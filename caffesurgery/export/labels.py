"""Class labels as metadata of an ONNX model, so that an app needs no file beside it.

A text with one name a line goes in (synset_words.txt, labels.txt); the model's metadata gets them
as ``labels``, and a description of its outputs as ``outputs``.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..errors import ExportError, FileError
from .model import Model


def read_labels(path: str | os.PathLike) -> list[str]:
    """The lines of a label file, without the line ends; empty lines at the end do not count."""
    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except FileNotFoundError:
        raise FileError(f"{path}: no such file; expected one class label a line") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(
            f"{path}: byte {error.start} is no UTF-8; expected a text with one class label a line"
        ) from None
    if "\0" in text:
        raise FileError(f"{path}: a binary file; expected a text with one class label a line")
    return [line.strip() for line in text.rstrip().splitlines()]


def label_names(given) -> tuple[list[str], str]:
    """(Labels, where they came from) of a file's path or a list of names."""
    if isinstance(given, (str, os.PathLike)):
        return read_labels(given), os.fspath(given)
    return [str(name) for name in given], "the labels"


def with_labels(model: Model, labels: Sequence[str], source: str = "the labels") -> Model:
    """``model`` with ``labels`` in its metadata; ExportError unless an output has as many classes.

    The classes of an output are the numbers that it has for each item.
    """
    counts = {value.name: _classes(value.dims) for value in model.outputs}
    if len(labels) not in counts.values():
        met = ", ".join(f"{name} {count or 'an open number'}" for name, count in counts.items())
        raise ExportError(
            f"{source}: {len(labels)} labels, and no output has as many classes ({met}); "
            "give one line for each class"
        )
    return replace(model, metadata={**model.metadata, "labels": "\n".join(labels)})


def describe_outputs(model: Model, types: Mapping[str, str]) -> Model:
    """``model`` with its outputs in its metadata; ``types`` says which layer type makes which."""
    about = {
        value.name: {
            "classes": _classes(value.dims),
            "probabilities": types.get(value.name) in ("Softmax", "Sigmoid"),
        }
        for value in model.outputs
    }
    return replace(model, metadata={**model.metadata, "outputs": json.dumps(about)})


def _classes(dims) -> int | None:
    """Numbers for each item; None where an axis but the first is open."""
    rest = dims[1:]
    return math.prod(rest) if all(isinstance(axis, int) for axis in rest) else None
