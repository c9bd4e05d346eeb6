"""``python -m caffesurgery``: the command line."""

from .cli import main

main()
