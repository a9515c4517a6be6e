"""The demo bundles that come with edgeseq."""

from __future__ import annotations

from pathlib import Path

from ..errors import OptionError

DEMO_BUNDLES = Path(__file__).parent / "demos"
DEMOS = ("gpt2", "t5")  # the first is the default


def demo_bundle(name: str) -> Path:
    """Return the folder of a demo bundle; raise ``OptionError`` for a name not in ``DEMOS``."""
    if name not in DEMOS:
        raise OptionError(f"There is no demo {name!r}: use {' or '.join(map(repr, DEMOS))}.")
    return DEMO_BUNDLES / name
