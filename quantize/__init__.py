"""Quantization of bundles: the same model in fewer bits.

There are no recipes here yet, so this package exports nothing. Bundles hold fp32 weights.
"""
