"""``error=0.3``: every layer gets the smallest ranks that lose at most this much of its kernel.

The error is ||W - What|| / ||W|| of the whole kernel, as the report of the operation gives it.
Schemes whose error is known from a spectrum or from one run of the tensor power method read it off;
for joint CP and Tucker-2 ranks are tried, so that planning takes several decompositions.
"""

from __future__ import annotations

from ..errors import UsageError
from .energy import limit
from .rule import Choice, Rule, register


@register
class Error(Rule):
    name = "error"
    example = "error=0.3"
    summary = "the smallest ranks whose relative error is at most this"

    def allocate(self, candidates, growth=False, progress=None):
        error = self._error()
        found = {}
        for index, candidate in enumerate(candidates):
            if progress:
                progress(candidate.name, index / len(candidates))
            ranks = candidate.scheme.ranks_for_error(
                candidate.kernel(),
                candidate.geometry.group,
                error,
                limit=None if growth else limit(candidate),
            )
            found[candidate.name] = Choice(ranks, f"error={error:g} of its norm")
        return found

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
