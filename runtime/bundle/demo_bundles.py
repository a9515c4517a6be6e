"""The demo models that come with edgeseq."""

from __future__ import annotations

from pathlib import Path

from ..errors import OptionError

DEMO_BUNDLES = Path(__file__).parent / "demos"
DEMOS = ("gpt2", "t5")  # the first is what is loaded when nothing is named


def demo_bundle(name: str) -> Path:
    """The folder of a demo bundle; ``OptionError`` for a name that is not one of ``DEMOS``."""
    if name not in DEMOS:
        raise OptionError(f"There is no demo {name!r}: there are {', '.join(DEMOS)}.")
    return DEMO_BUNDLES / name
