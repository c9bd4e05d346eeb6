"""One maker for each layer type that can be trained; importing a module registers its types."""

from . import (  # noqa: F401
    activation,
    convolution,
    forks,
    inner,
    joining,
    loss,
    normalisation,
    pooling,
    recurrent,
    reshaping,
)
from .base import Build, Context, Forward, maker_of, trainable

__all__ = ["Build", "Context", "Forward", "maker_of", "trainable"]
