"""``error=0.3``: every layer gets the smallest ranks that lose at most this much of its kernel.

The error is ||W - What|| / ||W|| of the whole kernel, as the report of the operation gives it.
Schemes whose error is known from a spectrum or from one run of the tensor power method read it off;
for joint CP and Tucker-2 ranks are tried, so that planning takes several decompositions.
"""

from __future__ import annotations

from .options import Option
from .rule import SearchRule, register


def below_one(text: str) -> float:
    """A relative error: 0 or more, and below 1."""
    value = float(text)
    if not 0.0 <= value < 1.0:
        raise ValueError
    return value


@register
class Error(SearchRule):
    name = "error"
    example = "error=0.3"
    summary = "the smallest ranks whose relative error is at most this"
    value = Option("error", summary, below_one, "a relative error from 0 to below 1")
    asks = "ranks_for_error"

    def why(self):
        return f"error={self.argument:g} of its norm"
