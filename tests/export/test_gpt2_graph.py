"""The exported graph of GPT-2: inputs and outputs, weights and attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import GPT2LMHeadModel

from edgeseq.export import export_checkpoint
from edgeseq.runtime.bundle.manifest import Dimensions
from edgeseq.runtime.bundle.reading import Bundle
from edgeseq.runtime.ort.graph_session import open_session
from edgeseq.runtime.ort.memory import Buffer, CpuMemory
from edgeseq.runtime.ort.onnx_decoder import OnnxDecoder
from tests.support.graphs import attributes, dtypes, names_after, nodes_of, shape

PAGE_BYTES = 4096
INT32, INT64, FLOAT = onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
VARIANTS: dict[str, dict[str, Any]] = {
    "untied_head_size_12": {},
    "untied_head_size_16": {"n_embd": 64},
    "tied_head_size_16": {"n_embd": 64, "n_layer": 3, "tie_word_embeddings": True},
    "unscaled_head_size_10": {
        "n_embd": 40,
        "n_layer": 1,
        "scale_attn_weights": False,
        "activation_function": "relu",
    },
    "by_layer_head_size_20": {
        "n_embd": 60,
        "n_head": 3,
        "n_layer": 3,
        "scale_attn_by_inverse_layer_idx": True,
    },
}


@dataclass(frozen=True)
class Exported:
    """A checkpoint's model and the graph of its bundle."""

    reference: GPT2LMHeadModel
    bundle: Bundle
    graph: onnx.GraphProto

    @property
    def sizes(self) -> Dimensions:
        return self.bundle.manifest.dimensions

    @property
    def path(self) -> Path:
        return self.bundle.file(self.bundle.manifest.graphs["decoder"])


@pytest.fixture(scope="module", params=VARIANTS)
def exported(
    request: pytest.FixtureRequest,
    make_checkpoint: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Exported:
    folder = make_checkpoint(**VARIANTS[request.param])
    reference = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
    make_vectors_random(reference)
    reference.save_pretrained(folder)
    bundle = export_checkpoint(folder, tmp_path_factory.mktemp("graph") / "gpt2")
    path = bundle.file(bundle.manifest.graphs["decoder"])
    return Exported(reference, bundle, onnx.load(path, load_external_data=False).graph)


@torch.no_grad()
def make_vectors_random(reference: GPT2LMHeadModel) -> None:
    """Make biases and norms random: they start as 0 and 1, the same in all layers."""
    generator = torch.Generator().manual_seed(0)
    for parameter in reference.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def cache_names(sizes: Dimensions) -> list[str]:
    return [f"{i}.{part}" for i in range(sizes.layers) for part in ("key", "value")]


def places(graph: onnx.GraphProto) -> dict[str, dict[str, str]]:
    """Return each weight's location, offset and length; constants inside the graph have none."""
    return {
        item.name: {entry.key: entry.value for entry in item.external_data}
        for item in graph.initializer
        if item.data_location == onnx.TensorProto.EXTERNAL
    }


# The contract


def test_graph_is_valid_onnx(exported: Exported) -> None:
    onnx.checker.check_model(str(exported.path))


def test_inputs_are_those_of_the_contract(exported: Exported) -> None:
    """No weight is an input."""
    assert dtypes(exported.graph.input) == {
        "input_ids": INT64,
        "position_ids": INT64,
        "seqlens_k": INT32,
        "total_sequence_length": INT32,
        "logits_at": INT64,
        **{f"past_key_values.{name}": FLOAT for name in cache_names(exported.sizes)},
    }


def test_outputs_are_those_of_the_contract(exported: Exported) -> None:
    assert dtypes(exported.graph.output) == {
        "logits": FLOAT,
        **{f"present.{name}": FLOAT for name in cache_names(exported.sizes)},
    }


def test_input_shapes(exported: Exported) -> None:
    shapes = {value.name: shape(value) for value in exported.graph.input}
    rows, n = shapes["input_ids"]
    (m,) = shapes["logits_at"]
    capacity = shapes["past_key_values.0.key"][2]
    symbols = {rows, n, m, capacity}
    assert len(symbols) == 4
    assert all(isinstance(symbol, str) and symbol for symbol in symbols)
    assert shapes["position_ids"] == [rows, n]
    assert shapes["seqlens_k"] == [rows]
    assert shapes["total_sequence_length"] == []
    for name in cache_names(exported.sizes):
        past = [rows, exported.sizes.heads, capacity, exported.sizes.stored_head_size]
        assert shapes[f"past_key_values.{name}"] == past


def test_logits_are_declared_as_m_by_vocabulary(exported: Exported) -> None:
    shapes = {value.name: shape(value) for value in exported.graph.output}
    inputs = {value.name: shape(value) for value in exported.graph.input}
    assert shapes["logits"] == [*inputs["logits_at"], exported.reference.config.vocab_size]


def test_presents_are_declared_like_the_pasts(exported: Exported) -> None:
    pasts = {value.name: shape(value) for value in exported.graph.input}
    presents = {value.name: shape(value) for value in exported.graph.output}
    for name in cache_names(exported.sizes):
        assert presents[f"present.{name}"] == pasts[f"past_key_values.{name}"]


# Attention and cache


def test_each_layer_attends_with_one_node_in_place(exported: Exported) -> None:
    nodes = nodes_of(exported.graph, "GroupQueryAttention")
    assert len(nodes) == exported.reference.config.n_layer
    for layer, node in enumerate(nodes):
        assert node.domain == "com.microsoft"
        assert list(node.input[3:7]) == [
            f"past_key_values.{layer}.key",
            f"past_key_values.{layer}.value",
            "seqlens_k",
            "total_sequence_length",
        ]
        assert list(node.output[1:]) == [f"present.{layer}.key", f"present.{layer}.value"]


def test_nothing_else_touches_the_cache(exported: Exported) -> None:
    """No Concat or other node reads a past or writes a present."""
    cache = {
        f"{prefix}.{name}"
        for prefix in ("past_key_values", "present")
        for name in cache_names(exported.sizes)
    }
    touching = [node for node in exported.graph.node if cache & {*node.input, *node.output}]
    assert {node.op_type for node in touching} == {"GroupQueryAttention"}


def test_scale_is_that_of_the_real_head_size(exported: Exported) -> None:
    config = exported.reference.config
    for layer, node in enumerate(nodes_of(exported.graph, "GroupQueryAttention")):
        scale = 1 / math.sqrt(config.n_embd // config.n_head) if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            scale /= layer + 1
        assert attributes(node)["scale"] == pytest.approx(scale, rel=1e-6)
        assert attributes(node)["num_heads"] == config.n_head
        assert attributes(node)["kv_num_heads"] == config.n_head


def test_heads_are_stored_in_multiples_of_8(exported: Exported) -> None:
    config, sizes = exported.reference.config, exported.sizes
    assert sizes.head_size == config.n_embd // config.n_head
    assert sizes.stored_head_size % 8 == 0
    assert 0 <= sizes.stored_head_size - sizes.head_size < 8


# What is computed


def test_after_the_last_attention_only_the_asked_rows_are_computed(exported: Exported) -> None:
    after = names_after(exported.graph, ["logits_at"])
    products = [node for node in exported.graph.node if node.op_type in {"MatMul", "Gemm"}]
    at_rows = [node for node in products if set(node.input) & after]
    assert len(at_rows) == 4  # attention's output, the two of the MLP, the lm_head
    assert len(products) == 4 * exported.reference.config.n_layer + 1
    assert not after & {f"present.{name}" for name in cache_names(exported.sizes)}


def test_norms_and_activations_are_single_nodes(exported: Exported) -> None:
    config = exported.reference.config
    assert len(nodes_of(exported.graph, "LayerNormalization")) == 2 * config.n_layer + 1
    fused = config.n_layer if config.activation_function == "gelu_new" else 0
    assert len(nodes_of(exported.graph, "FastGelu")) == fused
    left_over = {"ReduceMean", "Pow", "Tanh", "Transpose"}
    assert not left_over & {node.op_type for node in exported.graph.node}


# Weights


def test_weights_lie_in_one_file_outside_the_graph(exported: Exported) -> None:
    bundle = exported.bundle
    assert {entry["location"] for entry in places(exported.graph).values()} == {"weights.bin"}
    inside = [
        item for item in exported.graph.initializer if item.name not in places(exported.graph)
    ]
    assert max(len(onnx.numpy_helper.to_array(item).tobytes()) for item in inside) < 100
    names = {path.name for path in bundle.folder.iterdir()}
    assert names == {"edgeseq.json", "tokenizer.json", "decoder.onnx", "weights.bin"}
    assert set(bundle.manifest.files) == names - {"edgeseq.json"}
    assert not nodes_of(exported.graph, "Constant")


def test_weights_are_in_range_and_aligned(exported: Exported) -> None:
    size_bytes = exported.bundle.file("weights.bin").stat().st_size
    dims = {item.name: item.dims for item in exported.graph.initializer}
    for name, place in places(exported.graph).items():
        offset, length = int(place["offset"]), int(place["length"])
        assert length == 4 * math.prod(dims[name])
        assert 0 <= offset <= offset + length <= size_bytes
        assert offset % (PAGE_BYTES if length >= PAGE_BYTES else 64) == 0


def test_weights_do_not_overlap(exported: Exported) -> None:
    spans = {(int(p["offset"]), int(p["length"])) for p in places(exported.graph).values()}
    ordered = sorted(spans)
    for (offset, length), (following, _) in pairwise(ordered):
        assert offset + length <= following


def embedding_and_lm_head(exported: Exported) -> tuple[dict[str, str], dict[str, str]]:
    """Return the places of the embedding table and of the lm_head."""
    weights = places(exported.graph)
    config = exported.reference.config
    dims = {item.name: tuple(item.dims) for item in exported.graph.initializer}
    gathered = [node.input[0] for node in nodes_of(exported.graph, "Gather")]
    table = (config.vocab_size, config.n_embd)
    (embedding,) = [name for name in gathered if dims.get(name) == table]
    (last,) = [node for node in exported.graph.node if "logits" in node.output]
    (lm_head,) = [name for name in last.input if name in weights]
    return weights[embedding], weights[lm_head]


def test_tied_weights_are_stored_once_and_untied_ones_twice(exported: Exported) -> None:
    embedding, lm_head = embedding_and_lm_head(exported)
    assert (embedding == lm_head) == exported.reference.config.tie_word_embeddings


def test_weights_file_holds_each_parameter_once(exported: Exported) -> None:
    """Its size leaves room for parameters, padding of heads and alignment, but for no copy."""
    sizes, config = exported.sizes, exported.reference.config
    parameters = sum(parameter.numel() for parameter in exported.reference.parameters())
    padding = config.n_head * (sizes.stored_head_size - sizes.head_size)
    parameters += config.n_layer * padding * (4 * config.n_embd + 3)  # q, k, v, output; 3 biases
    lengths = [int(place["length"]) for place in places(exported.graph).values()]
    slack = sum(PAGE_BYTES if length >= PAGE_BYTES else 64 for length in lengths)
    table_bytes = 4 * config.vocab_size * config.n_embd
    size_bytes = exported.bundle.file("weights.bin").stat().st_size
    assert 4 * parameters <= size_bytes < 4 * parameters + slack
    assert slack < table_bytes  # a second copy of the table would be noticed


# Running it


@pytest.fixture
def undefined_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill new cache memory with NaN."""
    allocate = CpuMemory.allocate

    def allocate_undefined(self: CpuMemory, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        buffer = allocate(self, shape, dtype)
        buffer.owner.fill(np.nan)
        return buffer

    monkeypatch.setattr(CpuMemory, "allocate", allocate_undefined)


@torch.no_grad()
def reference_logits(reference: GPT2LMHeadModel, ids: Sequence[int]) -> np.ndarray[Any, Any]:
    logits: np.ndarray[Any, Any] = reference(torch.tensor([list(ids)])).logits[0].numpy()
    return logits


@pytest.mark.usefixtures("undefined_memory")
def test_memory_that_was_not_written_is_not_read(exported: Exported) -> None:
    """Neither after a row's end in a ragged batch nor in the rest of the capacity."""
    session = open_session(exported.path, threads=1)
    decoder = OnnxDecoder(session, exported.bundle.manifest, CpuMemory(), rows=3, capacity=40)
    prompts = [[5, 6, 7, 8, 9], [11], [12, 13, 14]]
    steps = [[20, 21, 22], [23, 24, 25], [26, 27, 28]]
    logits = [decoder.prefill(prompts).copy()]
    logits += [decoder.decode(step).copy() for step in steps]
    for row, prompt in enumerate(prompts):
        ids = prompt + [step[row] for step in steps]
        expected = reference_logits(exported.reference, ids)[len(prompt) - 1 :]
        np.testing.assert_allclose([step[row] for step in logits], expected, atol=1e-4)


def feeds(exported: Exported, ids: np.ndarray[Any, Any], logits_at: list[int]) -> dict[str, Any]:
    """Return the graph's inputs for rows of ``ids`` and an empty cache of their length."""
    rows, n = ids.shape
    cache = (rows, exported.sizes.heads, n, exported.sizes.stored_head_size)
    return {
        "input_ids": ids,
        "position_ids": np.tile(np.arange(n), (rows, 1)),
        "seqlens_k": np.full(rows, n - 1, np.int32),
        "total_sequence_length": np.array(n, np.int32),
        "logits_at": np.array(logits_at, np.int64),
        **{
            f"past_key_values.{name}": np.zeros(cache, np.float32)
            for name in cache_names(exported.sizes)
        },
    }


@pytest.mark.parametrize("logits_at", [[13], [0, 6, 7, 13], [12, 3, 3], list(range(14)), []])
def test_logits_are_given_only_where_asked(exported: Exported, logits_at: list[int]) -> None:
    """At any of the rows * n positions, in any order, several or none of a row."""
    vocabulary = exported.reference.config.vocab_size
    ids = np.random.default_rng(0).integers(vocabulary, size=(2, 7))
    session = open_session(exported.path, threads=1)
    (logits,) = session.run(["logits"], feeds(exported, ids, logits_at))
    expected = np.concatenate([reference_logits(exported.reference, row) for row in ids.tolist()])
    assert logits.shape == (len(logits_at), vocabulary)
    np.testing.assert_allclose(logits, expected[logits_at], atol=1e-4)


def test_padding_of_the_heads_stays_zero_in_the_cache(exported: Exported) -> None:
    session = open_session(exported.path, threads=1)
    names = [f"present.{name}" for name in cache_names(exported.sizes)]
    for present in session.run(names, feeds(exported, np.full((1, 4), 9), [3])):
        real, padding = np.split(present, [exported.sizes.head_size], axis=-1)
        assert np.all(padding == 0)
        assert np.all(np.any(real != 0, axis=-1))
