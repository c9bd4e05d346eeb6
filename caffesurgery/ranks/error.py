"""``error=0.3``: every layer gets the smallest ranks that lose at most this much of its kernel.

The error is ||W - What|| / ||W|| of the whole kernel, as the report of the operation gives it.
Schemes whose error is known from a spectrum or from one run of the tensor power method read it off;
for joint CP and Tucker-2 ranks are tried, so that planning takes several decompositions.
"""

from __future__ import annotations

from ..errors import UsageError
from .rule import Choice, SearchRule, register


@register
class Error(SearchRule):
    name = "error"
    example = "error=0.3"
    summary = "the smallest ranks whose relative error is at most this"

    def search(self, candidate, limit):
        error = self._error()
        group = candidate.geometry.group
        ranks = candidate.scheme.ranks_for_error(candidate.kernel(), group, error, limit)
        return Choice(ranks, f"error={error:g} of its norm")

    def _error(self) -> float:
        try:
            value = float(self.argument)
        except ValueError:
            value = -1.0
        if not 0.0 <= value < 1.0:
            raise UsageError(
                f"--ranks error={self.argument}: expected a relative error from 0 to below 1, "
                f"for example {self.example}"
            )
        return value
