"""The layers that encoders and decoders share: linear, norm, activation, feed-forward, embedding.

Hidden states are two-dimensional, (rows * n, features). ``hidden`` is the residual so far, and
``added`` the output of a sub-layer that the next norm adds to it, so that one node does both.
"""

from __future__ import annotations

import torch
from torch.nn.functional import layer_norm
from transformers import PretrainedConfig
from transformers.activations import ACT2FN

from ..graphs.operators import (
    FastGelu,
    SimplifiedLayerNormalization,
    SkipSimplifiedLayerNormalization,
)
from .options import Stack, Weights

Pair = tuple[torch.Tensor, torch.Tensor | None]


class Layers(torch.nn.Module):
    """The base class of encoders and decoders; the weights come with each call of ``forward``."""

    def __init__(self, config: PretrainedConfig, stack: Stack, weights: Weights) -> None:
        super().__init__()
        self.config = config  # Optimum reads it
        self.stack = stack
        self.names = stack.names
        self._activation = ACT2FN[stack.activation]
        self._order = list(weights)

    def receive(self, weights: list[torch.Tensor]) -> None:
        """Set the weights, in the order of the dictionary that the module was made with."""
        self._weights = dict(zip(self._order, weights, strict=True))

    def find(self, name: str) -> torch.Tensor | None:
        """Return a weight, or None if the model has none with this name."""
        return self._weights.get(name)

    def matmul(self, hidden: torch.Tensor, name: str) -> Pair:
        """Return the product with a linear layer's weight, and its bias, which the caller adds."""
        weight = self.find(f"{name}.weight")
        if weight is None:
            weight = self._weights[name]
        return hidden @ weight, self.find(f"{name}.bias")

    def linear(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        """Return the output of a linear layer."""
        product, bias = self.matmul(hidden, name)
        return product if bias is None else product + bias

    def norm(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        """Return the norm of ``hidden``."""
        normed, _ = self.add_and_norm(hidden, None, name)
        return normed

    def add_and_norm(
        self, hidden: torch.Tensor, added: torch.Tensor | None, name: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the norm of the sum, and the sum."""
        epsilon = self.stack.epsilon
        if self.stack.norm == "layer":
            total = hidden if added is None else hidden + added
            weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
            return layer_norm(total, weight.shape, weight, bias, epsilon), total
        weight = self._weights[name]
        if added is None:
            return SimplifiedLayerNormalization.apply(hidden, weight, epsilon), hidden
        normed, total = SkipSimplifiedLayerNormalization.apply(hidden, added, weight, epsilon)
        return normed, total

    def feed_forward(self, hidden: torch.Tensor, layer: int) -> torch.Tensor:
        """Return the output of a layer's feed-forward part, gated if the model has a gate."""
        inner = self._activate(*self.matmul(hidden, self.names.ff_input.format(layer)))
        if self.names.ff_gate:
            inner = inner * self.linear(hidden, self.names.ff_gate.format(layer))
        return self.linear(inner, self.names.ff_output.format(layer))

    def _activate(self, hidden: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if self.stack.activation == "gelu_new":
            activated: torch.Tensor = FastGelu.apply(hidden, bias)
        else:
            activated = self._activation(hidden if bias is None else hidden + bias)
        return activated

    def embed(self, input_ids: torch.Tensor, position_ids: torch.Tensor | None) -> Pair:
        """Return the first hidden states, and what the first norm adds to them.

        ``position_ids`` is None if the model has no table of positions.
        """
        hidden = self._weights[self.names.table][input_ids.view(-1)]
        if self.stack.embedding_scale != 1.0:
            hidden = hidden * self.stack.embedding_scale
        if self._has_layer(self.names.embedding_projection):
            hidden = self.linear(hidden, self.names.embedding_projection)
        added = None
        table = self.find(self.names.positions)
        if table is not None and position_ids is not None:
            added = table[position_ids.reshape(-1)]
        if self._has_layer(self.names.embedding_norm):
            hidden, _ = self.add_and_norm(hidden, added, self.names.embedding_norm)
            return hidden, None
        if not self.stack.norm_first and added is not None:
            return hidden + added, None
        return hidden, added

    def finish(self, residual: Residual) -> torch.Tensor:
        """Return the output of the last layer: the last norm, or the plain sum without one."""
        if self._has_layer(self.names.norm):
            return residual.read(self.names.norm)
        return residual.total()

    def _has_layer(self, name: str) -> bool:
        return bool(name) and not {name, f"{name}.weight"}.isdisjoint(self._weights)


class Residual:
    """The hidden states between the sub-layers, in the order of norms that the stack has."""

    def __init__(self, layers: Layers, first: Pair) -> None:
        self._layers = layers
        self._hidden, self._added = first
        self._norm_first = layers.stack.norm_first

    def read(self, norm: str) -> torch.Tensor:
        """Return the input of a sub-layer whose norm is ``norm``."""
        if not self._norm_first:
            return self._hidden
        normed, self._hidden = self._layers.add_and_norm(self._hidden, self._added, norm)
        self._added = None
        return normed

    def read_again(self, norm: str) -> torch.Tensor:
        """Return another norm of the hidden states that ``read`` has read."""
        return self._layers.norm(self._hidden, norm)

    def write(self, output: torch.Tensor, norm: str) -> None:
        """Add the output of the sub-layer whose norm is ``norm``."""
        if self._norm_first:
            self._added = output
        else:
            self._hidden, _ = self._layers.add_and_norm(self._hidden, output, norm)

    def select(self, rows: torch.Tensor) -> None:
        """Keep only these rows of the hidden states."""
        self._hidden = self._hidden.index_select(0, rows)

    def total(self) -> torch.Tensor:
        """Return the sum of all outputs so far."""
        return self._hidden if self._added is None else self._hidden + self._added
