"""What the quantizer finds in a bundle's graphs: its layers, tables and weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel, T5ForConditionalGeneration

from edgeseq.export import export_checkpoint
from edgeseq.quantize.network import Network
from edgeseq.runtime import BundleError, Model
from edgeseq.runtime.bundle import Bundle, open_bundle


@pytest.fixture(scope="module")
def source(bundle: Path) -> Bundle:
    return open_bundle(bundle)


@pytest.fixture(scope="module")
def gpt2(source: Bundle) -> Network:
    return Network(source, "decoder")


def found(network: Network) -> list[str]:
    return [layer.weight for layer in network.layers.values() if not layer.is_table]


def heads(network: Network) -> list[str]:
    return [layer.weight for layer in network.layers.values() if layer.is_table]


def test_layers_of_gpt2(gpt2: Network) -> None:
    parts = ("attn.qkv", "attn.output", "mlp.input", "mlp.output")
    assert found(gpt2) == [f"h.{layer}.{part}.weight" for layer in range(2) for part in parts]
    assert heads(gpt2) == ["lm_head"]
    assert sorted(gpt2.tables.values()) == ["wpe", "wte"]


def test_tied_head_reads_the_embedding(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tie_word_embeddings=True, n_layer=1)
    network = Network(export_checkpoint(checkpoint, tmp_path / "tied"), "decoder")
    assert heads(network) == ["wte"]
    assert sorted(network.tables.values()) == ["wpe", "wte"]


def test_layers_of_t5(t5_model: Model) -> None:
    encoder, decoder = (Network(t5_model.bundle, role) for role in ("encoder", "decoder"))
    attention = [f"attention.{name}" for name in ("query", "key", "value", "output")]
    blocks = [f"encoder.{i}.{part}" for i in range(2) for part in (*attention, "ff.wi", "ff.wo")]
    cross = [f"decoder.{i}.cross.{name}" for i in range(2) for name in ("key", "value")]
    assert sorted(found(encoder)) == sorted(blocks + cross)  # in any order that runs
    parts = ("attention.qkv", "attention.output", "cross.query", "cross.output", "ff.wi", "ff.wo")
    assert found(decoder) == [f"decoder.{i}.{part}" for i in range(2) for part in parts]
    assert (heads(encoder), heads(decoder)) == ([], ["shared"])
    # The relative positions' biases are read by their columns, and stay as they are.
    assert list(encoder.tables.values()) == list(decoder.tables.values()) == ["shared"]


def test_a_layer_of_one_graph_is_in_no_other(t5_model: Model) -> None:
    """What is rounded is known by its name alone."""
    encoder, decoder = (Network(t5_model.bundle, role) for role in ("encoder", "decoder"))
    assert not {*found(encoder)} & {*found(decoder)}


def test_layers_are_known_by_the_index_of_their_node(gpt2: Network) -> None:
    for i, layer in gpt2.layers.items():
        node = gpt2.graph.node[i]
        assert node.op_type == ("Gemm" if layer.is_table or layer.bias else "MatMul")
        assert list(node.input) == [layer.input, layer.weight, *([layer.bias] * bool(layer.bias))]
    assert {layer.bias for layer in gpt2.layers.values()} == {
        *(f"h.{i}.{name}.bias" for i in range(2) for name in ("attn.qkv", "attn.output")),
        *(f"h.{i}.mlp.output.bias" for i in range(2)),
        "",  # that of mlp.input is FastGelu's, and the lm_head has none
    }
    for i, table in gpt2.tables.items():
        assert gpt2.graph.node[i].op_type == "Gather"
        assert gpt2.graph.node[i].input[0] == table


def test_weights_of_gpt2(gpt2: Network, reference: GPT2LMHeadModel) -> None:
    weights = reference.state_dict()
    for name, array in (
        ("wte", weights["transformer.wte.weight"]),
        ("wpe", weights["transformer.wpe.weight"]),
        ("lm_head", weights["lm_head.weight"]),
        ("h.1.mlp.output.weight", weights["transformer.h.1.mlp.c_proj.weight"]),
    ):
        assert np.array_equal(gpt2.weights[name], array.numpy())
    assert all(isinstance(array, np.memmap) for array in gpt2.weights.values())


def test_weights_of_t5(t5_model: Model, t5_reference: T5ForConditionalGeneration) -> None:
    weights: dict[str, torch.Tensor] = t5_reference.state_dict()
    network = Network(t5_model.bundle, "encoder")
    wo = weights["encoder.block.1.layer.1.DenseReluDense.wo.weight"]
    assert np.array_equal(network.weights["encoder.1.ff.wo"], wo.numpy().T)
    assert np.array_equal(network.weights["shared"], weights["shared.weight"].numpy())


def test_tensors_of_chosen_positions(gpt2: Network) -> None:
    """After the last attention only the positions whose logits are wanted go on."""
    layers = {layer.weight: layer.input in gpt2.chosen for layer in gpt2.layers.values()}
    chosen = {name for name, is_chosen in layers.items() if is_chosen}
    after = ("attn.output", "mlp.input", "mlp.output")
    assert chosen == {"lm_head", *(f"h.1.{part}.weight" for part in after)}
    assert "logits" in gpt2.chosen
    assert "logits_at" not in gpt2.chosen


def test_damaged_graph(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "damaged"))
    graph = folder / "decoder.onnx"
    graph.write_bytes(b"\xff" * graph.stat().st_size)
    with pytest.raises(BundleError) as caught:
        Network(open_bundle(folder), "decoder")
    assert str(caught.value) == f"{graph} is not an ONNX file: export the bundle again."
