"""From a float32 bundle to one of fewer bits; needs the extra ``quantize`` (onnx), no torch."""

from edgeseq.runtime.errors import MissingPackageError, QuantizationError

try:
    from edgeseq.quantize.quantizing import quantize_bundle
    from edgeseq.quantize.recipe import RECIPES, Recipe
except ModuleNotFoundError as error:
    if (error.name or "").startswith("edgeseq"):
        raise
    raise MissingPackageError(
        f"Quantizing needs {error.name}: install the extra 'quantize' "
        '(python -m pip install "edgeseq[cpu,quantize]").'
    ) from error

__all__ = ["RECIPES", "QuantizationError", "Recipe", "quantize_bundle"]
