"""Rank rules: spectra, costs and budgets to ranks.  Knows no files.

Each rule is one file that registers a ``Rule`` and is found by itself; ``parse_rule`` picks one by
the text that the user wrote.
"""

from importlib import import_module
from pkgutil import iter_modules

from .candidate import Candidate
from .context import RuleContext
from .rule import RULES, Choice, Rule, Skip, parse_rule

__all__ = ["RULES", "Candidate", "Choice", "Rule", "RuleContext", "Skip", "parse_rule"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
