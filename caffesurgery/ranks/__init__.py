"""Rank rules: spectra, costs and budgets to ranks.  Knows no files.

Each rule is one file that registers a ``Rule``; ``parse_rule`` finds it by the text that the user
wrote.
"""

from . import energy, explicit, ratio
from .rule import RULES, Candidate, Choice, Rule, Skip, parse_rule

__all__ = [
    "RULES",
    "Candidate",
    "Choice",
    "Rule",
    "Skip",
    "energy",
    "explicit",
    "parse_rule",
    "ratio",
]
