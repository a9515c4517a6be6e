"""A GPT-2 checkpoint for ONNX Runtime GenAI: python convert.py CHECKPOINT MODEL FORMAT."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from gpt2_builder import Gpt2
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoConfig

# Only the last position of a prompt reaches the lm_head. Accuracy level 4 computes in 8 bits. In
# 4 bits the embedding and the lm_head can share one table.
LAST_ONLY: dict[str, Any] = {"prune_lm_head": True}
BLOCKS = {**LAST_ONLY, "accuracy_level": 4, "block_size": 128}
SHARED = {"shared_embeddings": True, "op_types_to_quantize": ("MatMul", "Gather")}
OPTIONS: dict[str, tuple[ir.DataType, dict[str, Any]]] = {
    "fp32": (ir.DataType.FLOAT, LAST_ONLY),
    "int8": (ir.DataType.INT8, BLOCKS),
    "int8-dynamic": (ir.DataType.FLOAT, LAST_ONLY),  # quantized in `convert`
    "int4": (ir.DataType.INT4, {**BLOCKS, **SHARED}),
}


def convert(checkpoint: Path, model: Path, name: str) -> None:
    """Write the folder ``model``."""
    dtype, options = OPTIONS[name]
    model.mkdir()
    config = AutoConfig.from_pretrained(checkpoint)
    builder = Gpt2(config, dtype, dict(options))
    builder.make_model(str(checkpoint))
    builder.save_model(str(model))
    builder.make_genai_config(config, {}, str(model))
    builder.save_processing(str(checkpoint), {}, str(model))
    if name == "int8-dynamic":
        quantize(model)


def quantize(folder: Path) -> None:
    """Weights in 8 bits, a scale an output, by ONNX Runtime's own dynamic quantization."""
    floats = folder / "float"
    floats.mkdir()
    for file in folder.glob("model.onnx*"):
        file.rename(floats / file.name)
    quantize_dynamic(
        floats / "model.onnx",
        folder / "model.onnx",
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
    )
    shutil.rmtree(floats)


if __name__ == "__main__":
    with torch.no_grad():
        convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
