"""Time: what a net's layers do, and how long a machine takes for it."""

from .lower import RUNTIMES, works_of, works_of_parts
from .predict import LayerTime, dense_part, predict, predicted_ms
from .profile import DEFAULT, Curve, Linear, Profile, load_profile, parse_profile, shipped
from .work import KINDS, Work, work

__all__ = [
    "DEFAULT",
    "KINDS",
    "RUNTIMES",
    "Curve",
    "LayerTime",
    "Linear",
    "Profile",
    "Work",
    "dense_part",
    "load_profile",
    "parse_profile",
    "predict",
    "predicted_ms",
    "shipped",
    "work",
    "works_of",
    "works_of_parts",
]
