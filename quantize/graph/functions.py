"""Products with quantized weights as ONNX functions, made of ONNX Runtime's own operators.

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
}
"""The functions by name, in ONNX's text form. MatMulNBits' accuracy level 4 means that activations
are rounded to 8-bit integers. The scales of blocks are 16-bit or 32-bit floats."""
