"""training/trainer/memory.py: what a run needs, and what to change if it is too much."""

from __future__ import annotations

import pytest

from edgeseq.runtime.errors import TrainingError
from edgeseq.training.tokens.examples import Collator
from edgeseq.training.trainer.memory import RESERVE, Estimate, check_memory, estimate
from tests.support.checkpoints import seeded_gpt2, seeded_t5
from tests.support.errors import assert_one_sentence

NEED = Estimate(gradients=100, optimizer=200, per_row=1000)


def refused(available: int, *, rows: int = 8, has_lora: bool = False) -> str:
    with pytest.raises(TrainingError) as raised:
        check_memory(
            NEED,
            rows=rows,
            accumulation=2,
            available=RESERVE + available,
            has_lora=has_lora,
            report=lambda line: None,
        )
    assert_one_sentence(str(raised.value))
    return str(raised.value)


def test_the_need_is_said_before_training() -> None:
    lines: list[str] = []
    check_memory(
        NEED, rows=8, accumulation=1, available=2 * RESERVE, has_lora=False, report=lines.append
    )
    assert lines == ["training needs about 0.419 GB of memory; 0.839 GB are available"]


def test_a_smaller_batch_with_as_many_rows_in_an_update_is_proposed() -> None:
    message = refused(300 + 4 * 1000)
    assert "--trainer.per_device_train_batch_size 4 " in message
    assert "--trainer.gradient_accumulation_steps 4" in message


def test_lora_is_proposed_if_one_row_alone_fits() -> None:
    assert "LoRA" in refused(1100)
    assert "shorter" in refused(1100, has_lora=True)


def test_shorter_texts_are_proposed_if_nothing_else_helps() -> None:
    assert "shorter" in refused(500)


def test_longer_rows_and_larger_vocabularies_need_more() -> None:
    collate = Collator(0, None)
    model = seeded_gpt2()
    needs = [estimate(model, "adamw_torch", (n, n), collate).per_row for n in (8, 16)]
    assert needs[1] > 1.8 * needs[0]
    larger = estimate(seeded_gpt2(vocab_size=3000), "adamw_torch", (16, 16), collate)
    assert larger.per_row > needs[1] + 2 * 16 * 4 * (3000 - 320)


def test_muon_keeps_half_of_adamws_states_and_frozen_weights_keep_none() -> None:
    model, collate = seeded_t5(), Collator(0, 0)
    adamw = estimate(model, "adamw_torch", (5, 4), collate)
    muon = estimate(model, "muon", (5, 4), collate)
    assert adamw.optimizer == 2 * muon.optimizer == 2 * adamw.gradients
    for parameter in model.encoder.parameters():
        parameter.requires_grad = False
    assert estimate(model, "muon", (5, 4), collate).gradients < muon.gradients
