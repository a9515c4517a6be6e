"""The bundles that the app opens: the demo models of edgeseq, and folders."""

from __future__ import annotations

from pathlib import Path

from edgeseq.runtime import Model, load

DEMOS = {"demo:gpt2": "Demo GPT-2", "demo:t5": "Demo T5"}


def model_name(key: str) -> str:
    """Return the name to show for a model: "demo:NAME", or the folder of a bundle."""
    return DEMOS.get(key) or Path(key).name or key


def open_model(key: str, threads: int) -> Model:
    """Load a model; ``threads``: computing threads, 0 for as many as edgeseq chooses."""
    demo, folder = (key.removeprefix("demo:"), None) if key in DEMOS else (None, key)
    return load(folder, demo=demo, threads=threads or None)
