"""From a float32 bundle to one of fewer bits; needs the extra ``quantize`` (onnx), no torch."""

from ..runtime.errors import MissingPackageError, QuantizationError

try:
    from .quantizing import quantize_bundle
    from .recipes import RECIPES, Recipe
except ModuleNotFoundError as error:
    if (error.name or "").startswith("edgeseq"):
        raise
    raise MissingPackageError(
        f"Quantizing needs {error.name}: install the extra 'quantize' "
        '(python -m pip install "edgeseq[cpu,quantize]").'
    ) from error

__all__ = ["RECIPES", "QuantizationError", "Recipe", "quantize_bundle"]
