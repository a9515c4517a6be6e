"""The command line: ``edgeseq``, or ``python -m edgeseq.cli``."""

from .command_line import main

__all__ = ["main"]
