"""The three dialects of a layer in a caffemodel, and what each calls a layer type.

V2 is ``layer`` with the type as a string, V1 is ``layers`` with an enum, V0 is a message of its own
inside a V1 layer, with lower-case type names.  Types are known by their V2 name everywhere else;
the correspondence is that of Caffe's UpgradeV1LayerType and UpgradeV0LayerType.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from .schema import load_schema


@dataclass(frozen=True)
class Dialect:
    """Numbers of the fields of one dialect's layer message."""

    name: int
    type: int
    bottom: int
    top: int
    blobs: int


DIALECTS = {
    "V2": Dialect(name=1, type=2, bottom=3, top=4, blobs=7),
    "V1": Dialect(name=4, type=5, bottom=2, top=3, blobs=6),
    "V0": Dialect(name=1, type=2, bottom=2, top=3, blobs=50),  # bottom, top: in the V1 around it
}
V0_IN_V1 = 1  # V1LayerParameter.layer
LAYER, LAYERS = 100, 2  # NetParameter.layer holds V2, NetParameter.layers the older ones

V1_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "ELTWISE": "Eltwise",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
    "THRESHOLD": "Threshold",
    "WINDOW_DATA": "WindowData",
}

V0_TYPES = {
    "accuracy": "Accuracy",
    "bnll": "BNLL",
    "concat": "Concat",
    "conv": "Convolution",
    "data": "Data",
    "dropout": "Dropout",
    "euclidean_loss": "EuclideanLoss",
    "flatten": "Flatten",
    "hdf5_data": "HDF5Data",
    "hdf5_output": "HDF5Output",
    "im2col": "Im2col",
    "images": "ImageData",
    "infogain_loss": "InfogainLoss",
    "innerproduct": "InnerProduct",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MultinomialLogisticLoss",
    "pool": "Pooling",
    "relu": "ReLU",
    "sigmoid": "Sigmoid",
    "softmax": "Softmax",
    "softmax_loss": "SoftmaxWithLoss",
    "split": "Split",
    "tanh": "TanH",
    "window_data": "WindowData",
}


@functools.cache
def v1_type_names() -> dict[int, str]:
    """Number of a V1 layer type -> its V2 name."""
    numbers = load_schema().enums["V1LayerParameter.LayerType"]
    return {number: V1_TYPES[name] for name, number in numbers.items()}


@functools.cache
def type_codes(dialect: str) -> dict[str, int | str]:
    """V2 name of a layer type -> its V1 number or V0 name, for the types that the dialect has."""
    old = v1_type_names() if dialect == "V1" else V0_TYPES
    return {name: code for code, name in old.items()}


def type_word(name: str, dialect: str) -> str:
    """What the text of a V1 or V0 prototxt calls a layer type that has the V2 name ``name``."""
    words = V1_TYPES if dialect == "V1" else V0_TYPES
    return next(word for word, known in words.items() if known == name)
