"""Quantize a float32 bundle; needs the extra ``quantize`` (onnx) and no torch.

The names below are imported on first use, so that the command line knows the recipes without the
extra.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ..runtime.errors import MissingPackageError, QuantizationError

if TYPE_CHECKING:
    from .quantizing import quantize_bundle
    from .recipes import RECIPES, Recipe

__all__ = ["RECIPES", "QuantizationError", "Recipe", "quantize_bundle"]

_MODULES = {"RECIPES": "recipes", "Recipe": "recipes", "quantize_bundle": "quantizing"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{_MODULES[name]}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("edgeseq"):
            raise
        raise MissingPackageError(
            f"Quantizing needs {error.name}: install the extra 'quantize' "
            '(python -m pip install "edgeseq[cpu,quantize]").'
        ) from error
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
