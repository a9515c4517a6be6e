"""The attention operators of the exported graphs, in the form of ``operators.py``.

- A decoder's self-attention appends to its KV cache.
- Cross-attention reads keys and values that were computed once per source. An encoder's
  self-attention is the same operator.
- An encoder's self-attention with relative positions processes the source in blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad

from .operators import is_absent
from .rotary import rotate

HEAD_SIZE_MULTIPLE = 8  # GroupQueryAttention requires a multiple of it
ROTARY_HEAD_SIZE_MULTIPLE = 16  # the same, if it rotates queries and keys
ROTARY_WIDTH_MULTIPLE = 8  # GroupQueryAttention requires a multiple of it in cos and sin

BLOCK = 128  # queries per block of an encoder's attention
MASKED = -3.0e38  # score of a masked key


def padded_head_size(head_size: int) -> int:
    """Return the head size of a decoder's self-attention in the graph."""
    return head_size + -head_size % HEAD_SIZE_MULTIPLE


def pad_heads(tensor: torch.Tensor, axis: int, head_size: int) -> torch.Tensor:
    """Pad each head along ``axis``, which holds heads of ``head_size``, with zeros."""
    missing = padded_head_size(head_size) - head_size
    if not missing:
        return tensor
    axis %= tensor.ndim
    heads = tensor.unflatten(axis, (-1, head_size))
    after = heads.ndim - 1 - (axis + 1)
    return pad(heads, (0, 0) * after + (0, missing)).flatten(axis, axis + 1)


def has_rotary_kernel(head_size: int, width: int) -> bool:
    """Return whether GroupQueryAttention can rotate ``2 * width`` features of such heads itself."""
    return width % ROTARY_WIDTH_MULTIPLE == 0 and head_size % ROTARY_HEAD_SIZE_MULTIPLE == 0


def absent_input(g: Any) -> Any:
    """Return an optional input that is left empty."""
    constant = g.op("prim::Constant")
    constant.setType(torch._C.OptionalType.ofTensor())
    return constant


class GroupQueryAttention(torch.autograd.Function):
    """Causal self-attention that appends to the KV cache at each row's own position.

    - ``qkv``: (rows, n, 3 * heads * head_size). A row with fewer than ``n`` new tokens is padded on
      the right; this requires an empty KV cache.
    - ``past_key`` and ``past_value``: (rows, heads, capacity, head_size).
    - ``seqlens_k``: (rows,) int32, the filled length after this step minus one.
    - ``total_sequence_length``: int32 scalar, the filled length of the longest row.
    - ``attention_bias``: (rows, heads, n, total_sequence_length), added to the scores, or None.
    - ``window``: the number of keys that a query reads, its own included; None: all.
    - ``cos``, ``sin`` and ``position_ids``: rotary positions, (positions, width) and (rows, n), or
      None. The first ``2 * width`` features of queries and keys are rotated, as in GPT-NeoX.

    Returns the attention's output, (rows, n, heads * head_size), and the KV cache after the step.
    """

    @staticmethod
    def symbolic(
        g: Any,
        qkv: Any,
        past_key: Any,
        past_value: Any,
        seqlens_k: Any,
        total_sequence_length: Any,
        attention_bias: Any,
        heads: int,
        scale: float,
        window: int | None = None,
        cos: Any = None,
        sin: Any = None,
        position_ids: Any = None,
    ) -> Any:
        nothing = absent_input(g)
        optional, attributes = [], {}
        if not is_absent(cos):
            optional = [cos, sin, position_ids]
            attributes["do_rotary_i"] = 1
        if not is_absent(attention_bias):
            optional = [*(optional or [nothing] * 3), attention_bias]
        if window is not None:
            attributes["local_window_size_i"] = window
        outputs = g.op(
            "com.microsoft::GroupQueryAttention",
            qkv,
            nothing,
            nothing,
            past_key,
            past_value,
            seqlens_k,
            total_sequence_length,
            *optional,
            num_heads_i=heads,
            kv_num_heads_i=heads,
            scale_f=scale,
            **attributes,
            outputs=3,
        )
        outputs[0].setType(qkv.type().with_sizes([None, None, None]))
        for output, past in zip(outputs[1:], (past_key, past_value), strict=True):
            output.setType(past.type())
        return outputs

    @staticmethod
    def forward(
        ctx: Any,
        qkv: torch.Tensor,
        past_key: torch.Tensor,
        past_value: torch.Tensor,
        seqlens_k: torch.Tensor,
        total_sequence_length: torch.Tensor,
        attention_bias: torch.Tensor | None,
        heads: int,
        scale: float,
        window: int | None = None,
        cos: torch.Tensor | None = None,
        sin: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows, n, _ = qkv.shape
        if cos is not None and sin is not None and position_ids is not None:
            by_token = (table[position_ids][:, :, None, None] for table in (cos, sin))
            qkv = rotate(qkv, heads, *by_token)
        query, key, value = qkv.view(rows, n, 3, heads, -1).permute(2, 0, 3, 1, 4)
        present_key, present_value = past_key.clone(), past_value.clone()
        output = torch.zeros_like(query)
        for row in range(rows):
            filled = int(seqlens_k[row]) + 1
            first = 0 if n > 1 and filled <= n else filled - n
            new = filled - first
            present_key[row, :, first:filled] = key[row, :, :new]
            present_value[row, :, first:filled] = value[row, :, :new]
            scores = query[row, :, :new] @ present_key[row, :, :filled].transpose(-1, -2) * scale
            if attention_bias is not None:
                scores = scores + attention_bias[row, :, :new, :filled]
            visible = torch.ones(new, filled, dtype=torch.bool).tril(first)
            if window is not None:
                visible &= ~torch.ones_like(visible).tril(first - window)
            probabilities = scores.masked_fill(~visible, -torch.inf).softmax(-1)
            output[row, :, :new] = probabilities @ present_value[row, :, :filled]
        return output.transpose(1, 2).reshape(rows, n, -1), present_key, present_value


def by_head(states: torch.Tensor, heads: int) -> torch.Tensor:
    """Reshape (batch, length, heads * head_size) to (batch, heads, length, head_size)."""
    split: torch.Tensor = states.unflatten(2, (heads, -1))
    return split.transpose(1, 2)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | float,
    key_lengths: torch.Tensor,
) -> torch.Tensor:
    """Return unscaled attention of each item ``i`` over its first ``key_lengths[i]`` keys.

    ``query``, ``key``, ``value`` and the result: (batch, heads, length, head_size); ``bias``: added
    to the scores; ``key_lengths``: (batch,).
    """
    hidden = torch.arange(key.shape[2]) >= key_lengths[:, None, None, None]
    scores = (query @ key.transpose(-1, -2) + bias).masked_fill(hidden, -torch.inf)
    return scores.softmax(-1) @ value


class MultiHeadAttention(torch.autograd.Function):
    """Attention to a source: cross-attention, or an encoder's own without relative positions.

    ``query``: (batch, n, heads * head_size), where n holds all rows of a source (for example its
    beams) one after the other; ``key`` and ``value``: (batch, source, heads * head_size), or by
    head, (batch, heads, source, head_size); ``source_lengths``: (batch,) int32, the number of keys
    to read; ``scale``: the factor of the scores. Returns the shape of ``query``.
    """

    @staticmethod
    def symbolic(
        g: Any, query: Any, key: Any, value: Any, source_lengths: Any, heads: int, scale: float
    ) -> Any:
        return g.op(
            "com.microsoft::MultiHeadAttention",
            query,
            key,
            value,
            absent_input(g),
            source_lengths,
            num_heads_i=heads,
            scale_f=scale,
            mask_filter_value_f=MASKED,
        ).setType(query.type())

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        source_lengths: torch.Tensor,
        heads: int,
        scale: float,
    ) -> torch.Tensor:
        q, k, v = (x if x.ndim == 4 else by_head(x, heads) for x in (query, key, value))
        return attend(q * scale, k, v, 0.0, source_lengths).transpose(1, 2).flatten(2)


class BlockedSelfAttention(torch.autograd.Function):
    """Unscaled self-attention with a bias by distance, ``BLOCK`` queries at a time.

    - ``query``, ``key``, ``value``: (batch, source, heads * head_size).
    - ``bias_table``: (heads, 2 * reach + 1), the bias of a key at each distance from -reach to
      reach. Farther keys have the bias of the distance -reach or reach.
    - ``source_lengths``: (batch,) int32, the number of keys to read.

    Returns the shape of ``query``. For a source of 4,096 tokens and eight heads, the scores and the
    biases would take 537 MB each; a block's scores and biases take 34 MB together.
    """

    @staticmethod
    def symbolic(
        g: Any, query: Any, key: Any, value: Any, bias_table: Any, source_lengths: Any, heads: int
    ) -> Any:
        return g.op(
            "edgeseq::BlockedSelfAttention",
            query,
            key,
            value,
            bias_table,
            source_lengths,
            num_heads_i=heads,
        ).setType(query.type())

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias_table: torch.Tensor,
        source_lengths: torch.Tensor,
        heads: int,
    ) -> torch.Tensor:
        q, k, v = (by_head(x, heads) for x in (query, key, value))
        positions, reach = torch.arange(query.shape[1]), bias_table.shape[1] // 2
        distances = (positions - positions[:, None]).clamp(-reach, reach)
        bias = bias_table[:, distances + reach]
        return attend(q, k, v, bias, source_lengths).transpose(1, 2).flatten(2)


# The function that the node above calls, in ONNX's text form. Export adds it to the graph.
#
# `strip` holds the biases of all distances in order. A query's biases are a window of it, and the
# next query's window starts one entry earlier. Gathering each entry took as long as all products of
# the encoder (2,048 tokens, t5-small). Instead, the window of the block's last query, one block
# wider than the source, is repeated for each query. The repetitions are then cut into rows that are
# one entry shorter, which shifts each row by one entry more.
BLOCKED_SELF_ATTENTION = """
<opset_import: ["" : 18, "com.microsoft" : 1], domain: "edgeseq">
BlockedSelfAttention <num_heads> (query, key, value, bias_table, source_lengths) => (output)
{
  zero = Constant <value: tensor = int64[1] {0}> ()
  one = Constant <value: tensor = int64[1] {1}> ()
  two = Constant <value: tensor = int64[1] {2}> ()
  largest_block = Constant <value: tensor = int64[1] {BLOCK_SIZE}> ()
  source = Shape <start: int = 1, end: int = 2> (query)
  block = Min (source, largest_block)
  last = Sub (source, one)
  full_blocks = Div (last, block)
  blocks = Add (full_blocks, one)
  padded_source = Mul (blocks, block)
  missing = Sub (padded_source, source)
  pads = Concat <axis: int = 0> (zero, zero, zero, zero, missing, zero)
  padded_query = Pad (query, pads)
  heads = Constant <value_int: int = @num_heads> ()
  head_count = Reshape (heads, one)
  minus_one = Constant <value: tensor = int64[1] {-1}> ()
  by_head = Concat <axis: int = 0> (zero, zero, head_count, minus_one)
  key_by_head = Reshape (key, by_head)
  head_key = Transpose <perm: ints = [0, 2, 1, 3]> (key_by_head)
  value_by_head = Reshape (value, by_head)
  head_value = Transpose <perm: ints = [0, 2, 1, 3]> (value_by_head)
  table_size = Shape <start: int = 1> (bias_table)
  reach = Div (table_size, two)
  negative_reach = Neg (reach)
  farthest_behind = Sub (one, padded_source)
  beyond = Add (source, one)
  distances = Range (farthest_behind, beyond, one)
  near = Clip (distances, negative_reach, reach)
  entries = Add (near, reach)
  strip = Gather <axis: int = 1> (bias_table, entries)
  window_size = Add (source, block)
  columns = Add (last, block)
  shift = Sub (block, one)
  shifted_size = Mul (block, columns)
  shift_end = Add (shift, shifted_size)
  rows_shape = Concat <axis: int = 0> (one, block, one)
  flat_shape = Concat <axis: int = 0> (zero, minus_one)
  square_shape = Concat <axis: int = 0> (zero, block, minus_one)
  always = Constant <value: tensor = bool {1}> ()
  outputs = Loop (blocks, always) <
    body: graph = attend (int64 i, bool go_on) => (bool goes_on, attended) {
      goes_on = Identity (go_on)
      first = Mul (i, block)
      end = Add (first, block)
      queries = Slice (padded_query, first, end, one)
      window_start = Sub (padded_source, end)
      window_end = Add (window_start, window_size)
      window = Slice (strip, window_start, window_end, one)
      row = Unsqueeze (window, one)
      equal_rows = Expand (row, rows_shape)
      flat_rows = Reshape (equal_rows, flat_shape)
      shifted = Slice (flat_rows, shift, shift_end, one)
      shifted_rows = Reshape (shifted, square_shape)
      bias = Slice (shifted_rows, zero, source, two)
      batch_bias = Unsqueeze (bias, zero)
      attended = com.microsoft.MultiHeadAttention <
          num_heads: int = @num_heads, scale: float = 1.0, mask_filter_value: float = MASKED_SCORE
      > (queries, head_key, head_value, , source_lengths, batch_bias)
    }
  >
  by_source = Transpose <perm: ints = [1, 0, 2, 3]> (outputs)
  inner = Shape <start: int = 2> (query)
  flat = Concat <axis: int = 0> (zero, minus_one, inner)
  joined = Reshape (by_source, flat)
  output = Slice (joined, zero, source, one)
}
""".replace("BLOCK_SIZE", str(BLOCK)).replace("MASKED_SCORE", str(MASKED))
