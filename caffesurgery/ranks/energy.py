"""``energy=0.9``: every layer gets the smallest ranks that keep nine tenths of its squared norm.

The energy is that of the singular values of the matrix or unfolding that a scheme truncates; for
CP it is what the tensor power method has explained, sum of d_r^2 over the squared norm (paper 000,
Algorithm 1), which bounds the error from above: error^2 <= 1 - energy.
"""

from __future__ import annotations

from .rule import Choice, Rule, register


@register
class Energy(Rule):
    name = "energy"
    example = "energy=0.9"
    summary = "the smallest ranks that keep this share of each layer's squared norm"

    def allocate(self, candidates, growth=False, progress=None):
        share = self.share()
        found = {}
        for index, candidate in enumerate(candidates):
            if progress:
                progress(candidate.name, index / len(candidates))
            ranks = candidate.scheme.ranks_for_energy(
                candidate.kernel(),
                candidate.geometry.group,
                share,
                limit=None if growth else limit(candidate),
            )
            found[candidate.name] = Choice(ranks, f"energy={share:g} of its squared norm")
        return found


def limit(candidate) -> int | None:
    """The first rank at which the layer would grow: nobody needs to know what lies above.

    Only where there is one rank; two are bounded by their unfoldings and cost little to find.
    """
    if len(candidate.max_ranks) > 1:
        return None
    group = candidate.geometry.group
    within = candidate.largest_within(candidate.before.macs - 1) or (0,)
    return min(candidate.max_ranks[0], within[0] + group)
