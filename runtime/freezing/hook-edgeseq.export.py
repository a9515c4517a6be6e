"""PyInstaller's hook of export: a frozen command line does without torch, which is gigabytes."""

from __future__ import annotations

excludedimports = ["huggingface_hub", "langcodes", "onnx", "optimum", "torch", "transformers"]
