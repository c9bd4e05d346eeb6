"""Decompositions: a dense kernel in, the kernels of a chain of small layers and the error out.

Pure functions on arrays that know nothing of nets or files.  `SCHEMES` is the table of all
schemes by name; a module of this package that registers one is found by itself, so that adding a
decomposition is adding a file.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from .compose import compose
from .geometry import Geometry, Part
from .outcome import Aim, Decomposition
from .scheme import SCHEMES, Scheme, scheme

__all__ = ["SCHEMES", "Aim", "Decomposition", "Geometry", "Part", "Scheme", "compose", "scheme"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
