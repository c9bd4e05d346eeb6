"""The layer table: one entry for every layer type of BVLC Caffe 1.0, and common ones of forks.

``lookup(type)`` gives an entry; a new type is one class with ``@register`` in one of the modules
below (or a new module, named here).
"""

from __future__ import annotations

from . import (  # noqa: F401  (importing a module registers its types)
    activation,
    convolution,
    data,
    detection,
    forks,
    inner,
    joining,
    loss,
    normalisation,
    pooling,
    recurrent,
    regions,
    reshaping,
    resizing,
)
from .base import LayerType, MaybeShape, Shape, known_types, lookup, register

__all__ = ["LayerType", "MaybeShape", "Shape", "known_types", "lookup", "register"]
