"""The quality gate on models of each form that were trained a little on a text.

A random model predicts nothing, so its loss hardly changes whatever the weights are rounded to.
"""

from __future__ import annotations

import functools
import shutil
from collections import Counter
from collections.abc import Callable
from math import log
from pathlib import Path

import pytest

from edgeseq.export import export_checkpoint
from edgeseq.quantize import quantize_bundle
from edgeseq.runtime.bundle.reading import Bundle
from edgeseq.runtime.evaluation.losses import Comparison, compare
from edgeseq.runtime.loading import open_tokenizer
from edgeseq.runtime.ort.engine import open_engine
from edgeseq.runtime.request.passages import Window, read_passages
from tests.support.trained_models import (
    FORMS,
    Texts,
    add_outliers,
    trained_checkpoint,
    write_texts,
)


def windows_of(bundle: Bundle, text: Path) -> list[Window]:
    return list(read_passages(text, bundle.manifest, open_tokenizer(bundle)).windows)


def frequency_loss(training: list[Window], held_out: list[Window]) -> float:
    """Return the nats per token of a model that knows only how frequent each token is."""
    counts = Counter(token for w in training for token in w.tokens[w.first :])
    total = counts.total() + len(counts)
    tokens = [token for w in held_out for token in w.tokens[w.first :]]
    return sum(log(total / (counts[token] + 1)) for token in tokens) / len(tokens)


def held_out_loss(source: Bundle, quantized: Bundle, windows: list[Window]) -> Comparison:
    reference, candidate = (
        open_engine(bundle.manifest, bundle.folder, threads=1).decoder
        for bundle in (source, quantized)
    )
    return compare(reference, candidate, windows)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Texts]]:
    @functools.cache
    def train(form: str) -> tuple[Path, Texts]:
        folder = tmp_path_factory.mktemp("trained")
        texts = write_texts(folder, pairs=form.startswith(("t5", "bart", "mbart")))
        return trained_checkpoint(form, texts, folder / "checkpoint"), texts

    return train


def check_int8(checkpoint: Path, texts: Texts, folder: Path, *, most_divergence: float) -> None:
    """Quantize to ``int8``; check what the gate says, and the loss on text that it did not see."""
    source = export_checkpoint(checkpoint, folder / "bundle")
    quantized = quantize_bundle(
        source.folder, folder / "int8", recipe="int8", text=texts.training, threads=1
    )
    details = quantized.manifest.quantization
    quality = details.quality
    assert quality is not None
    assert (details.kept, quantized.manifest.kv_cache.dtype) == ({}, "int8")
    assert abs(quality.perplexity_rise) < quality.perplexity_rise_limit == 0.005
    held_out = windows_of(source, texts.held_out)
    measured = held_out_loss(source, quantized, held_out)
    without_context = frequency_loss(windows_of(source, texts.training), held_out)
    assert measured.reference.cross_entropy < without_context - 0.3  # it has learned
    assert abs(measured.perplexity_rise) < 0.005
    assert measured.kl_divergence < most_divergence
    assert measured.top1_agreement > 0.96


@pytest.mark.parametrize("form", FORMS)
def test_int8_keeps_what_a_model_has_learned(
    form: str, trained: Callable[[str], tuple[Path, Texts]], tmp_path: Path
) -> None:
    check_int8(*trained(form), tmp_path, most_divergence=0.001)


@pytest.mark.parametrize("form", ["opt, norms first", "mbart, norms first"])
def test_int8_keeps_it_beside_outlier_channels(
    form: str, trained: Callable[[str], tuple[Path, Texts]], tmp_path: Path
) -> None:
    checkpoint, texts = trained(form)
    copy = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    model = FORMS[form].kind.model.from_pretrained(copy)
    add_outliers(model)
    model.save_pretrained(copy)
    check_int8(copy, texts, tmp_path, most_divergence=0.001)
