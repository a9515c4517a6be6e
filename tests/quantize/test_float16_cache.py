"""16-bit floats: the recipe fp16, and the decoder's graph that CUDA runs, on the CPU's kernels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edgeseq.runtime import DeviceError, Model, load
from edgeseq.runtime.bundle.reading import Bundle
from edgeseq.runtime.ort.devices import parse_device
from edgeseq.runtime.ort.engine import default_cache
from edgeseq.runtime.ort.providers import OF_POSITIONS

RECIPES = ("fp16", "int8-weights", "int4")
# What ONNX Runtime's CUDA provider has kernels for (its sources, 1.28 to 1.32), of what is used.
CUDA_OPERATORS = {
    *(
        "Add",
        "Cast",
        "Identity",
        "ReduceMax",
        "Concat",
        "Expand",
        "Gather",
        "Gemm",
        "LayerNormalization",
        "LessOrEqual",
    ),
    *("Loop", "MatMul", "Max", "Min", "Mul", "Neg", "Pow", "Range", "ReduceMean", "Relu"),
    *("Reshape", "ScatterElements", "Shape", "Slice", "Softmax", "Split", "Sqrt", "Squeeze"),
    *("Sub", "Tile", "Transpose", "Unsqueeze", "Where", "Div", "Equal", "Greater", "Less"),
    *("Clip", "Pad", "Sigmoid", "Tanh", "Gelu", "FastGelu", "GroupQueryAttention"),
    *("MultiHeadAttention", "MatMulNBits", "QuickGelu", "BiasGelu"),
    # Functions that call MatMulNBits and GatherBlockQuantized.
    *("BlockLinear4", "BlockLinear8", "BlockLookup"),
    *("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", "SkipLayerNormalization"),
}
QUERIES, PAST_KEY, BIAS = 0, 3, 10


@pytest.fixture(scope="module", params=["gpt2", "t5"])
def source(
    request: pytest.FixtureRequest,
    checkpoint: Path,
    t5_checkpoint: Path,
    export_once: Callable[[Path], Bundle],
) -> Bundle:
    return export_once({"gpt2": checkpoint, "t5": t5_checkpoint}[request.param])


@pytest.fixture(scope="module")
def quantized(source: Bundle, quantize_once: Callable[..., Bundle]) -> Callable[[str], Bundle]:
    """``quantized(recipe)``: the source, quantized once."""
    return lambda recipe: quantize_once(source.folder, recipe, allow_loss=True)


def graph(bundle: Bundle, role: str) -> onnx.GraphProto:
    path = bundle.file(bundle.manifest.graphs[role])
    return onnx.load(path, load_external_data=False).graph


def logits(model: Model, rows: int, chunks: list[int]) -> np.ndarray[Any, Any]:
    """Return the logits after a padded prompt, or one in chunks, and after single tokens."""
    prompts = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14][: 10 - 3 * row] for row in range(rows)]
    sources = prompts
    is_t5 = model.bundle.manifest.kind == "encoder-decoder"
    starts = [[0, *prompt[:6]] for prompt in prompts] if is_t5 else prompts
    decoder = model.new_decoder(sources if is_t5 else starts, 40)
    if chunks:
        [start] = starts
        found = [decoder.prefill([start[: chunks[0]]]).copy()]
        for begin, end in zip(chunks, [*chunks[1:], len(start)], strict=True):
            found.append(decoder.read(start[begin:end])[-1:].copy())
    else:
        found = [decoder.prefill(starts).copy()]
    for token in (20, 21, 22):
        found.append(decoder.decode([token + row for row in range(rows)]).copy())
    return np.concatenate(found)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("rows", "chunks"), [(1, []), (3, []), (1, [3, 5])])
def test_a_16_bit_cache_is_near_one_of_32(
    recipe: str, rows: int, chunks: list[int], quantized: Callable[[str], Bundle]
) -> None:
    """For ragged prompts, prompts in chunks and single tokens."""
    folder = quantized(recipe).folder
    exact = logits(load(folder, kv_cache="float32", threads=1), rows, chunks)
    found = logits(load(folder, kv_cache="float16", threads=1), rows, chunks)
    # A rounded activation behind the cache may fall to the other side.
    limit = 0.003 if recipe == "fp16" else 0.05
    assert np.abs(found - exact).max() < limit * np.abs(exact).max()
    assert np.abs(found - exact).max() > 0


def test_fp16_is_near_float32(source: Bundle, quantized: Callable[[str], Bundle]) -> None:
    exact = logits(load(source.folder, threads=1), 3, [])
    for cache in ("float32", "float16"):
        found = logits(load(quantized("fp16").folder, kv_cache=cache, threads=1), 3, [])
        assert np.abs(found - exact).max() < 0.005 * np.abs(exact).max()


@pytest.mark.parametrize(
    "options", [{"do_sample": False}, {"num_beams": 4}], ids=["greedy", "beams"]
)
def test_texts_where_the_cache_is_updated_in_place(
    options: dict[str, Any], source: Bundle, quantized: Callable[[str], Bundle]
) -> None:
    """Rows are copied, dropped and appended to; few texts differ from float32's."""
    prompts = [[5 + i, 6, 7 + i, 8][: 2 + i % 3] for i in range(8)]
    given: dict[str, Any] = {"max_new_tokens": 12, "eos_token_id": None, **options}
    expected = load(source.folder, threads=1).generate_ids(prompts, **given)
    model = load(quantized("fp16").folder, kv_cache="float16", threads=1)
    found = model.generate_ids(prompts, **given)
    same = [a.token_ids == b.token_ids for a, b in zip(found, expected, strict=True)]
    assert sum(same) >= 6


# What CUDA's kernels take


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_the_graph_for_cuda_is_made_of(
    recipe: str, quantized: Callable[[str], Bundle]
) -> None:
    bundle = quantized(recipe)
    found = graph(bundle, "decoder_float16_cache")
    operators = {node.op_type for node in found.node}
    assert operators <= CUDA_OPERATORS
    if "encoder" in bundle.manifest.graphs:
        encoder = graph(bundle, "encoder")
        bodies = [a.g for node in encoder.node for a in node.attribute if a.HasField("g")]
        for part in (encoder, *bodies):
            assert {node.op_type for node in part.node} <= CUDA_OPERATORS
    made_by = {name: node for node in found.node for name in node.output}
    types = {v.name: v.type.tensor_type.elem_type for v in (*found.input, *found.output)}
    for node in found.node:
        if node.op_type != "GroupQueryAttention":
            continue
        assert len(node.input) <= BIAS or not node.input[BIAS]
        queries = made_by[node.input[QUERIES]]
        assert (queries.op_type, queries.attribute[0].i) == ("Cast", TensorProto.FLOAT16)
        assert types[node.input[PAST_KEY]] == TensorProto.FLOAT16
        assert not {a.name for a in node.attribute} & {"k_quant_type", "kv_cache_bit_width"}
    caches = {t for name, t in types.items() if name.startswith(("past_", "present."))}
    assert caches == {TensorProto.FLOAT16}


@pytest.mark.parametrize("recipe", RECIPES)
def test_tables_have_their_zero_points(recipe: str, quantized: Callable[[str], Bundle]) -> None:
    """CUDA's kernel had another default than the CPU's."""
    bundle = quantized(recipe)
    for role in {"decoder_float16_cache", "encoder"} & bundle.manifest.graphs.keys():
        found = graph(bundle, role)
        tables = [node for node in found.node if node.op_type == "BlockLookup"]
        assert bool(tables) == (recipe != "fp16")
        weights = {tensor.name: tensor for tensor in found.initializer}
        for node in tables:
            bits = {a.name: a.i for a in node.attribute}["bits"]
            zeros = onnx.numpy_helper.to_array(weights[node.input[3]])
            rows, blocks = weights[node.input[2]].dims
            assert zeros.shape == (rows, -(-blocks * bits // 8))
            assert {*zeros.flat} == {0x80 if bits == 8 else 0x88}


@pytest.mark.parametrize("recipe", RECIPES)
def test_nodes_of_shapes_and_positions_are_named_as_such(
    recipe: str, quantized: Callable[[str], Bundle]
) -> None:
    """All other nodes run on the device: products, norms, residuals, attention."""
    bundle = quantized(recipe)
    of_shapes = {"Shape", "Range", "Sub", "Max", "LessOrEqual", "Less", "ReduceMax", "Clip"}
    for role in {"decoder_float16_cache", "encoder"} & bundle.manifest.graphs.keys():
        found = graph(bundle, role)
        others = [node for node in found.node if not node.name.startswith(OF_POSITIONS)]
        assert not {node.op_type for node in others} & of_shapes
        if role != "encoder":  # whose residuals are in its norms
            assert "Add" in {node.op_type for node in others}
        made = {name for node in others for name in node.output}
        floats = {
            "MatMul",
            "BlockLinear4",
            "BlockLinear8",
            "Gemm",
            "Softmax",
            "LayerNormalization",
            "Loop",
        }
        floats |= {"SimplifiedLayerNormalization", "MultiHeadAttention", "GroupQueryAttention"}
        for node in found.node:
            if node.op_type in floats or any(name in made for name in node.output):
                assert not node.name.startswith(OF_POSITIONS)
        names = [node.name for node in found.node if node.name]
        assert len({*names}) == len(names)


def test_products_of_fp16(source: Bundle, quantized: Callable[[str], Bundle]) -> None:
    """All products are in 16 bits, except T5's layer with the largest activations."""
    for role in ("encoder", "decoder"):
        if role not in source.manifest.graphs:
            continue
        found = graph(quantized("fp16"), role)
        matrices = {t.name: t.data_type for t in found.initializer if len(t.dims) == 2}
        full = {name for name, kind in matrices.items() if kind == TensorProto.FLOAT}
        assert all(name.endswith((".ff.wo", "bias_table")) for name in full), full
        assert any(name.endswith(".ff.wo") for name in full) == (
            "encoder" in source.manifest.graphs
        )
        assert any(kind == TensorProto.FLOAT16 for kind in matrices.values())
    size = quantized("fp16").file("weights.bin").stat().st_size
    assert size < 0.75 * source.file("weights.bin").stat().st_size


def test_which_graph_a_device_takes(source: Bundle, quantized: Callable[[str], Bundle]) -> None:
    cuda, cpu = parse_device("cuda"), parse_device("cpu")
    assert default_cache(quantized("fp16").manifest, cuda) == "float16"
    assert default_cache(quantized("int4").manifest, cuda) == "float16"
    found = quantized("int4").manifest
    assert default_cache(found, cpu) == found.kv_cache.dtype != "float16"
    with pytest.raises(DeviceError, match="--recipe fp16"):
        default_cache(source.manifest, cuda)


def test_int8_has_none_for_cuda(quantized: Callable[[str], Bundle]) -> None:
    bundle = quantized("int8")
    assert "decoder_float16_cache" not in bundle.manifest.graphs
    assert not (bundle.folder / "decoder_float16_cache.onnx").exists()
