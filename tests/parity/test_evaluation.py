"""Losses and comparisons: by hand on scripted decoders, and compared with PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import GPT2LMHeadModel, T5ForConditionalGeneration

from edgeseq.export import export_checkpoint
from edgeseq.runtime import BundleError, Model, load
from edgeseq.runtime.evaluation.losses import Comparison, Loss, compare, measure
from edgeseq.runtime.request.passages import Window, pair_window, text_windows

IDS = np.random.default_rng(5).integers(0, 320, 400).tolist()
WINDOWS = text_windows(IDS, 96, 40)
PAIRS = [
    pair_window(IDS[begin : begin + 30], IDS[begin + 30 : begin + 30 + length], [0])
    for begin, length in [(0, 5), (50, 1), (100, 250)]
]


class Constant:
    """A decoder with the same probabilities after every token."""

    def __init__(self, *probabilities: float) -> None:
        self._row = np.log(np.array(probabilities, np.float32))

    def read(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        return np.tile(self._row, (len(tokens), 1))


def always(*probabilities: float) -> Callable[..., Any]:
    return lambda prompts, capacity: Constant(*probabilities)


# By hand


def test_loss_by_hand() -> None:
    loss = measure(always(0.5, 0.25, 0.25), [Window((), [2, 0, 1], 1), Window((), [2, 1, 0, 0], 2)])
    assert loss.tokens == 4
    assert loss.nats == pytest.approx(math.log(2 * 4 * 2 * 2), rel=1e-6)
    assert loss.cross_entropy == pytest.approx(math.log(32) / 4, rel=1e-6)
    assert loss.perplexity == pytest.approx(32**0.25, rel=1e-6)
    assert loss.bits_per_byte(10) == pytest.approx(0.5, rel=1e-6)


def test_a_perplexity_beyond_all_floats() -> None:
    assert Loss(tokens=1, nats=1e4).perplexity == math.inf


def test_comparison_by_hand() -> None:
    windows = [Window((), [2, 0, 1], 1), Window((), [2, 1, 0], 2)]
    found = compare(always(0.5, 0.25, 0.25), always(0.25, 0.5, 0.25), windows)
    assert found.reference.nats == pytest.approx(math.log(2 * 4 * 2), rel=1e-6)
    assert found.candidate.nats == pytest.approx(math.log(4 * 2 * 4), rel=1e-6)
    expected = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert found.kl_divergence == pytest.approx(expected, rel=1e-6)
    assert found.top1_agreement == 0
    assert found.perplexity_rise == pytest.approx(2 ** (1 / 3) - 1, rel=1e-6)


def test_progress_counts_what_is_predicted() -> None:
    windows = text_windows(range(3), 2, 1) + text_windows([0, 1, 2] * 200, 500, 250)
    total = sum(window.predicted for window in windows)
    for call in (
        lambda progress: measure(always(0.5, 0.25, 0.25), windows, progress),
        lambda progress: compare(*[always(0.5, 0.25, 0.25)] * 2, windows, progress),
    ):
        counts: list[int] = []
        call(counts.append)
        assert sum(counts) == total
        assert len(counts) > len(windows)


def test_logits_that_are_no_numbers() -> None:
    with pytest.raises(BundleError, match="finite"):
        measure(always(0.5, math.nan, 0.5), WINDOWS)
    with pytest.raises(BundleError, match="finite"):
        compare(always(0.5, 0.25, 0.25), always(0.5, math.nan, 0.5), [Window((), [2, 0], 1)])


# Beside PyTorch


@torch.no_grad()
def gpt2_logs(reference: GPT2LMHeadModel, window: Window) -> torch.Tensor:
    """Return PyTorch's log-probabilities in a window, (predicted, vocabulary)."""
    logits = reference(torch.tensor([list(window.tokens[:-1])])).logits[0].double()
    return logits[window.first - 1 :].log_softmax(-1)


@torch.no_grad()
def t5_logs(reference: T5ForConditionalGeneration, window: Window) -> torch.Tensor:
    logits = reference(
        torch.tensor([list(window.source)]),
        decoder_input_ids=torch.tensor([list(window.tokens[:-1])]),
        use_cache=False,
    ).logits[0]
    return logits[window.first - 1 :].double().log_softmax(-1)


def loss_of(logs: Sequence[torch.Tensor], windows: Sequence[Window]) -> Loss:
    nats = -sum(
        float(log[range(window.predicted), list(window.tokens[window.first :])].sum())
        for log, window in zip(logs, windows, strict=True)
    )
    return Loss(tokens=sum(map(len, logs)), nats=nats)


def divergence_of(p: Sequence[torch.Tensor], q: Sequence[torch.Tensor]) -> float:
    both = torch.cat(list(p)), torch.cat(list(q))
    return float((both[0].exp() * (both[0] - both[1])).sum(-1).mean())


@pytest.mark.parametrize("windows", [WINDOWS[:1], WINDOWS], ids=["short", "long"])
def test_perplexity_is_that_of_transformers(
    model: Model, reference: GPT2LMHeadModel, windows: list[Window]
) -> None:
    expected = loss_of([gpt2_logs(reference, window) for window in windows], windows)
    found = measure(model.new_decoder, windows)
    assert found.tokens == expected.tokens == sum(window.predicted for window in windows)
    assert found.cross_entropy == pytest.approx(expected.cross_entropy, rel=1e-4)
    assert found.perplexity == pytest.approx(expected.perplexity, rel=1e-4)


def test_perplexity_is_the_loss_that_transformers_computes(
    model: Model, reference: GPT2LMHeadModel
) -> None:
    ids = torch.tensor([IDS[:96]])
    with torch.no_grad():
        expected = float(reference(ids, labels=ids).loss)
    found = measure(model.new_decoder, text_windows(IDS[:96], 96, 48))
    assert found.cross_entropy == pytest.approx(expected, rel=1e-5)


def test_perplexity_of_targets_is_that_of_transformers(
    t5_model: Model, t5_reference: T5ForConditionalGeneration
) -> None:
    expected = loss_of([t5_logs(t5_reference, window) for window in PAIRS], PAIRS)
    found = measure(t5_model.new_decoder, PAIRS)
    assert found.tokens == expected.tokens == 256
    assert found.cross_entropy == pytest.approx(expected.cross_entropy, rel=1e-4)
    assert found.perplexity == pytest.approx(expected.perplexity, rel=1e-4)
    for window in PAIRS:  # the labels' loss of each, as in training
        with torch.no_grad():
            labels = torch.tensor([list(window.tokens[1:])])
            loss = float(t5_reference(torch.tensor([list(window.source)]), labels=labels).loss)
        found = measure(t5_model.new_decoder, [window])
        assert found.cross_entropy == pytest.approx(loss, rel=1e-4)


def test_a_model_beside_itself(model: Model, t5_model: Model) -> None:
    for same, windows in (model, WINDOWS), (t5_model, PAIRS):
        found = compare(same.new_decoder, same.new_decoder, windows)
        assert found.kl_divergence == 0
        assert found.top1_agreement == 1
        assert found.perplexity_rise == 0
        assert found.reference == found.candidate
        assert found.candidate.nats == pytest.approx(measure(same.new_decoder, windows).nats)


@pytest.fixture(scope="module")
def changed(
    reference: GPT2LMHeadModel, make_checkpoint: Callable[..., Path], tmp_path_factory: Any
) -> tuple[GPT2LMHeadModel, Model]:
    """``reference`` with noise in one layer, in PyTorch and as a bundle."""
    folder = make_checkpoint()
    noisy = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
    torch.manual_seed(3)
    with torch.no_grad():
        weight = noisy.transformer.h[1].mlp.c_fc.weight
        weight.add_(0.03 * torch.randn(weight.shape))
    noisy.save_pretrained(folder)
    bundle = export_checkpoint(folder, tmp_path_factory.mktemp("changed") / "bundle")
    return noisy, load(bundle.folder, threads=1)


def test_a_changed_model_beside_its_reference(
    model: Model, reference: GPT2LMHeadModel, changed: tuple[GPT2LMHeadModel, Model]
) -> None:
    noisy, candidate = changed
    p = [gpt2_logs(reference, window) for window in WINDOWS]
    q = [gpt2_logs(noisy, window) for window in WINDOWS]
    found = compare(model.new_decoder, candidate.new_decoder, WINDOWS)
    expected = Comparison(
        reference=loss_of(p, WINDOWS),
        candidate=loss_of(q, WINDOWS),
        kl_divergence=divergence_of(p, q),
        top1_agreement=float((torch.cat(p).argmax(-1) == torch.cat(q).argmax(-1)).double().mean()),
    )
    assert found.kl_divergence > 0.001
    assert found.kl_divergence == pytest.approx(expected.kl_divergence, rel=1e-3)
    assert found.top1_agreement == expected.top1_agreement < 1
    assert found.reference.nats == pytest.approx(expected.reference.nats, rel=1e-5)
    assert found.candidate.nats == pytest.approx(expected.candidate.nats, rel=1e-5)
    assert found.perplexity_rise == pytest.approx(expected.perplexity_rise, rel=1e-2, abs=1e-4)
