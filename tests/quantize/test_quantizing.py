"""``quantize_bundle``: every recipe on models of both families, and the manifest."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeseq.quantize import quantize_bundle, weight_storages
from edgeseq.quantize.graph.network import Network
from edgeseq.quantize.recipes import find_recipe
from edgeseq.quantize.rounding import round_weight
from edgeseq.quantize.texts import find_texts
from edgeseq.runtime import load
from edgeseq.runtime.bundle.manifest import CARD_NAME, ROLES, Quality
from edgeseq.runtime.bundle.reading import Bundle, open_bundle
from edgeseq.runtime.bundle.writing import BundleWriter
from edgeseq.runtime.evaluation.losses import compare

FOX = "Once upon a time there was a clever fox; he said: let us go home! "
SOURCES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt2-tied": {"n_embd": 100, "n_layer": 1, "tie_word_embeddings": True},
    "t5": {},
    "t5-untied": {
        "d_model": 50,
        "num_layers": 1,
        "tie_word_embeddings": False,
        "feed_forward_proj": "gated-gelu",
    },
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A text for GPT-2 and pairs for T5, by the first letters of the model's name."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "fox.txt").write_text(FOX * 25, encoding="utf-8")
    pairs = [f"{FOX}{number}\t{FOX[number:40]}" for number in range(12)]
    (folder / "fox.tsv").write_text("\n".join(pairs), encoding="utf-8")
    return {"gp": folder / "fox.txt", "t5": folder / "fox.tsv"}


@pytest.fixture(scope="module")
def source(
    make_checkpoint: Callable[..., Path],
    seeded_t5: Callable[..., Any],
    save_t5: Callable[..., Path],
    export_once: Callable[[Path], Bundle],
) -> Callable[[str], Bundle]:
    @functools.cache
    def make(name: str) -> Bundle:
        changes = SOURCES[name]
        gpt2 = name.startswith("gpt2")
        return export_once(make_checkpoint(**changes) if gpt2 else save_t5(seeded_t5(**changes)))

    return make


Quantize = Callable[..., Bundle]


@pytest.fixture(scope="module")
def quantized(
    source: Callable[[str], Bundle], texts: dict[str, Path], quantize_once: Quantize
) -> Quantize:
    """``quantized(name, recipe)``: made once, and not to be changed."""

    def make(name: str, recipe: str) -> Bundle:
        text = texts[name[:2]]
        return quantize_once(source(name).folder, recipe, text=text, perplexity_rise_limit=10.0)

    return make


INTEGERS = ("int8", "int4", "int8-weights")  # fp16: test_float16_cache.py
matrix = pytest.mark.parametrize(
    ("name", "recipe"), [(name, recipe) for name in SOURCES for recipe in INTEGERS]
)


def quality(bundle: Bundle) -> Quality:
    found = bundle.manifest.quantization.quality
    assert found is not None
    return found


def answer(bundle: Bundle, **options: Any) -> tuple[int, ...]:
    prompts = [[5, 6, 7, 8], [9]]
    model = load(bundle.folder, threads=1, **options)
    results = model.generate_ids(prompts, max_new_tokens=12, do_sample=False)
    assert all(result.token_ids for result in results)
    return sum((result.token_ids for result in results), ())


@matrix
def test_bundles_generate(name: str, recipe: str, quantized: Quantize) -> None:
    """With either cache; without an option, with the manifest's."""
    bundle = quantized(name, recipe)
    answers = {dtype: answer(bundle, kv_cache=dtype) for dtype in ("float32", "int8")}
    assert answer(bundle) == answers[bundle.manifest.kv_cache.dtype]


@matrix
def test_the_manifest_of_a_bundle(
    name: str, recipe: str, quantized: Quantize, source: Callable[[str], Bundle]
) -> None:
    bundle, original = quantized(name, recipe), source(name)
    assert open_bundle(bundle.folder, verify=True).manifest == bundle.manifest
    files = {path.name for path in bundle.folder.iterdir()}
    new = {"decoder_int8_cache.onnx"}
    if recipe != "int8":  # CUDA has no kernels for products of integers
        new.add("decoder_float16_cache.onnx")
    assert files == {path.name for path in original.folder.iterdir()} | new
    manifest = bundle.manifest
    assert manifest.graphs == {
        **original.manifest.graphs,
        **{name.removesuffix(".onnx"): name for name in new},
    }
    assert manifest.quantization.recipe == recipe
    assert manifest.quantization.block_size == find_recipe(recipe).block_size
    assert manifest.quantization.kept == {}
    assert manifest.kv_cache.dtype == find_recipe(recipe).kv_cache
    assert manifest.shared_weights == {}  # there is no table in float32 to share
    assert manifest.source == original.manifest.source
    assert manifest.dimensions == original.manifest.dimensions
    assert manifest.generation == original.manifest.generation
    assert {"edgeseq", "onnx"} <= manifest.producers.keys()


@matrix
def test_the_report_is_what_is_measured(
    name: str,
    recipe: str,
    quantized: Quantize,
    source: Callable[[str], Bundle],
    texts: dict[str, Path],
) -> None:
    bundle, original = quantized(name, recipe), load(source(name).folder)
    text = find_texts(original.bundle, texts[name[:2]])
    measured = compare(original.new_decoder, load(bundle.folder).new_decoder, text.judged)
    found = quality(bundle)
    assert found.text == texts[name[:2]].name
    assert found.tokens == measured.candidate.tokens
    assert found.context_tokens == (96 if name.startswith("gpt2") else None)
    assert found.kv_cache == bundle.manifest.kv_cache.dtype
    assert found.perplexity_rise_limit == 10.0
    assert found.source_cross_entropy == pytest.approx(measured.reference.cross_entropy, rel=1e-6)
    assert found.cross_entropy == pytest.approx(measured.candidate.cross_entropy, rel=1e-6)
    assert found.perplexity_rise == pytest.approx(measured.perplexity_rise, abs=1e-6)
    assert found.kl_divergence == pytest.approx(measured.kl_divergence, rel=1e-4)
    assert found.top1_agreement == pytest.approx(measured.top1_agreement, abs=1e-6)
    nearest, least = (1.0, 0.2) if recipe == "int4" else (0.05, 0.6)
    assert found.kl_divergence < nearest
    assert found.top1_agreement > least


# What is stored


def tensors(bundle: Bundle) -> dict[str, onnx.TensorProto]:
    graphs = {*bundle.manifest.graphs.values()}
    return {
        f"{graph} {tensor.name}": tensor
        for graph in graphs
        for tensor in onnx.load(bundle.file(graph), load_external_data=False).graph.initializer
    }


def place(tensor: onnx.TensorProto) -> tuple[int, int]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return int(entries["offset"]), int(entries["length"])


@matrix
def test_no_matrix_is_left_in_float32(name: str, recipe: str, quantized: Quantize) -> None:
    """Only scales and T5's relative position biases are in float32."""
    for tensor_name, tensor in tensors(quantized(name, recipe)).items():
        if tensor.data_type == onnx.TensorProto.FLOAT and "bias_table" not in tensor_name:
            assert len(tensor.dims) < 2 or tensor_name.endswith("scales"), tensor_name


@matrix
def test_a_tied_table_is_stored_once(name: str, recipe: str, quantized: Quantize) -> None:
    bundle = quantized(name, recipe)
    found = tensors(bundle)
    table = "wte" if name.startswith("gpt2") else "shared"
    head = "lm_head" if name in ("gpt2", "t5-untied") else table
    codes = f"int{find_recipe(recipe).table.bits}"
    read = {place(t) for n, t in found.items() if n.endswith(f" {table}.rows")}
    head_at = {place(t) for n, t in found.items() if n.endswith(f" {head}.{codes}")}
    assert len(read) == len(head_at) == 1  # the same in all graphs
    assert (read == head_at) == (head == table)
    places = {place(tensor) for tensor in found.values() if tensor.external_data}
    size = bundle.manifest.files["weights.bin"].size_bytes
    assert sum(length for _, length in places) <= size
    assert size <= sum(length + 4096 for _, length in places)


@matrix
def test_embeddings_are_rounded_plainly(
    name: str, recipe: str, quantized: Quantize, source: Callable[[str], Bundle]
) -> None:
    form = find_recipe(recipe).table
    table = "wte" if name.startswith("gpt2") else "shared"
    weight = np.array(Network(source(name), "decoder").weights[table])
    network = Network(quantized(name, recipe), "decoder")
    codes = network.weights[f"{table}.rows"].astype(np.int16)
    if form.bits == 4:  # two a byte, the first in the lower half
        codes = np.stack([codes & 15, codes >> 4], axis=2).reshape(len(codes), -1)
    row_scales = np.asarray(network.weights[f"{table}.row_scales"], np.float32)
    scales = np.repeat(row_scales, form.block_size, axis=1)
    found = ((codes - (1 << (form.bits - 1))) * scales)[:, : weight.shape[1]]
    expected = round_weight(weight.T, bits=form.bits, group_size=form.block_size, half_scales=True)
    assert np.array_equal(found, expected.weight().T)


def test_int8_stores_weights_of_seven_bits(quantized: Quantize) -> None:
    """CPUs without VNNI add two products in 16 bits."""
    for name in SOURCES:
        kind = quantized(name, "int8").manifest.kind
        for role in ROLES[kind]:
            network = Network(quantized(name, "int8"), role)
            if (kind, role) == ("encoder-decoder", "decoder"):  # in blocks
                assert all(array.dtype != np.int8 for array in network.weights.values())
                continue
            by_rows = [array for array in network.weights.values() if array.dtype == np.int8]
            assert len(by_rows) >= 4
            assert min(map(np.min, by_rows)) >= -64
            assert max(map(np.max, by_rows)) <= 63


@pytest.mark.parametrize("name", SOURCES)
def test_fewer_bits_are_fewer_bytes(
    name: str, quantized: Quantize, source: Callable[[str], Bundle]
) -> None:
    sizes = {
        recipe: (
            bundle.manifest.files["weights.bin"].size_bytes,
            bundle.manifest.weights_per_token_bytes,
        )
        for recipe, bundle in (
            ("fp32", source(name)),
            *((recipe, quantized(name, recipe)) for recipe in INTEGERS),
        )
    }
    for i in range(2):
        assert sizes["int4"][i] < sizes["int8"][i] < 0.45 * sizes["fp32"][i]
        assert sizes["int4"][i] < sizes["int8-weights"][i] < 0.45 * sizes["fp32"][i]


def test_bytes_that_a_step_reads(quantized: Quantize) -> None:
    layers = [(100, 3 * 128), (128, 100), (100, 400), (400, 100)]  # heads are padded to 32
    codes = sum(inputs * outputs for inputs, outputs in layers)
    columns = 2 * 4 * sum(outputs for _, outputs in layers)  # scales and biases
    head = 320 * (128 + 2 * 2)  # two blocks of 64, each with a scale
    norms = 4 * 3 * 2 * 100
    found = quantized("gpt2-tied", "int8").manifest.weights_per_token_bytes
    assert found == pytest.approx(codes + columns + head + norms, abs=200)  # and some constants


@pytest.mark.parametrize("recipe", INTEGERS)
def test_an_lm_head_in_parts_gives_the_same_logits(
    recipe: str,
    bundle: Path,
    texts: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def quantize(name: str) -> Bundle:
        options = {"recipe": recipe, "text": texts["gp"], "allow_loss": True}
        return quantize_bundle(bundle, tmp_path / name, **options)

    whole = quantize("whole")
    monkeypatch.setattr(weight_storages, "LARGEST_PART_BYTES", 1)
    parts = quantize("parts")
    outputs = [
        {a.name: a.i for a in node.attribute}["N"]
        for node in onnx.load(parts.file("decoder.onnx"), load_external_data=False).graph.node
        if node.op_type.startswith("BlockLinear") and ".to_" in node.output[0]
    ]
    assert len(outputs) > 1
    assert parts.file("weights.bin").read_bytes() == whole.file("weights.bin").read_bytes()
    scores = [load(b.folder).score(FOX).log_probabilities for b in (whole, parts)]
    assert scores[0] == scores[1]


def test_a_model_card_stays_and_says_what_was_lost(
    source: Callable[[str], Bundle], texts: dict[str, Path], tmp_path: Path
) -> None:
    original = source("gpt2")
    with BundleWriter(tmp_path / "carded") as writer:
        for name in original.manifest.files:
            shutil.copyfile(original.file(name), writer.folder / name)
        (writer.folder / CARD_NAME).write_text("# My model\n", encoding="utf-8")
        writer.commit(original.manifest)
    made = quantize_bundle(tmp_path / "carded", tmp_path / "int8", text=texts["gp"], threads=1)
    assert CARD_NAME in open_bundle(made.folder, verify=True).manifest.files
    card = made.file(CARD_NAME).read_text(encoding="utf-8")
    assert card.startswith("# My model\n\n## Quantized later\n")
    assert "`int8`" in card
    assert "`fox.txt`" in card
