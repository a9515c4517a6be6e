"""Products, lookups and attention with quantized numbers as ONNX functions of stock operators.

edgeseq's kernels (``runtime/native``) compute them in one node. Elsewhere ONNX Runtime replaces
each by its body when it opens the graph; the results are the same for products by rows.

    x, W -> y                            RowLinear: 8-bit activations, one scale for each token
    Abs, ReduceMax, Mul  -> scale        (tokens,): the largest magnitude / 127
    QuantizeLinear       -> codes        (tokens, inputs) uint8, 128 is zero
    MatMulInteger, DequantizeLinear, Mul -> y
"""

from __future__ import annotations

DOMAIN = "edgeseq"
MICROSOFT = "com.microsoft"
ROW_LINEAR = "RowLinear"
BIASED_ROW_LINEAR = "BiasedRowLinear"
BLOCK_LINEAR = {4: "BlockLinear4", 8: "BlockLinear8"}  # by the bits of a weight
BLOCK_LOOKUP = "BlockLookup"
CACHED_ATTENTION = "CachedAttention"

# `codes` are (outputs, inputs), which lets kernels read each output's weights in one piece.
_ROWS = """
<opset_import: ["" : 18], domain: "edgeseq">
{name} ({inputs}) => (y)
{{
    axes = Constant<value_ints = [1]> ()
    step = Constant<value = float {{0.007874015718698502}}> ()
    zero = Constant<value = uint8 {{128}}> ()
    one_zero = Constant<value = uint8[1] {{128}}> ()
    magnitudes = Abs(x)
    peak = ReduceMax<keepdims = 0>(magnitudes, axes)
    scale = Mul(peak, step)
    tokens = Shape<start = 0, end = 1>(x)
    zeros = Expand(one_zero, tokens)
    quantized = QuantizeLinear<axis = 0>(x, scale, zeros)
    columns = Transpose<perm = [1, 0]>(codes)
    sums = MatMulInteger(quantized, columns, zero)
    by_token = DequantizeLinear<axis = 0>(sums, scale)
    {end}
}}
"""

_BLOCKS = """
<opset_import: ["" : 18, "com.microsoft" : 1], domain: "edgeseq">
{name} <K, N, bits, block_size> (x, codes, scales, bias) => (y)
{{
    wide = Cast<to = 1>(scales)
    y = com.microsoft.MatMulNBits<
        K: int = @K, N: int = @N, bits: int = @bits, block_size: int = @block_size,
        accuracy_level = 4
    >(x, codes, wide, , , bias)
}}
"""

# Rows of a table. Without zero points, these are the middle of the codes.
_LOOKUP = """
<opset_import: ["" : 18, "com.microsoft" : 1], domain: "edgeseq">
{name} <bits, block_size> (codes, ids, scales, zero_points) => (y)
{{
    wide = Cast<to = 1>(scales)
    y = com.microsoft.GatherBlockQuantized<
        gather_axis: int = 0, quantize_axis: int = 1,
        bits: int = @bits, block_size: int = @block_size
    >(codes, ids, wide, zero_points)
}}
"""

# Causal self-attention over a KV cache of 8-bit integers.
_ATTENTION = """
<opset_import: ["com.microsoft" : 1], domain: "edgeseq">
{name} <num_heads, scale, local_window_size> (
    qkv, past_key, past_value, seqlens_k, total_sequence_length, k_scale, v_scale, attention_bias
) => (y, present_key, present_value)
{{
    y, present_key, present_value = com.microsoft.GroupQueryAttention<
        num_heads: int = @num_heads, kv_num_heads: int = @num_heads, scale: float = @scale,
        local_window_size: int = @local_window_size,
        k_quant_type = "PER_TENSOR", v_quant_type = "PER_TENSOR", kv_cache_bit_width = 8
    >(
        qkv, , , past_key, past_value, seqlens_k, total_sequence_length, , , , attention_bias, ,
        k_scale, v_scale
    )
}}
"""

FUNCTIONS = {
    ROW_LINEAR: _ROWS.format(
        name=ROW_LINEAR, inputs="x, codes, scales", end="y = Mul(by_token, scales)"
    ),
    BIASED_ROW_LINEAR: _ROWS.format(
        name=BIASED_ROW_LINEAR,
        inputs="x, codes, scales, bias",
        end="scaled = Mul(by_token, scales)\n    y = Add(scaled, bias)",
    ),
    **{name: _BLOCKS.format(name=name) for name in BLOCK_LINEAR.values()},
    BLOCK_LOOKUP: _LOOKUP.format(name=BLOCK_LOOKUP),
    CACHED_ATTENTION: _ATTENTION.format(name=CACHED_ATTENTION),
}
"""The functions by name, in ONNX's text form. MatMulNBits' accuracy level 4 means that activations
are rounded to 8-bit integers. The scales of blocks are 16-bit or 32-bit floats."""
