"""GPT-2 for the model builder of ONNX Runtime GenAI, which has none.

The builder's class for decoders makes one all the same, once it is told of positions that are
learned and of GPT-2's names.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from onnxruntime_genai.models.builders.base import Model
from torch import nn
from transformers import GPT2LMHeadModel


class DecoderLayer(nn.Module):
    """A block of GPT-2 under the names that the builder reads, which knows a layer by its class."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = block.ln_1, block.ln_2
        query, key, value = split(linear(block.attn.c_attn))
        self.self_attn, self.mlp = nn.Module(), nn.Module()
        self.self_attn.q_proj, self.self_attn.k_proj, self.self_attn.v_proj = query, key, value
        self.self_attn.o_proj = linear(block.attn.c_proj)
        self.mlp.fc1, self.mlp.fc2 = linear(block.mlp.c_fc), linear(block.mlp.c_proj)


class Weights(nn.Module):
    """GPT-2's modules in the order and under the names that the builder reads."""

    def __init__(self, checkpoint: GPT2LMHeadModel) -> None:
        super().__init__()
        source = checkpoint.transformer
        self.model = nn.Module()
        self.model.embed_tokens = source.wte
        self.model.layers = nn.ModuleList(DecoderLayer(block) for block in source.h)
        self.model.norm = source.ln_f
        self.lm_head = checkpoint.lm_head
        self.positions = source.wpe.weight


def make_linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """A layer with these parameters, and a bias that counts as one.

    The builder leaves out a bias of zeros. A trained checkpoint has none, one of random weights has
    nothing else and would be too cheap.
    """
    if not bias.any():
        bias = bias.clone()
        bias[0] = 1e-30
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def linear(convolution: Any) -> nn.Linear:
    """The linear layer that computes what a ``Conv1D`` does."""
    return make_linear(convolution.weight.T, convolution.bias)


def split(layer: nn.Linear) -> list[nn.Linear]:
    """Three layers, each with a third of the outputs of ``layer``."""
    pairs = zip(layer.weight.chunk(3), layer.bias.chunk(3), strict=True)
    return [make_linear(weight, bias) for weight, bias in pairs]


class Gpt2(Model):
    """Learned positions in place of rotary ones, layer norms with a bias, two layers as MLP."""

    def __init__(self, config: Any, dtype: ir.DataType, options: dict[str, Any]) -> None:
        config.intermediate_size = config.n_inner or 4 * config.n_embd
        config.hidden_act = config.activation_function
        config.rms_norm_eps = config.layer_norm_epsilon
        super().__init__(config, ir.DataType.FLOAT, dtype, "cpu", "", options)
        self.attention_attrs["rope"] = False
        self.layernorm_attrs["simple"] = False
        self.mlp_attrs["use_proj"], self.mlp_attrs["use_fc"] = False, True

    def is_fused_rope_supported(self) -> bool:
        """Without rotary positions in the attention, the position ids remain an input."""
        return False

    def load_weights(self, input_path: str) -> Weights:
        """Weights of the checkpoint."""
        return Weights(GPT2LMHeadModel.from_pretrained(input_path, dtype=torch.float32))

    def make_embedding(self, embedding: Any) -> None:
        """Embeddings of tokens and of positions, added."""
        super().make_embedding(embedding)
        shape = self.make_hidden_state_shape()
        table, place = "model.embed_positions.weight", "/model/embed_positions"
        self.make_initializer(self.weights.positions, table, to=self.io_dtype)
        positions = [table, self.input_names["position_ids"]]
        self.make_gather(f"{place}/Gather", positions, dtype=self.io_dtype, shape=shape, axis=0)
        terms = [self.layernorm_attrs["root_input"], f"{place}/Gather/output_0"]
        self.make_add(f"{place}/Add", terms, dtype=self.io_dtype, shape=shape)
        for name in ("root_input", "skip_input"):
            self.layernorm_attrs[name] = f"{place}/Add/output_0"

    def update_genai_config(self, genai_config: dict[str, Any]) -> None:
        """The runtime's general decoder: its type ``gpt2`` is for another layout of the cache."""
        genai_config["model"]["type"] = "decoder"
