"""The options of ``quantize_bundle``: their effects, and the errors for bad ones."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import GPT2LMHeadModel

from edgeseq.export import export_checkpoint
from edgeseq.quantize import QuantizationError, quantize_bundle, quantizing
from edgeseq.quantize.graph.functions import FUNCTIONS
from edgeseq.quantize.recipes import find_recipe
from edgeseq.quantize.texts import Texts
from edgeseq.quantize.weight_storages import BLOCK_SIZES
from edgeseq.runtime import BundleError, EdgeseqError, Model, OptionError, PromptError, load
from edgeseq.runtime.bundle.reading import Bundle
from edgeseq.runtime.request.passages import Window
from tests.support.errors import CODE, refusal
from tests.support.graphs import attributes

FOX = "Once upon a time there was a clever fox; he said: let us go home! "
LAYERS = [
    f"h.{layer}.{part}.weight"
    for layer in range(2)
    for part in ("attn.qkv", "attn.output", "mlp.input", "mlp.output")
]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "fox.txt"
    path.write_text(FOX * 12, encoding="utf-8")
    return path


@pytest.fixture
def quantize(bundle: Path, text: Path, tmp_path: Path) -> Callable[..., Bundle]:
    """``quantize(**options)``: quantize ``bundle`` with a high limit of the loss."""

    def run(**options: Any) -> Bundle:
        limit = {"perplexity_rise_limit": 10.0}
        return quantize_bundle(bundle, tmp_path / "out", **{"text": text, **limit, **options})

    return run


def nodes(bundle: Bundle, role: str = "decoder") -> dict[str, onnx.NodeProto]:
    """Return the nodes that multiply, by the name of the weight without its ending."""
    graph = onnx.load(bundle.file(bundle.manifest.graphs[role]), load_external_data=False).graph
    kinds = ("MatMul", "Gemm", *FUNCTIONS)
    return {
        node.input[1].removesuffix(".int8").removesuffix(".int4"): node
        for node in graph.node
        if node.op_type in kinds
    }


# What options change


@pytest.mark.parametrize(
    ("recipe", "bits", "size"),
    [*(("int4", 4, size) for size in BLOCK_SIZES), ("int8-weights", 8, 32)],
)
def test_block_size(recipe: str, bits: int, size: int, quantize: Callable[..., Bundle]) -> None:
    bundle = quantize(recipe=recipe, block_size=size)
    assert bundle.manifest.quantization.block_size == size
    found = {name: attributes(node) for name, node in nodes(bundle).items()}
    for name in LAYERS:
        assert (found[name]["bits"], found[name]["block_size"]) == (bits, size)
    table = find_recipe(recipe).table
    found_table = found["lm_head"]["bits"], found["lm_head"]["block_size"]
    assert found_table == (table.bits, table.block_size)
    assert load(bundle.folder, threads=1).generate("Once", max_new_tokens=3)[0].token_ids


def test_smaller_blocks_are_nearer(quantize: Callable[..., Bundle]) -> None:
    small, large = (
        quantize(recipe="int4", block_size=size, overwrite=True).manifest.quantization.quality
        for size in (32, 256)
    )
    assert small is not None
    assert large is not None
    assert small.kl_divergence < large.kl_divergence


@pytest.mark.parametrize(
    ("recipe", "storage", "operators"),
    [
        ("int8", "int8 in blocks of 32", {"BlockLinear8"}),
        ("int4", "int8 in blocks of 64", {"BlockLinear8"}),
        ("int8-weights", "float32", {"MatMul", "Gemm"}),
    ],
)
def test_layers_that_are_kept(
    recipe: str, storage: str, operators: set[str], quantize: Callable[..., Bundle]
) -> None:
    keep = [LAYERS[6], LAYERS[1]]
    bundle = quantize(recipe=recipe, keep=keep)
    assert bundle.manifest.quantization.kept == dict.fromkeys(sorted(keep), storage)
    found = nodes(bundle)
    assert {found[name].op_type for name in keep} <= operators
    if operators == {"BlockLinear8"}:
        assert {attributes(found[name])["bits"] for name in keep} == {8}
    others = {found[name].op_type for name in LAYERS if name not in keep}
    expected = {
        "int8": {"RowLinear", "BiasedRowLinear"},
        "int4": {"BlockLinear4"},
        "int8-weights": {"BlockLinear8"},
    }
    assert others <= expected[recipe]
    assert load(bundle.folder, threads=1).generate("Once", max_new_tokens=3)[0].token_ids


@pytest.mark.parametrize("recipe", ["int8", "int4"])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_cache_type_can_be_chosen(
    recipe: str, dtype: str, quantize: Callable[..., Bundle]
) -> None:
    manifest = quantize(recipe=recipe, kv_cache=dtype).manifest
    assert manifest.kv_cache.dtype == dtype
    assert manifest.quantization.quality is not None
    assert manifest.quantization.quality.kv_cache == dtype


def test_a_float_bundle_has_no_int8_cache(bundle: Path) -> None:
    assert refusal(OptionError, lambda: load(bundle, kv_cache="int8"), ending=CODE) == (
        "kv_cache is 'int8', but the bundle has no graph for it: use 'float32', or make a bundle "
        "that has one with `edgeseq quantize`."
    )


def test_out_may_be_the_bundle_itself(bundle: Path, text: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    quantize_bundle(copy, copy, text=text, perplexity_rise_limit=10.0, overwrite=True)
    assert load(copy, verify=True).bundle.manifest.quantization.recipe == "int8"
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_progress_is_told(quantize: Callable[..., Bundle]) -> None:
    told: list[str] = []
    bundle = quantize(progress=told.append)
    assert any(re.match(r"perplexity [+-]\d", message) for message in told)
    assert told[-1] == f"wrote {bundle.folder}"


def test_layers_are_kept_by_a_pattern(quantize: Callable[..., Bundle]) -> None:
    kept = quantize(keep=["*.mlp.*", "h.0.attn.qkv.weight"]).manifest.quantization.kept
    assert {*kept} == {name for name in LAYERS if ".mlp." in name} | {"h.0.attn.qkv.weight"}


# What is refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"recipe": "int3"}, OptionError, "There is no recipe 'int3'"),
        ({"recipe": "int4", "block_size": 48}, OptionError, "The block size is 48"),
        ({"block_size": 32}, OptionError, "no effect with the recipe 'int8'"),
        (
            {"keep": ["h.9.x"]},
            OptionError,
            f"'h.9.x' to keep: use names or patterns of {LAYERS[0]}, ",
        ),
        ({"keep": "h.9.x"}, OptionError, "no layer 'h.9.x'"),
        ({"keep": [5]}, OptionError, "no layer 5 to keep"),
        ({"recipe": "int4", "block_size": 32.0}, OptionError, "The block size is 32.0"),
        ({"perplexity_rise_limit": "1"}, OptionError, "perplexity_rise_limit is '1'"),
        ({"kv_cache": "float16"}, OptionError, "kv_cache is 'float16'; it must be 'float32' or"),
        ({"perplexity_rise_limit": -0.1}, OptionError, "perplexity_rise_limit is -0.1; it must be"),
        ({"perplexity_rise_limit": math.nan}, OptionError, "perplexity_rise_limit is nan"),
        ({"perplexity_rise_limit": math.inf}, OptionError, "perplexity_rise_limit is inf"),
        ({"text": "no such file"}, PromptError, "There is no file no such file"),
    ],
    ids=str,
)
def test_wrong_options(
    options: dict[str, Any],
    error: type[EdgeseqError],
    message: str,
    quantize: Callable[..., Bundle],
    tmp_path: Path,
) -> None:
    assert message in refusal(error, lambda: quantize(**options))
    assert list(tmp_path.iterdir()) == []


def test_quantized_already(quantize: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = quantize()
    assert refusal(BundleError, lambda: quantize_bundle(bundle.folder, tmp_path / "twice")) == (
        f"{bundle.folder} is already quantized (int8): pass the float32 bundle."
    )
    assert not (tmp_path / "twice").exists()


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="There is no folder"):
        quantize_bundle(tmp_path / "nothing", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# The gate, on a model with one layer that cannot be rounded


@torch.no_grad()
def break_a_layer(checkpoint: Path, dead: slice) -> None:
    """Make the last layer's weights small beside those of ``dead`` inputs, which stay zero."""
    model = GPT2LMHeadModel.from_pretrained(checkpoint)
    mlp = model.transformer.h[1].mlp
    mlp.c_fc.weight[:, dead] = 0
    mlp.c_fc.bias[dead] = -30  # nothing is left of it after the activation
    mlp.c_proj.weight[dead] *= 3000
    model.save_pretrained(checkpoint)


DEAD = {"int8": slice(0, 32), "int8-weights": slice(0, None, 8)}  # what is kept can hold the rest


@pytest.fixture(scope="module", params=DEAD)
def recipe(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def fragile(
    recipe: str, make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Model:
    checkpoint = make_checkpoint()
    break_a_layer(checkpoint, DEAD[recipe])
    bundle = export_checkpoint(checkpoint, tmp_path_factory.mktemp("fragile") / "gpt2")
    return load(bundle.folder, threads=1)


@pytest.fixture
def own_texts(fragile: Model, monkeypatch: pytest.MonkeyPatch) -> Sequence[Window]:
    """Windows of the model's own texts, so that any loss raises perplexity."""
    starts = np.random.default_rng(0).integers(1, 320, (8, 4)).tolist()
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "seed": 0, "max_new_tokens": 90}
    results = fragile.generate_ids(starts, eos_token_id=None, **options)
    pairs = zip(starts, results, strict=True)
    windows = [Window((), [*start, *result.token_ids], 4) for start, result in pairs]
    found = Texts("own", windows[0::2], windows[1::2], 96)
    monkeypatch.setattr(quantizing, "find_texts", lambda *arguments: found)
    return windows[1::2]


def test_the_broken_layer_is_kept(
    recipe: str, fragile: Model, own_texts: Sequence[Window], tmp_path: Path
) -> None:
    told: list[str] = []
    bundle = quantize_bundle(
        fragile.bundle.folder,
        tmp_path / "out",
        recipe=recipe,
        perplexity_rise_limit=0.05,
        progress=told.append,
    )
    quality = bundle.manifest.quantization.quality
    assert quality is not None
    assert bundle.manifest.quantization.kept.keys() == {LAYERS[-1]}
    assert quality.perplexity_rise <= 0.05
    assert any(message.startswith(f"keeping {LAYERS[-1]} in") for message in told)


def test_a_loss_beyond_the_limit_is_refused_unless_allowed(
    fragile: Model, own_texts: Sequence[Window], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"recipe": "int4", "perplexity_rise_limit": 1e-6}  # for any model
    out = tmp_path / "out"
    with pytest.raises(
        QuantizationError, match=r"^Perplexity rises by \d+\.\d\d%, more than the limit"
    ):
        quantize_bundle(fragile.bundle.folder, out, **options)
    assert list(tmp_path.iterdir()) == []
    bundle = quantize_bundle(fragile.bundle.folder, out, **options, allow_loss=True)
    quality = load(out, verify=True).bundle.manifest.quantization.quality
    assert quality is not None
    assert quality.perplexity_rise > quality.perplexity_rise_limit == 1e-6
    assert 1 <= len(bundle.manifest.quantization.kept) <= len(LAYERS) // 4


def test_output_inside_the_source_is_refused(bundle: Path, text: Path) -> None:
    for out in (bundle / "int8", bundle / "a" / "b"):
        refusal(
            BundleError, lambda out=out: quantize_bundle(bundle, out, text=text), match="inside"
        )
    assert not (bundle / "a").exists()
