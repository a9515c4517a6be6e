"""Make Transformers' model folder from a Hugging Face checkpoint folder.

    python convert.py CHECKPOINT MODEL FORMAT

``fp32`` is the checkpoint in safetensors. ``int8`` is PyTorch's dynamic quantization of every
linear layer, saved as a whole module, so that loading it needs neither the fp32 weights nor the
time to quantize them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.pytorch_utils import Conv1D


def convert(checkpoint: Path, folder: Path, precision: str) -> None:
    """Write the model of ``checkpoint`` to ``folder``."""
    config = json.loads((checkpoint / "config.json").read_text())
    auto = AutoModelForSeq2SeqLM if config.get("is_encoder_decoder") else AutoModelForCausalLM
    model = auto.from_pretrained(checkpoint, dtype=torch.float32).eval()
    if precision == "int8":
        folder.mkdir(parents=True)
        torch.save(quantized(model), folder / "model.pt")
    else:
        model.save_pretrained(folder)


def quantized(model: nn.Module) -> nn.Module:
    """``model`` with 8-bit linear layers, the last one included; embeddings stay in fp32."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            model.set_submodule(name, linear(module))
    result: nn.Module = quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    left = [name for name, module in result.named_modules() if type(module) in (nn.Linear, Conv1D)]
    if left:
        raise RuntimeError(f"still in fp32: {left}")
    return result


def linear(conv: Any) -> nn.Linear:
    """GPT-2's layer as the one that PyTorch can quantize: the same with its weights turned."""
    layer = nn.Linear(conv.nx, conv.nf)
    layer.weight = nn.Parameter(conv.weight.detach().t().contiguous(), requires_grad=False)
    layer.bias = conv.bias
    return layer


def main() -> None:
    """Convert what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("format", choices=["fp32", "int8"])
    arguments = parser.parse_args()
    convert(arguments.checkpoint, arguments.model, arguments.format)


if __name__ == "__main__":
    main()
