"""``energy=0.9``: every layer gets the smallest ranks that keep nine tenths of its squared norm.

The energy is 1 - error^2.  It is read off the singular values of the matrix or unfolding that a
scheme truncates (for Tucker-2 off both, each by itself) and off the components of the tensor power
method (sum of d_r^2 over the squared norm); for joint CP ranks are tried.
"""

from __future__ import annotations

from .options import Option, share
from .rule import SearchRule, register


@register
class Energy(SearchRule):
    name = "energy"
    example = "energy=0.9"
    summary = "the smallest ranks that keep this share of each layer's squared norm"
    value = Option("energy", summary, share, "a share above 0 and at most 1")
    asks = "ranks_for_energy"

    def why(self):
        return f"energy={self.argument:g} of its squared norm"
