"""``ratio=0.25``: every layer gets the largest ranks that need at most a quarter of its MACs."""

from __future__ import annotations

from .context import ALONE
from .options import Option, share
from .rule import Allocation, Choice, Rule, Skip, register


@register
class Ratio(Rule):
    name = "ratio"
    example = "ratio=0.25"
    summary = "the largest ranks within this share of each layer's multiply-adds"
    value = Option("ratio", summary, share, "a share above 0 and at most 1")

    def allocate(self, candidates, context=ALONE):
        share = self.argument
        found: Allocation = {}
        for candidate in candidates:
            dense = candidate.before.macs
            ranks = candidate.largest_within(share * dense)
            if ranks is None:
                least = candidate.after(candidate.scaled(0, 1)).macs / dense
                found[candidate.name] = Skip(
                    f"ratio={share:g}: even the smallest rank needs {least:.2f} of its MACs"
                )
            else:
                part = candidate.after(ranks).macs / dense
                found[candidate.name] = Choice(ranks, f"ratio={share:g}: {part:.4f} of its MACs")
        return found
