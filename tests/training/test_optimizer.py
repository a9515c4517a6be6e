"""training/trainer/optimizer.py: Muon for hidden matrices, AdamW for the rest."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from edgeseq.training.trainer.optimizer import MuonAdamW, hidden_matrices, orthogonalized
from tests.support.checkpoints import seeded_gpt2, seeded_t5

SETTINGS: dict[str, Any] = {
    "lr": 0.01,
    "other_lr": 0.02,
    "weight_decay": 0.1,
    "betas": (0.9, 0.98),
    "eps": 1e-8,
}


def parameters(*shapes: tuple[int, ...]) -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def train_steps(optimizer: torch.optim.Optimizer, weights: list[Parameter], seeds: range) -> None:
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()


def test_other_parameters_follow_torchs_adamw() -> None:
    own, theirs = parameters((5,), (3, 4)), parameters((5,), (3, 4))
    train_steps(MuonAdamW([], own, **SETTINGS), own, range(4))
    adamw = torch.optim.AdamW(theirs, lr=0.02, betas=(0.9, 0.98), weight_decay=0.0)
    train_steps(adamw, theirs, range(4))
    for weight, expected in zip(own, theirs, strict=True):
        torch.testing.assert_close(weight, expected)


def test_matrices_follow_torchs_muon_up_to_bfloat16() -> None:
    shapes = (16, 24), (24, 16), (16, 24)
    own, theirs = parameters(*shapes), parameters(*shapes)
    train_steps(MuonAdamW(own, [], **SETTINGS), own, range(3))
    muon = torch.optim.Muon(
        theirs, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    train_steps(muon, theirs, range(3))
    for weight, expected in zip(own, theirs, strict=True):
        torch.testing.assert_close(weight, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (8, 8)])
def test_directions_have_singular_values_of_about_one(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    found = orthogonalized(torch.randn(2, *shape, generator=generator))
    values = torch.linalg.svdvals(found)
    assert 0.6 < values.min() <= values.max() < 1.3


def test_a_saved_state_continues_alike() -> None:
    straight, resumed = parameters((6, 4), (5,)), parameters((6, 4), (5,))
    first = MuonAdamW(straight[:1], straight[1:], **SETTINGS)
    train_steps(first, straight, range(6))
    before = MuonAdamW(resumed[:1], resumed[1:], **SETTINGS)
    train_steps(before, resumed, range(3))
    after = MuonAdamW(resumed[:1], resumed[1:], **SETTINGS)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    train_steps(after, resumed, range(3, 6))
    for weight, expected in zip(resumed, straight, strict=True):
        assert torch.equal(weight, expected)


@pytest.mark.parametrize("model", [seeded_gpt2(), seeded_t5()], ids=["gpt2", "t5"])
def test_embeddings_and_heads_are_no_hidden_matrices(model: Any) -> None:
    matrices, others = hidden_matrices(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(".h." in names[id(p)] or ".block." in names[id(p)] for p in matrices)
    assert not any("bias" in names[id(parameter)] for parameter in matrices)
    assert len(matrices) + len(others) == len(list(model.parameters()))
