"""The models that ``edgeseq serve`` is told to load, by their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..runtime.bundle.demo_bundles import DEMOS, demo_bundle
from ..runtime.bundle.reading import open_bundle
from ..runtime.errors import OptionError
from ..runtime.loading import load
from ..runtime.model import Model

Source = Model | Callable[[], Model]


def model_sources(
    bundles: list[str], *, demo: bool, max_concurrent: int, **machine: Any
) -> dict[str, Source]:
    """Return the models of ``edgeseq serve`` by their names; their manifests are checked.

    ``bundles``: paths, which are named by their folders, or NAME=PATH. ``machine``: arguments of
    ``load``. Raises ``OptionError`` for a name that occurs twice, ``BundleError`` for a folder that
    is not a bundle.
    """
    paths = [_named(text) for text in bundles]
    if demo:
        paths += [(f"demo-{name}", demo_bundle(name)) for name in DEMOS]
    found: dict[str, Source] = {}
    for name, path in paths:
        if name in found:
            raise OptionError(
                f"Two models have the name {name!r:.60}: give one of them another name, with "
                f"--bundle NAME={path}."
            )
        open_bundle(path)

        def load_it(path: Path = path) -> Model:
            return load(path, max_concurrent=max_concurrent, **machine)

        found[name] = load_it
    return found


def _named(text: str) -> tuple[str, Path]:
    """Return the name and the path in ``PATH`` or ``NAME=PATH``."""
    name, equals, path = text.partition("=")
    if equals and name and path and not Path(text).exists():
        if "/" in name or "\\" in name:
            raise OptionError(
                f"--bundle {text!r:.60}: the name {name!r:.60} must not have slashes."
            )
        return name, Path(path).expanduser()
    folder = Path(text).expanduser()
    return folder.resolve().name, folder
