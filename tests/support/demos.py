"""Checks of the demo bundles beside the bundles of their checkpoints."""

from __future__ import annotations

from edgeseq.runtime.bundle.manifest import Manifest


def assert_quantized_from(made: Manifest, shipped: Manifest) -> None:
    """Check that ``shipped`` is the INT8 form of ``made``, the float32 bundle."""
    assert (shipped.quantization.recipe, shipped.kv_cache.dtype) == ("int8", "int8")
    assert shipped.quantization.quality is not None
    assert shipped.quantization.quality.perplexity_rise <= 0.005
    assert shipped.files["weights.bin"].size_bytes < 0.3 * made.files["weights.bin"].size_bytes
    assert made.files["tokenizer.json"] == shipped.files["tokenizer.json"]
    assert made.generation == shipped.generation
    assert made.dimensions == shipped.dimensions
