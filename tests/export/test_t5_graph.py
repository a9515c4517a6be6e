"""The exported graphs of T5: inputs and outputs, attention and weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
import pytest
from transformers import T5ForConditionalGeneration

from edgeseq.export import export_checkpoint
from edgeseq.runtime.bundle.manifest import Dimensions
from edgeseq.runtime.bundle.reading import Bundle
from tests.support.graphs import attributes, dtypes, names_after, nodes_of, shape

PAGE_BYTES = 4096
MEGABYTE = 1_000_000
INT32, INT64, FLOAT = onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
PRODUCTS = {"MatMul", "Gemm"}
VARIANTS: dict[str, dict[str, Any]] = {
    "tied_head_size_12": {},
    "untied_gated_head_size_10_more_decoder_layers": {
        "d_kv": 10,
        "num_heads": 3,
        "num_layers": 1,
        "num_decoder_layers": 3,
        "tie_word_embeddings": False,
        "feed_forward_proj": "gated-gelu",
    },
    "fewer_decoder_layers_head_size_16": {"d_kv": 16, "num_layers": 3, "num_decoder_layers": 1},
}


@dataclass(frozen=True)
class Exported:
    """A checkpoint's model and the graphs of its bundle."""

    reference: T5ForConditionalGeneration
    bundle: Bundle
    encoder: onnx.GraphProto
    decoder: onnx.GraphProto

    @property
    def sizes(self) -> Dimensions:
        return self.bundle.manifest.dimensions

    @property
    def initializers(self) -> list[onnx.TensorProto]:
        return [*self.encoder.initializer, *self.decoder.initializer]


@pytest.fixture(scope="module", params=VARIANTS)
def exported(
    request: pytest.FixtureRequest,
    seeded_t5: Callable[..., T5ForConditionalGeneration],
    save_t5: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Exported:
    reference = seeded_t5(**VARIANTS[request.param])
    bundle = export_checkpoint(save_t5(reference), tmp_path_factory.mktemp("graph") / "t5")
    encoder, decoder = (
        onnx.load(bundle.file(bundle.manifest.graphs[role]), load_external_data=False).graph
        for role in ("encoder", "decoder")
    )
    return Exported(reference, bundle, encoder, decoder)


def layer_names(prefix: str, sizes: Dimensions) -> list[str]:
    return [f"{prefix}.{i}.{part}" for i in range(sizes.layers) for part in ("key", "value")]


def shapes(values: Any) -> dict[str, list[str | int]]:
    return {value.name: shape(value) for value in values}


def place(graph: onnx.GraphProto, name: str) -> tuple[str, int, int]:
    """Return a weight's location, offset and length."""
    (found,) = [item for item in graph.initializer if item.name == name]
    entries = {entry.key: entry.value for entry in found.external_data}
    return entries["location"], int(entries["offset"]), int(entries["length"])


# The contract


def test_encoder_gives_exactly_the_keys_and_values(exported: Exported) -> None:
    assert dtypes(exported.encoder.input) == {"input_ids": INT64, "source_lengths": INT32}
    names = layer_names("cross", exported.sizes)
    assert dtypes(exported.encoder.output) == dict.fromkeys(names, FLOAT)
    assert [value.name for value in exported.encoder.output] == names
    inputs = shapes(exported.encoder.input)
    batch, source = inputs["input_ids"]
    assert inputs["source_lengths"] == [batch]
    for found in shapes(exported.encoder.output).values():
        assert found == [batch, exported.sizes.heads, source, exported.sizes.head_size]


def test_decoder_takes_and_gives_what_the_contract_says(exported: Exported) -> None:
    """Neither the encoder's hidden states nor a weight is an input."""
    assert dtypes(exported.decoder.input) == {
        "input_ids": INT64,
        "position_ids": INT64,
        "seqlens_k": INT32,
        "total_sequence_length": INT32,
        "logits_at": INT64,
        "source_lengths": INT32,
        **dict.fromkeys(layer_names("cross", exported.sizes), FLOAT),
        **dict.fromkeys(layer_names("past_key_values", exported.sizes), FLOAT),
    }
    assert dtypes(exported.decoder.output) == {
        "logits": FLOAT,
        **dict.fromkeys(layer_names("present", exported.sizes), FLOAT),
    }


def test_sources_and_rows_have_batch_dimensions_of_their_own(exported: Exported) -> None:
    inputs, sizes = shapes(exported.decoder.input), exported.sizes
    rows, n = inputs["input_ids"]
    (batch,) = inputs["source_lengths"]
    source, capacity = inputs["cross.0.key"][2], inputs["past_key_values.0.key"][2]
    assert len({rows, n, batch, source, capacity, *inputs["logits_at"]}) == 6
    for name in layer_names("cross", sizes):
        assert inputs[name] == [batch, sizes.heads, source, sizes.head_size]
    for name in layer_names("past_key_values", sizes):
        assert inputs[name] == [rows, sizes.heads, capacity, sizes.stored_head_size]
    assert shapes(exported.decoder.output)["logits"] == [*inputs["logits_at"], sizes.vocabulary]


def test_sizes_are_the_decoder_s(exported: Exported) -> None:
    config, sizes = exported.reference.config, exported.sizes
    assert sizes.layers == config.num_decoder_layers
    assert (sizes.heads, sizes.head_size) == (config.num_heads, config.d_kv)
    assert sizes.stored_head_size == math.ceil(config.d_kv / 8) * 8
    assert sizes.max_positions is None


# What reads what


def test_only_attention_reads_the_source(exported: Exported) -> None:
    """Keys and values go into the node unchanged."""
    cross = layer_names("cross", exported.sizes)
    reading = [node for node in exported.decoder.node if set(cross) & set(node.input)]
    assert [list(node.input[1:3]) for node in reading] == [
        cross[i : i + 2] for i in range(0, len(cross), 2)
    ]
    assert {node.op_type for node in reading} == {"MultiHeadAttention"}
    derived = names_after(exported.decoder, cross, but={"MultiHeadAttention"})
    products = [node for node in exported.decoder.node if node.op_type in PRODUCTS]
    assert not [node.name for node in products if derived & set(node.input)]


def test_each_product_has_a_weight_of_its_own(exported: Exported) -> None:
    """No product is computed twice; the encoder computes cross-attention's keys and values."""
    nodes = [*exported.encoder.node, *exported.decoder.node]
    weights = [node.input[1] for node in nodes if node.op_type in PRODUCTS]
    assert len(weights) == len(set(weights))
    stored = {item.name for item in exported.initializers if len(item.dims) == 2}
    assert stored - set(weights) <= {"shared", "encoder.bias_table", "decoder.bias_table"}
    assert set(weights) <= stored
    for_decoder = [n for n in weights if n.endswith(("cross.key", "cross.value"))]
    assert len(for_decoder) == 2 * exported.sizes.layers
    assert not {item.name for item in exported.decoder.initializer} & set(for_decoder)


def test_cache_is_appended_to_in_place(exported: Exported) -> None:
    pasts = layer_names("past_key_values", exported.sizes)
    presents = layer_names("present", exported.sizes)
    nodes = nodes_of(exported.decoder, "GroupQueryAttention")
    assert len(nodes) == exported.sizes.layers
    for layer, node in enumerate(nodes):
        assert list(node.input[3:5]) == pasts[2 * layer : 2 * layer + 2]
        assert list(node.output[1:]) == presents[2 * layer : 2 * layer + 2]
    cache = {*pasts, *presents}
    touching = [node for node in exported.decoder.node if cache & {*node.input, *node.output}]
    assert {node.op_type for node in touching} == {"GroupQueryAttention"}


def test_attention_is_unscaled_and_its_bias_is_made_once(exported: Exported) -> None:
    own = nodes_of(exported.decoder, "GroupQueryAttention")
    cross = nodes_of(exported.decoder, "MultiHeadAttention")
    for node in [*own, *cross]:
        assert attributes(node)["scale"] == 1.0
        assert attributes(node)["num_heads"] == exported.reference.config.num_heads
    assert len({node.input[10] for node in own}) == 1


def test_after_the_last_attention_only_the_asked_rows_are_computed(exported: Exported) -> None:
    after = names_after(exported.decoder, ["logits_at"])
    products = [node for node in exported.decoder.node if node.op_type in PRODUCTS]
    feed_forward = 3 if exported.reference.config.is_gated_act else 2
    at_rows = [node for node in products if set(node.input) & after]
    assert len(at_rows) == 1 + feed_forward + 1  # the cross-attention's output ... the lm_head
    assert not after & set(layer_names("present", exported.sizes))


# Weights


def test_embeddings_are_stored_once_for_both_graphs(exported: Exported) -> None:
    config = exported.reference.config
    shared = place(exported.decoder, "shared")
    assert place(exported.encoder, "shared") == shared
    assert shared[2] == 4 * config.vocab_size * config.d_model
    tables = [item.name for item in exported.decoder.initializer if config.vocab_size in item.dims]
    assert sorted(tables) == ["shared"] if config.tie_word_embeddings else ["lm_head", "shared"]
    (last,) = [node for node in exported.decoder.node if "logits" in node.output]
    assert last.input[1] == ("shared" if config.tie_word_embeddings else "lm_head")


def test_weights_lie_in_one_file_and_do_not_overlap(exported: Exported) -> None:
    graphs = (exported.encoder, exported.decoder)
    places = {
        place(graph, item.name)
        for graph in graphs
        for item in graph.initializer
        if item.data_location == onnx.TensorProto.EXTERNAL
    }
    assert {location for location, _, _ in places} == {"weights.bin"}
    spans = sorted((offset, length) for _, offset, length in places)
    assert all(a + length <= b for (a, length), (b, _) in pairwise(spans))
    assert all(offset % (PAGE_BYTES if n >= PAGE_BYTES else 64) == 0 for offset, n in spans)
    assert sum(spans[-1]) <= exported.bundle.file("weights.bin").stat().st_size


def test_bundle_holds_each_parameter_once(exported: Exported) -> None:
    """The size leaves room for parameters, padding of heads, wider bias tables and alignment, but
    for no copy of an embedding.
    """
    config, sizes, folder = exported.reference.config, exported.sizes, exported.bundle.folder
    parameters = sum(parameter.numel() for parameter in exported.reference.parameters())
    weights_bytes = exported.bundle.file("weights.bin").stat().st_size
    tokenizer_bytes = exported.bundle.file("tokenizer.json").stat().st_size
    bundle_bytes = sum(path.stat().st_size for path in folder.iterdir())
    assert bundle_bytes <= 4 * parameters + tokenizer_bytes + MEGABYTE

    padding = config.num_heads * (sizes.stored_head_size - sizes.head_size)
    parameters += config.num_decoder_layers * padding * 4 * config.d_model
    reach = config.relative_attention_max_distance
    buckets = config.relative_attention_num_buckets
    parameters += config.num_heads * (2 * reach + 1 + reach + 1 - 2 * buckets)
    lengths = [4 * math.prod(item.dims) for item in exported.initializers]
    slack = sum(PAGE_BYTES if length >= PAGE_BYTES else 64 for length in lengths)
    assert weights_bytes < 4 * parameters + slack
    others = bundle_bytes - weights_bytes - tokenizer_bytes
    assert others < 100_000
