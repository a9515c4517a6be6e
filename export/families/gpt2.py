"""The GPT-2 family: the checkpoints that belong to it, and its graph ``decoder.onnx``.

Between attentions, hidden states are two-dimensional, (rows * n, features). After the last
attention, everything is computed only at ``logits_at``.
"""

from __future__ import annotations

import torch
from torch.nn.functional import layer_norm
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.activations import ACT2FN

from ...runtime.bundle.graph_contract import decoder_inputs, decoder_outputs
from ...runtime.bundle.manifest import Dimensions, Kind
from ...runtime.errors import CheckpointError
from ..graphs.attention import GroupQueryAttention, pad_heads, padded_head_size
from ..graphs.operators import FastGelu, TransposedMatMul
from ..graphs.tracing import Graph, decoder_example
from .settings import check_activation, check_number, check_sizes

KIND: Kind = "decoder-only"
MODEL_CLASSES = {"gpt2": GPT2LMHeadModel}
# Old checkpoints without an lm_head are named GPT2Model; the embedding is their lm_head.
ARCHITECTURES = frozenset({"GPT2LMHeadModel", "GPT2Model", "GPT2DoubleHeadsModel"})
BLOCK_WEIGHTS = {
    "ln_1": "ln_1",
    "attn.qkv": "attn.c_attn",
    "attn.output": "attn.c_proj",
    "ln_2": "ln_2",
    "mlp.input": "mlp.c_fc",
    "mlp.output": "mlp.c_proj",
}


def check(config: GPT2Config) -> None:
    """Raise ``CheckpointError`` for settings that a stand-alone GPT-2 decoder cannot express."""
    if config.add_cross_attention:
        raise CheckpointError(
            "This GPT-2 has cross-attention to an encoder (add_cross_attention), which cannot be "
            "exported: use a GPT-2 without it."
        )
    check_sizes(config, ("n_embd", "n_head", "n_layer", "n_positions", "vocab_size"))
    check_number(config, "layer_norm_epsilon")
    check_activation(config.activation_function)
    if config.pruned_heads:
        raise CheckpointError(
            "This GPT-2 has pruned heads (pruned_heads), which cannot be exported: save the model "
            "without pruning."
        )


def dimensions(config: GPT2Config) -> Dimensions:
    """Return the sizes that the runtime needs to allocate memory."""
    head_size = config.n_embd // config.n_head
    return Dimensions(
        layers=config.n_layer,
        heads=config.n_head,
        head_size=head_size,
        stored_head_size=padded_head_size(head_size),
        vocabulary=config.vocab_size,
        max_positions=config.n_positions,
    )


def graphs(model: GPT2LMHeadModel) -> list[Graph]:
    """Return the decoder of ``model`` with its weights.

    Its contract is in ``docs/how-it-works/graph.md``.
    """
    sizes = dimensions(model.config)
    weights = _weights(model, sizes)
    return [
        Graph(
            role="decoder",
            file_name="decoder.onnx",
            module=GPT2Decoder(model.config, weights),
            config=model.config,
            inputs=decoder_inputs(sizes, after_encoder=False),
            outputs=decoder_outputs(sizes),
            example=decoder_example(sizes),
            weights=weights,
        )
    ]


class GPT2Decoder(torch.nn.Module):
    """GPT-2's decoder with an in-place KV cache and logits only at ``logits_at``."""

    def __init__(self, config: GPT2Config, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.config = config
        self._sizes = dimensions(config)
        self._activation = ACT2FN[config.activation_function]
        self._names = list(weights)

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        seqlens_k: torch.Tensor,
        total_sequence_length: torch.Tensor,
        logits_at: torch.Tensor,
        past_key_values: list[torch.Tensor],
        weights: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """Return the logits and the KV cache after the step; shapes as in the graph contract."""
        self._w = dict(zip(self._names, weights, strict=True))
        shape, last = input_ids.shape, self._sizes.layers - 1
        hidden = self._w["wte"][input_ids.view(-1)]
        added = self._w["wpe"][position_ids.view(-1)]
        presents: list[torch.Tensor] = []
        for layer in range(self._sizes.layers):
            block = f"h.{layer}"
            normed, hidden = self._add_and_norm(hidden, added, f"{block}.ln_1")
            attended, *present = GroupQueryAttention.apply(
                self._linear(normed, f"{block}.attn.qkv").view(*shape, -1),
                *past_key_values[2 * layer : 2 * layer + 2],
                seqlens_k,
                total_sequence_length,
                None,
                self._sizes.heads,
                attention_scale(self.config, layer),
            )
            presents += present
            attended = attended.view(-1, self._sizes.heads * self._sizes.stored_head_size)
            if layer == last:
                hidden = hidden.index_select(0, logits_at)
                attended = attended.index_select(0, logits_at)
            added = self._linear(attended, f"{block}.attn.output")
            normed, hidden = self._add_and_norm(hidden, added, f"{block}.ln_2")
            inner = self._activate(*self._matmul(normed, f"{block}.mlp.input"))
            added = self._linear(inner, f"{block}.mlp.output")
        normed, _ = self._add_and_norm(hidden, added, "ln_f")
        table = self._w["lm_head" if "lm_head" in self._w else "wte"]
        return TransposedMatMul.apply(normed, table), *presents

    def _matmul(self, hidden: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the product and the bias separately, so that the next node can add the bias."""
        return hidden @ self._w[f"{name}.weight"], self._w[f"{name}.bias"]

    def _linear(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        product, bias = self._matmul(hidden, name)
        return product + bias

    def _activate(self, hidden: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        if self.config.activation_function == "gelu_new":
            activated: torch.Tensor = FastGelu.apply(hidden, bias)
        else:
            activated = self._activation(hidden + bias)
        return activated

    def _add_and_norm(
        self, hidden: torch.Tensor, added: torch.Tensor, name: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the layer norm of the sum, and the sum."""
        total = hidden + added
        weight, bias = self._w[f"{name}.weight"], self._w[f"{name}.bias"]
        epsilon = self.config.layer_norm_epsilon
        return layer_norm(total, weight.shape, weight, bias, epsilon), total


def attention_scale(config: GPT2Config, layer: int) -> float:
    """Return the factor of the scores of ``layer`` (``GPT2Attention`` in Transformers)."""
    scale = (config.n_embd // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
    return scale / (layer + 1) if config.scale_attn_by_inverse_layer_idx else scale


def _weights(model: GPT2LMHeadModel, sizes: Dimensions) -> dict[str, torch.Tensor]:
    """Return every weight once, linear weights as (input, output), heads padded with zeros."""
    state = model.state_dict()
    weights = {
        "wte": state["transformer.wte.weight"],
        "wpe": state["transformer.wpe.weight"],
        "ln_f.weight": state["transformer.ln_f.weight"],
        "ln_f.bias": state["transformer.ln_f.bias"],
    }
    for layer in range(sizes.layers):
        for ours, theirs in BLOCK_WEIGHTS.items():
            for part in ("weight", "bias"):
                tensor = state[f"transformer.h.{layer}.{theirs}.{part}"]
                weights[f"h.{layer}.{ours}.{part}"] = tensor
        qkv, output = f"h.{layer}.attn.qkv", f"h.{layer}.attn.output"
        for name, axis in ((f"{qkv}.weight", 1), (f"{qkv}.bias", 0), (f"{output}.weight", 0)):
            weights[name] = pad_heads(weights[name], axis, sizes.head_size)
    if state["lm_head.weight"].data_ptr() != weights["wte"].data_ptr():
        weights["lm_head"] = state["lm_head.weight"]
    return weights
