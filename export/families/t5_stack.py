"""Shared parts of T5's encoder and decoder: layer norms, feed-forward, relative positions.

Hidden states are two-dimensional, (rows * n, features). A stack's weights have names such as
``decoder.0.attention.norm``. Linear weights are (input, output).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.activations import ACT2FN
from transformers.models.t5.modeling_t5 import T5Attention

from ..graphs.operators import (
    FastGelu,
    SimplifiedLayerNormalization,
    SkipSimplifiedLayerNormalization,
)

Weights = dict[str, torch.Tensor]


class T5Stack(torch.nn.Module):
    """The base class of encoder and decoder.

    ``hidden`` is the residual so far, ``added`` the output of a layer that is added to it next.
    """

    def __init__(self, config: Any, weights: Weights) -> None:
        super().__init__()
        self.config = config
        self._activation = ACT2FN[config.dense_act_fn]
        self._names = list(weights)

    def receive(self, weights: list[torch.Tensor]) -> None:
        """Set the weights, in the order of the names that the stack was made with."""
        self._w = dict(zip(self._names, weights, strict=True))

    def linear(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        """Return the product with the weight ``name``; T5 has no biases."""
        return hidden @ self._w[name]

    def add_and_norm(
        self, hidden: torch.Tensor, added: torch.Tensor | None, name: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the RMS norm of the sum, and the sum; ``added`` is None for the embeddings."""
        weight, epsilon = self._w[name], self.config.layer_norm_epsilon
        if added is None:
            return SimplifiedLayerNormalization.apply(hidden, weight, epsilon), hidden
        normed, total = SkipSimplifiedLayerNormalization.apply(hidden, added, weight, epsilon)
        return normed, total

    def feed_forward(self, normed: torch.Tensor, block: str) -> torch.Tensor:
        """Return the output of the feed-forward layer of ``block``.

        It is ``T5DenseGatedActDense`` if the configuration says so, else ``T5DenseActDense``.
        """
        if self.config.is_gated_act:
            inner = self._activate(self.linear(normed, f"{block}.ff.wi_0"))
            inner = inner * self.linear(normed, f"{block}.ff.wi_1")
        else:
            inner = self._activate(self.linear(normed, f"{block}.ff.wi"))
        return self.linear(inner, f"{block}.ff.wo")

    def _activate(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.config.dense_act_fn == "gelu_new":
            activated: torch.Tensor = FastGelu.apply(hidden, None)
        else:
            activated = self._activation(hidden)
        return activated


def feed_forward_weights(layer: Any, config: Any, block: str) -> Weights:
    """Return the weights of the feed-forward ``layer`` (a ``T5LayerFF``) and of its layer norm."""
    dense = layer.DenseReluDense
    names = ("wi_0", "wi_1", "wo") if config.is_gated_act else ("wi", "wo")
    return {
        f"{block}.ff.norm": layer.layer_norm.weight,
        **{f"{block}.ff.{name}": getattr(dense, name).weight.T for name in names},
    }


def bias_table(attention: Any, *, bidirectional: bool) -> torch.Tensor:
    """Return the bias of each distance between query and key.

    ``attention``: the stack's first layer, whose biases all layers use. For an encoder the shape is
    (heads, 2 * reach + 1), for distances of a key from -reach to reach. For a decoder it is
    (heads, reach + 1), for distances of a key behind its query. Farther keys have the bias of the
    farthest distance (``T5Attention._relative_position_bucket``).
    """
    reach = attention.relative_attention_max_distance
    distances = torch.arange(-reach, reach + 1) if bidirectional else -torch.arange(reach + 1)
    buckets = T5Attention._relative_position_bucket(
        distances,
        bidirectional=bidirectional,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=reach,
    )
    table: torch.Tensor = attention.relative_attention_bias.weight[buckets].T
    return table
