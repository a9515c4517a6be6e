"""Kernels for products with quantized weights, compiled from ``src`` for ONNX Runtime."""
