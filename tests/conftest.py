"""Fixtures that many tests share: checkpoints and bundles, made once a run.

The fixtures that need Torch and Transformers import them, so that `tests/unit` runs without.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["HF_HUB_OFFLINE"] = "1"

if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # A core for each worker: threads that spin while they wait would slow the others down.
    cores = sorted(os.sched_getaffinity(0))
    worker = os.environ["PYTEST_XDIST_WORKER"]
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

import pytest

from edgeseq.runtime import Model, load
from edgeseq.runtime.bundle.reading import Bundle

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, T5ForConditionalGeneration

MakeCheckpoint = Callable[..., Path]


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """``make_checkpoint(seed, **config)``: the folder of a seeded GPT-2 with a tokenizer."""
    from tests.support.checkpoints import byte_level_tokenizer, seeded_gpt2

    def make(seed: int = 0, **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        seeded_gpt2(seed, **changes).save_pretrained(folder)
        byte_level_tokenizer().save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    """One checkpoint, not to be changed."""
    return make_checkpoint()


@pytest.fixture(scope="session")
def other_checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    """A checkpoint of other weights than ``checkpoint``, not to be changed."""
    return make_checkpoint(seed=1)


@pytest.fixture(scope="session")
def export_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Bundle]:
    """``export_once(checkpoint)``: its bundle in float32, made once a run, not to be changed."""
    from edgeseq.export import export_checkpoint

    @functools.cache
    def export(checkpoint: Path) -> Bundle:
        return export_checkpoint(checkpoint, tmp_path_factory.mktemp("exported") / "bundle")

    return export


@pytest.fixture(scope="session")
def quantize_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """``quantize_once(bundle, recipe, **options)``: made once a run, not to be changed."""
    from edgeseq.quantize import quantize_bundle

    made: dict[str, Bundle] = {}

    def quantize(bundle: Path, recipe: str, **options: Any) -> Bundle:
        key = repr((bundle, recipe, sorted(options.items())))
        if key not in made:
            out = tmp_path_factory.mktemp("quantized") / "bundle"
            made[key] = quantize_bundle(bundle, out, recipe=recipe, **options)
        return made[key]

    return quantize


@pytest.fixture(scope="session")
def demo_gpt2() -> Model:
    """The demo GPT-2 that comes with the package; ``load`` opens it unless told otherwise."""
    return load(verify=True)


@pytest.fixture(scope="session")
def demo_t5() -> Model:
    """The demo T5 that comes with the package."""
    return load(demo="t5", verify=True)


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of ``checkpoint``, not to be changed."""
    from edgeseq.export import export_checkpoint

    return export_checkpoint(checkpoint, tmp_path_factory.mktemp("bundle") / "gpt2").folder


@pytest.fixture(scope="session")
def nllb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a small NLLB with random weights, whose texts end; not to be changed."""
    from edgeseq.export import export_checkpoint
    from tests.support.translators import save_nllb

    folder = tmp_path_factory.mktemp("nllb")
    save_nllb(folder, exponential_decay_length_penalty=(4, 2.0))
    return export_checkpoint(folder, folder / "bundle").folder


@pytest.fixture(scope="session")
def model(bundle: Path) -> Model:
    """``bundle``, loaded."""
    return load(bundle, threads=1)


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> GPT2LMHeadModel:
    """``checkpoint`` in Transformers, with eager attention."""
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(checkpoint, attn_implementation="eager").eval()


@pytest.fixture(scope="session")
def greedy_ids() -> Callable[..., list[int]]:
    """``greedy_ids(reference, prompt, max_new_tokens, **options)``."""
    from tests.support.checkpoints import greedy_ids

    return greedy_ids


@pytest.fixture(scope="session")
def seeded_gpt2() -> Callable[..., GPT2LMHeadModel]:
    """``seeded_gpt2(seed, **config)``."""
    from tests.support.checkpoints import seeded_gpt2

    return seeded_gpt2


@pytest.fixture(scope="session")
def seeded_t5() -> Callable[..., T5ForConditionalGeneration]:
    """``seeded_t5(seed, model_type="t5" or "mt5", **config)``."""
    from tests.support.checkpoints import seeded_t5

    return seeded_t5


@pytest.fixture(scope="session")
def save_t5(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``save_t5(model)``: its checkpoint, with ByT5's tokenizer if the vocabulary is as large."""
    from transformers import ByT5Tokenizer

    from tests.support.checkpoints import unigram_tokenizer

    def save(model: T5ForConditionalGeneration) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        model.save_pretrained(folder)
        bytes_fit = model.config.vocab_size >= 384
        tokenizer = ByT5Tokenizer() if bytes_fit else unigram_tokenizer()
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def t5_reference(
    seeded_t5: Callable[..., T5ForConditionalGeneration],
) -> T5ForConditionalGeneration:
    """One T5, not to be changed."""
    return seeded_t5()


@pytest.fixture(scope="session")
def t5_checkpoint(t5_reference: T5ForConditionalGeneration, save_t5: Callable[..., Path]) -> Path:
    """The checkpoint of ``t5_reference``, not to be changed."""
    return save_t5(t5_reference)


@pytest.fixture(scope="session")
def t5_model(t5_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """``t5_checkpoint``, exported and loaded."""
    from edgeseq.export import export_checkpoint

    bundle = export_checkpoint(t5_checkpoint, tmp_path_factory.mktemp("bundle") / "t5")
    return load(bundle.folder, threads=1)


@pytest.fixture(scope="session")
def t5_ids() -> Callable[..., list[list[int]]]:
    """``t5_ids(reference, sources, **options)``."""
    from tests.support.checkpoints import t5_ids

    return t5_ids


@pytest.fixture(scope="session")
def t5_logits() -> Callable[..., Any]:
    """``t5_logits(reference, source, decoder_ids)``."""
    from tests.support.checkpoints import t5_logits

    return t5_logits
